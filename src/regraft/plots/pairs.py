"""A figure of image pairs that are nearly the same, side by side; no torch."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from regraft.core.files import write_atomic
from regraft.plots.grid import DPI
from regraft.plots.text import families, label

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SHOWN = 24  # pairs in a figure
_COLUMNS = 3
_SIDE, _GAP, _WORDS = 1.3, 0.1, 0.42  # inches: a picture, between two, the lines below


class Shown(NamedTuple):
    """One pair: two images of shape (H, W, 3), uint8, with a line for each, and one for both."""

    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    below_left: str
    below_right: str


def pair_grid(path: Path, pairs: Sequence[Shown], title: str) -> None:
    """Draw pairs of images side by side, each image with its own line below.

    Parameters
    ----------
    path : Path
        PNG file to write; replaced as a whole.
    pairs : sequence of Shown
        At most 24 are drawn, the first ones.
    title : str
        Over the whole.

    Raises
    ------
    DiskFullError, InputError
        Where the file cannot be written.
    """
    pairs = pairs[:SHOWN]
    columns = max(min(_COLUMNS, len(pairs)), 2)  # else narrower than the title
    rows = -(-len(pairs) // columns)
    cell = 2 * _SIDE + 3 * _GAP
    width, height = columns * (cell + _GAP) + _GAP, rows * (_SIDE + _WORDS) + 0.5
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(
        _GAP / width, 1 - 0.28 / height, label(title, 30 * columns), size=9, va="center",
        parse_math=False, fontfamily=list(families()),
    )  # fmt: skip
    for place, pair in enumerate(pairs):
        row, column = divmod(place, columns)
        y = height - 0.5 - row * (_SIDE + _WORDS) - _SIDE
        for side, (image, words) in enumerate(
            ((pair.left, pair.below_left), (pair.right, pair.below_right))
        ):
            x = _GAP + column * (cell + _GAP) + side * (_SIDE + _GAP)
            axes = figure.add_axes((x / width, y / height, _SIDE / width, _SIDE / height))
            axes.imshow(image, aspect="equal")
            axes.set_axis_off()
            figure.text(
                x / width, (y - 0.07) / height, label(words, 24), size=6, va="top",
                parse_math=False, fontfamily=list(families()),
            )  # fmt: skip
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white", metadata={"Software": None})
    write_atomic(path, stream.getvalue())
