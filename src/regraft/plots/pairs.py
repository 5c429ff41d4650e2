"""Pairs of images that are nearly the same, side by side: duplicates.png."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from regraft.plots.figure import new_figure, write_figure
from regraft.plots.text import as_written, label, labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SHOWN = 24  # pairs in a figure
_COLUMNS = 3
_SIDE, _GAP, _WORDS = 1.3, 0.1, 0.42  # inches: a picture, between two, the line below


class Shown(NamedTuple):
    """One pair of images, with a line below each."""

    left: NDArray[np.uint8]  # (H, W, 3)
    right: NDArray[np.uint8]
    below_left: str
    below_right: str


def pair_grid(path: Path, pairs: Sequence[Shown], title: str) -> None:
    """Draw pairs of images side by side, each image with its line below; at most 24 pairs."""
    pairs = pairs[:SHOWN]
    below = iter(labels([line for pair in pairs for line in (pair[2], pair[3])], 24))
    columns = max(min(_COLUMNS, len(pairs)), 2)  # one column is narrower than the title
    rows = -(-len(pairs) // columns)
    cell = 2 * _SIDE + 3 * _GAP
    width, height = columns * (cell + _GAP) + _GAP, rows * (_SIDE + _WORDS) + 0.5
    figure = new_figure(width, height)
    figure.text(
        _GAP / width, 1 - 0.28 / height, label(title, 30 * columns), size=9, va="center",
        **as_written(),
    )  # fmt: skip
    for number, pair in enumerate(pairs):
        row, column = divmod(number, columns)
        y = height - 0.5 - row * (_SIDE + _WORDS) - _SIDE
        for side, image in enumerate((pair.left, pair.right)):
            x = _GAP + column * (cell + _GAP) + side * (_SIDE + _GAP)
            axes = figure.add_axes((x / width, y / height, _SIDE / width, _SIDE / height))
            axes.imshow(image, aspect="equal")
            axes.set_axis_off()
            figure.text(
                x / width, (y - 0.07) / height, next(below), size=6, va="top", **as_written()
            )
    write_figure(figure, path)
