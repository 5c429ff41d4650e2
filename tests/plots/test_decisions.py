"""The picture of decisions: errors of the surest answers, sizes of sets, p-values."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from pictures import read
from regraft.plots import decisions
from regraft.plots.decisions import DrawnDecisions, KnownAnswers, draw_decisions, errors_of
from regraft.plots.figure import RIGHT

MARK = np.array([213, 94, 0])  # figure.WRONG


def answers(n=40, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1, n).astype(np.float32)
    return KnownAnswers(f"{n} images", confidence, rng.random(n) < confidence)


def drawn(**changes):
    numbers = {
        "tested": answers(),
        "fitted": answers(80, 1),
        "answered": (0.75, 0.1),
        "promised": 0.95,
        "sizes": np.array([1] * 30 + [2] * 10),
        "held": "0.900 of the sets hold the true one,\n0.95 aimed at",
        "p_values": np.linspace(0.01, 1, 40),
        "level": 0.01,
    }
    return DrawnDecisions(**numbers | changes)


def axes_of(monkeypatch, tmp_path, numbers):
    """Return the axes of the figure that is written."""
    found = []
    monkeypatch.setattr(decisions, "write_figure", lambda figure, _: found.extend(figure.axes))
    draw_decisions(tmp_path / "d.png", numbers)
    return found


def test_the_error_of_the_surest_answers_is_that_of_each_threshold():
    """Every threshold that is a confidence, tried in turn: what reaches it is answered."""
    rng = np.random.default_rng(3)
    confidence = rng.choice([0.4, 0.5, 0.7, 0.8, 0.95], 30).astype(np.float32)
    right = rng.random(30) < confidence
    expected = [
        (np.mean(confidence >= least), np.mean(~right[confidence >= least]))
        for least in sorted(set(confidence.tolist()), reverse=True)
    ]
    shares, errors = errors_of(KnownAnswers("", confidence, right))
    assert np.allclose(np.column_stack([shares, errors]), expected)


def points(axes):
    return [line for line in axes.lines if line.get_marker() == "D"]


def test_the_point_of_what_is_answered_is_where_it_was_measured(monkeypatch, tmp_path):
    (point,) = points(axes_of(monkeypatch, tmp_path, drawn())[0])
    assert (point.get_xdata(), point.get_ydata()) == ([0.75], [0.1])
    assert not points(axes_of(monkeypatch, tmp_path, drawn(answered=None))[0])
    (none,) = points(axes_of(monkeypatch, tmp_path, drawn(answered=(0.0, np.nan)))[0])
    assert none.get_label() == "no image is answered"


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_legends_name_all_lines_and_the_number_of_images(monkeypatch, tmp_path):
    assert [legend_of(axes) for axes in axes_of(monkeypatch, tmp_path, drawn())] == [
        [
            "80 images, n = 80", "40 images, n = 40", "error that is aimed at: 0.05",
            "answered: 0.750, error 0.100",
        ],
        ["0.900 of the sets hold the true one,\n0.95 aimed at", "test images, n = 40"],
        [
            "by chance, all bars end in here (95 of 100 times)",
            "expected of images like those of the training",
            "level 0.01: left of it, images are unknown", "test images, n = 40",
        ],
    ]  # fmt: skip
    plain = axes_of(monkeypatch, tmp_path, drawn(answered=None, promised=None, level=None))
    assert legend_of(plain[0]) == ["80 images, n = 80", "40 images, n = 40"]
    assert len(legend_of(plain[2])) == 3


@pytest.mark.parametrize("n", [1, 9, 400])
def test_legends_cover_nothing(n, monkeypatch, tmp_path):
    some = answers(n)
    numbers = drawn(tested=some, sizes=np.full(n, 2), p_values=np.linspace(0.001, 1, n))
    figures = []
    monkeypatch.setattr(decisions, "write_figure", lambda figure, _: figures.append(figure))
    draw_decisions(tmp_path / "d.png", numbers)
    figures[0].canvas.draw()
    page = figures[0].bbox
    for axes in figures[0].axes:
        legend, panel = axes.get_legend().get_window_extent(), axes.get_window_extent()
        words = axes.xaxis.get_label().get_window_extent()
        assert 0 <= legend.y0 < legend.y1 < min(panel.y0, words.y0)
        assert legend.x1 < page.x1
    legends = [axes.get_legend().get_window_extent() for axes in figures[0].axes]
    assert all(one.x1 < after.x0 for one, after in pairwise(legends))


def test_by_chance_all_bars_are_in_the_band_in_95_of_100_pictures(monkeypatch, tmp_path):
    rng, inside = np.random.default_rng(5), 0
    for _ in range(60):
        axes = axes_of(monkeypatch, tmp_path, drawn(p_values=rng.random(200)))[2]
        band, *bars = axes.patches
        low, high = band.get_y(), band.get_y() + band.get_height()
        inside += all(low <= bar.get_height() <= high for bar in bars)
    assert 52 <= inside <= 60


def bars_of(axes):
    blue = to_rgba(RIGHT)
    return [patch for patch in axes.patches if patch.get_facecolor() == blue]


def test_bars_hold_every_image_once(monkeypatch, tmp_path):
    rng = np.random.default_rng(4)
    for sizes in (np.array([3]), rng.integers(1, 6, 40), rng.integers(1, 900, 40)):
        numbers = drawn(sizes=sizes, p_values=rng.random(40))
        _, of_sizes, of_p_values = axes_of(monkeypatch, tmp_path, numbers)
        for axes in (of_sizes, of_p_values):
            bars = bars_of(axes)
            assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
            assert len(bars) <= 20


def test_a_bar_stands_at_the_size_of_its_sets(monkeypatch, tmp_path):
    axes = axes_of(monkeypatch, tmp_path, drawn())[1]
    bars = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in axes.patches}
    assert bars == pytest.approx({1: 0.75, 2: 0.25})


def test_without_p_values_two_panels_are_left(monkeypatch, tmp_path):
    assert len(axes_of(monkeypatch, tmp_path, drawn(p_values=None))) == 2


def test_without_answers_of_the_training_the_curve_of_the_test_is_left(monkeypatch, tmp_path):
    none = KnownAnswers("none", np.empty(0, np.float32), np.empty(0, bool))
    axes = axes_of(monkeypatch, tmp_path, drawn(fitted=none))[0]
    assert legend_of(axes)[0] == "40 images, n = 40"


def test_the_picture_is_written(tmp_path):
    draw_decisions(tmp_path / "d.png", drawn())
    picture = read(tmp_path / "d.png").astype(int)
    assert (np.abs(picture - MARK).sum(axis=2) < 10).sum() > 50
    assert [file.name for file in tmp_path.iterdir()] == ["d.png"]
