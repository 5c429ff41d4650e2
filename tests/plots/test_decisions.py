"""The picture of decisions: errors of the surest answers, sizes of sets, p-values."""

import numpy as np
import pytest

from pictures import read
from regraft.plots import decisions
from regraft.plots.decisions import DrawnDecisions, KnownAnswers, draw_decisions, errors_of

MARK = np.array([213, 94, 0])  # figure.WRONG


def answers(n=40, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1, n).astype(np.float32)
    return KnownAnswers(f"{n} images", confidence, rng.random(n) < confidence)


def drawn(**changes):
    tested = answers()
    numbers = {
        "tested": tested,
        "fitted": answers(80, 1),
        "kept": tested.confidence > 0.5,
        "sizes": np.array([1] * 30 + [2] * 10),
        "coverage": 0.9,
        "aimed_at": 0.95,
        "p_values": np.linspace(0.01, 1, 40),
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


def test_the_point_of_a_promise_is_where_its_answers_are(monkeypatch, tmp_path):
    numbers = drawn()
    errors = axes_of(monkeypatch, tmp_path, numbers)[0]
    (point,) = [line for line in errors.lines if line.get_marker() == "D"]
    right = numbers.tested.right[numbers.kept]
    assert point.get_xdata() == pytest.approx([len(right) / 40])
    assert point.get_ydata() == pytest.approx([(~right).sum() / len(right)])


@pytest.mark.parametrize("kept", [None, np.zeros(40, bool)], ids=["not asked", "none"])
def test_without_answers_of_a_promise_there_is_no_point(kept, monkeypatch, tmp_path):
    errors = axes_of(monkeypatch, tmp_path, drawn(kept=kept))[0]
    assert not [line for line in errors.lines if line.get_marker() == "D"]


def test_bars_hold_every_image_once(monkeypatch, tmp_path):
    rng = np.random.default_rng(4)
    for sizes in (np.array([3]), rng.integers(1, 6, 40), rng.integers(1, 900, 40)):
        numbers = drawn(sizes=sizes, p_values=rng.random(40))
        _, of_sizes, of_p_values = axes_of(monkeypatch, tmp_path, numbers)
        for axes in (of_sizes, of_p_values):
            bars = [patch for patch in axes.patches if patch.get_facecolor()[3] == 1]
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
    axes = axes_of(monkeypatch, tmp_path, drawn(fitted=none, kept=None))[0]
    assert [line.get_label() for line in axes.lines] == ["40 images"]


def test_the_picture_is_written(tmp_path):
    draw_decisions(tmp_path / "d.png", drawn())
    picture = read(tmp_path / "d.png").astype(int)
    assert (np.abs(picture - MARK).sum(axis=2) < 10).sum() > 50
    assert [file.name for file in tmp_path.iterdir()] == ["d.png"]
