"""Images in rows of those that are alike: unknown.png."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from regraft.plots.figure import draw_text, new_figure, write_figure
from regraft.plots.grid import Box, draw_framed
from regraft.plots.text import label, labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SHOWN = 12  # rows in a picture
IN_A_ROW = 8  # images
#: Inches: side of a square cell for an image, the line above a row, the name below, the gap.
_CELL, _LINE, _NAME, _GAP = 1.2, 0.28, 0.14, 0.12
_TITLE = 0.5
_LONGEST_NAME = 24  # columns


class Row(NamedTuple):
    """Images that are alike, a line above them and a name below each."""

    line: str
    images: list[NDArray[np.uint8]]  # (H, W, 3) RGB of any size
    names: list[str]


def draw_rows(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw a row for each group of at most 8 images, each under its line; at most 12 rows."""
    rows = rows[:SHOWN]
    width = _GAP + IN_A_ROW * (_CELL + _GAP)
    each = _LINE + _CELL + _NAME + _GAP
    height = _TITLE + len(rows) * each
    every = [name for row in rows for name in row.names]
    short = dict(zip(every, labels(every, _LONGEST_NAME), strict=True))
    figure = new_figure(width, height)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))  # in inches
    page.set_autoscale_on(False)
    page.axis("off")
    draw_text(figure, (_GAP / width, 1 - 0.25 / height), label(title, 100), size=11, va="center")
    for number, row in enumerate(rows):
        top = height - _TITLE - number * each
        at = (_GAP / width, (top - _LINE / 2) / height)
        draw_text(figure, at, label(row.line, 120), size=9, va="center")
        for column, (image, name) in enumerate(zip(row.images, row.names, strict=True)):
            cell = Box(_GAP + column * (_CELL + _GAP), top - _LINE, _CELL, _CELL)
            draw_framed(page, image, cell)
            at = (cell.left / width, (cell.bottom - _NAME / 2) / height)
            draw_text(figure, at, short[name], size=6, va="center", color="0.4")
    write_figure(figure, path)
