"""A confusion matrix: confusion.png."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.colors import PowerNorm

from regraft.plots.figure import draw_text, new_figure, write_figure
from regraft.plots.text import as_written, labels, width_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MANY = 30  # classes from which on numbers in cells cannot be read
LISTED = 20  # worst confusions beside a matrix of many classes


def draw_confusion(
    path: Path,
    counts: NDArray[np.int64],  # (K, K), a row is a true class
    classes: Sequence[str],
) -> None:
    """Draw how often each true class was predicted as each class.

    The colour of a cell is its share of the true class. Up to 29 classes have numbers in their
    cells; for more, the worst confusions are listed beside the matrix.
    """
    counts, n_classes = np.asarray(counts), len(classes)
    if counts.shape != (n_classes, n_classes):
        raise ValueError(f"counts has shape {counts.shape}; there are {n_classes} classes")
    many = n_classes >= MANY
    totals = counts.sum(axis=1)
    # A class without test images has no shares: its row stays grey.
    shares = np.full(counts.shape, np.nan)
    np.divide(counts, totals[:, None], out=shares, where=totals[:, None] > 0)
    names = labels(classes, 16 if many else 22)

    page = _Page.fitted_to(names, many=many)
    figure = new_figure(page.width, page.height)
    axes = figure.add_axes(page.matrix())
    colours = mpl.colormaps["Blues"].with_extremes(bad="0.9")
    # The power makes rare confusions visible: one image of 100 would be nearly white.
    cells = axes.imshow(shares, cmap=colours, norm=PowerNorm(0.4, 0, 1), interpolation="nearest")
    _write_classes(axes, names, page.side)
    colour_axes = figure.add_axes(page.colour_bar())
    figure.colorbar(cells, cax=colour_axes)
    _write_shares(colour_axes)
    if many:
        _list_worst(figure, page, counts, totals, names)
    else:
        _write_counts(axes, counts, shares, page.side / n_classes)
    n, n_right = int(counts.sum()), int(np.trace(counts))
    share = f" ({n_right / n:.1%})" if n else ""
    axes.set_title(f"{n_right:,} of {n:,} right{share}", fontsize=10, loc="left")
    write_figure(figure, path, margin=0.12)


class _Page(NamedTuple):
    """Where the matrix is on the page, in inches from the lower left corner."""

    width: float
    height: float
    left: float  # of the matrix
    bottom: float
    side: float

    @classmethod
    def fitted_to(cls, names: Sequence[str], *, many: bool) -> _Page:
        """Leave room for the longest name, and for a list where there are many classes."""
        side = float(np.clip(0.62 * len(names), 2.4, 7.5))
        left = 0.55 + 0.085 * max(width_of(name) for name in names)
        bottom = left + 0.1
        right = 5.0 if many else 1.2
        return cls(left + side + right, bottom + side + 0.6, left, bottom, side)

    def matrix(self) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height of the matrix, as shares of the page."""
        return self._shares(self.left, self.side)

    def colour_bar(self) -> tuple[float, float, float, float]:
        """Return the same of the bar of colours to the right of the matrix."""
        return self._shares(self.left + self.side + 0.15, 0.12)

    def _shares(self, left: float, width: float) -> tuple[float, float, float, float]:
        bottom, height = self.bottom / self.height, self.side / self.height
        return left / self.width, bottom, width / self.width, height


def _write_classes(axes: Axes, names: Sequence[str], side: float) -> None:
    """Write class names along both sides, as many as can be read."""
    size = float(np.clip(72 * side / len(names) * 0.62, 6, 9))  # points
    every = max(1, int(np.ceil(len(names) * size * 1.15 / (72 * side))))
    ticks = np.arange(0, len(names), every)
    shown = names[::every]
    style: dict[str, Any] = {"fontsize": size, **as_written()}
    axes.set_yticks(ticks, shown, **style)
    if max(map(width_of, shown)) * size * 0.62 > 72 * side / len(names) * every:
        few = len(names) <= 12
        style |= {"rotation": 45 if few else 90, "ha": "right" if few else "center"}
        style |= {"rotation_mode": "anchor"} if few else {}
    axes.set_xticks(ticks, shown, **style)
    axes.tick_params(length=2, color="0.6")
    axes.spines[:].set_color("0.6")
    axes.set_xlabel("predicted class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)


def _write_shares(axes: Axes) -> None:
    """Write shares beside the colours; they are not evenly spaced."""
    axes.set_yticks([0, 0.01, 0.1, 0.25, 0.5, 1], ["0", ".01", ".1", ".25", ".5", "1"])
    axes.tick_params(labelsize=7, length=2)
    axes.set_ylabel("share of the true class", fontsize=8)
    axes.spines[:].set_visible(False)


def _write_counts(
    axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float
) -> None:
    """Draw lines between cells, and write counts into them if the longest one fits."""
    digits = len(str(counts.max()))
    size = min(11.0, 72 * cell * 0.9 / (0.64 * max(digits, 2)))  # points
    axes.set_xticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    if size < 4:
        return
    for true, predicted in zip(*np.nonzero(counts), strict=True):
        dark = shares[true, predicted] > 0.28
        axes.text(
            predicted, true, str(counts[true, predicted]), ha="center", va="center",
            fontsize=size, color="white" if dark else "0.15",
        )  # fmt: skip


def _list_worst(
    figure: Figure,
    page: _Page,
    counts: NDArray[np.int64],
    totals: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    """List the largest confusions to the right of the matrix."""
    x = page.left + page.side + 1.2  # inches
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [divmod(int(flat), len(names)) for flat in order]
    pairs = [(true, predicted) for true, predicted in pairs if wrong[true, predicted] > 0]
    heading = "Most frequent confusions" if pairs else "No confusions"
    draw_text(figure, (x / page.width, 1 - 0.42 / page.height), heading, size=10, va="center")
    for line, (true, predicted) in enumerate(pairs):
        y = 1 - (0.78 + 0.31 * line) / page.height
        count = f"{wrong[true, predicted]} of {totals[true]}"
        draw_text(figure, (x / page.width, y), count, size=8, va="center")
        text = f"{names[true]} \N{RIGHTWARDS ARROW} {names[predicted]}"
        draw_text(figure, ((x + 0.85) / page.width, y), text, size=8, va="center")
