"""The penalties that were tried: the choice is marked, and the axes show what can be."""

import numpy as np

from pictures import read
from regraft.plots import penalties
from regraft.plots.penalties import draw_penalties


def history(n=5):
    return [
        {
            "penalty": 10.0**k,
            "log_loss": 0.4 + 0.05 * (k - 1) ** 2,
            "accuracy": 0.9,
            "log_loss_se": 0.02,
            "chosen": k == 1,
        }
        for k in range(n)
    ]


def test_the_chosen_penalty_is_marked(tmp_path):
    draw_penalties(tmp_path / "chosen.png", history())
    draw_penalties(tmp_path / "none.png", [{**row, "chosen": False} for row in history()])
    marked = np.array([213, 94, 0])  # figure.WRONG

    def marks(name):
        return (np.abs(read(tmp_path / name).astype(int) - marked).sum(axis=2) < 10).sum()

    assert marks("chosen.png") > 50
    assert marks("none.png") == 0


def test_where_nothing_was_chosen_there_is_no_picture(tmp_path):
    draw_penalties(tmp_path / "c.png", [])
    draw_penalties(tmp_path / "c.png", history(1))
    assert not list(tmp_path.iterdir())


def axes_of(monkeypatch, tmp_path, rows):
    """Return the axes of the figure that is written."""
    drawn = []
    monkeypatch.setattr(penalties, "write_figure", lambda figure, _: drawn.extend(figure.axes))
    draw_penalties(tmp_path / "c.png", rows)
    return drawn


def test_the_axes_show_what_can_be(monkeypatch, tmp_path):
    """No accuracy above 1, no log-loss below 0, and no zoom into the rounding of equal values."""
    rows = [{**row, "accuracy": 1.0, "log_loss": 0.01, "log_loss_se": 0.02} for row in history()]
    loss, accuracy = axes_of(monkeypatch, tmp_path, rows)
    assert loss.get_ylim()[0] == 0
    assert accuracy.get_ylim()[1] == 1
    assert accuracy.get_ylim()[0] <= 0.95
    assert loss.get_xscale() == "log"


def test_whole_numbers_are_named_on_the_axis(monkeypatch, tmp_path):
    rows = [
        {"neighbours": k, "log_loss": 0.4, "accuracy": 0.9, "chosen": k == 2} for k in (1, 2, 5)
    ]
    _, accuracy = axes_of(monkeypatch, tmp_path, rows)
    assert [text.get_text() for text in accuracy.get_xticklabels()] == ["1", "2", "5"]
