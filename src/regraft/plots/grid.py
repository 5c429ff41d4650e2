"""Figures of a run, from counts and images alone: confusion matrix, predictions, penalty path.

Drawn with matplotlib's objects and never through pyplot, whose figures live in the process. Class
names are drawn as they are: no mathematics in ``$a$``, and a character that no installed font has
is written as its code, ``<732b>``, so that names stay apart.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regraft.core.files import write_atomic
from regraft.plots.text import families, label, width_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

DPI = 120
RIGHT, WRONG = "#0072B2", "#D55E00"  # told apart by all kinds of colour vision (Okabe and Ito)
MANY = 30  # classes from which on numbers in cells cannot be read
LISTED = 20  # worst confusions beside a matrix of many classes
SHOWN = 25  # images in a grid


@dataclass(frozen=True)
class Item:
    """One image with what was said of it.

    Attributes
    ----------
    image : array of shape (H, W, 3), uint8, or str
        RGB, of any size and shape; or a word that says why there is none.
    predicted, true : str
        Class names; equal where the prediction is right. None was predicted of a mere example.
    probability : float
        Of the predicted class, 0 to 1.
    name : str
        Of the file, to find it again.
    """

    image: NDArray[np.uint8] | str
    predicted: str | None
    true: str
    probability: float | None
    name: str = ""


def confusion_matrix(path: Path, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draw how often each class was taken for each, coloured by the share of the true class.

    Up to 29 classes have numbers in their cells; more have the worst confusions listed beside.

    Parameters
    ----------
    path : Path
        PNG file to write; replaced as a whole.
    counts : array of shape (K, K), int64
        Row is the true class, column the predicted one.
    classes : sequence of str
        K names.

    Raises
    ------
    ValueError
        Where the shapes do not fit.
    """
    counts = np.asarray(counts)
    n_classes = len(classes)
    if counts.shape != (n_classes, n_classes):
        raise ValueError(f"counts has shape {counts.shape}; there are {n_classes} classes")
    many = n_classes >= MANY
    totals = counts.sum(axis=1, keepdims=True)
    # A class without test images has no shares; its row stays grey.
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    names = [label(name, 16 if many else 22) for name in classes]

    side = float(np.clip(0.62 * n_classes, 2.4, 7.5))  # inches of the matrix
    left = 0.55 + 0.085 * max(width_of(name) for name in names)
    bottom = left + 0.1
    right = 5.0 if many else 1.2
    width, height = left + side + right, bottom + side + 0.6
    figure = _figure(width, height)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    colours = mpl.colormaps["Blues"].with_extremes(bad="0.9")
    # The power lifts rare confusions out of the white: one image of 100 has to be seen.
    drawn = axes.imshow(shares, cmap=colours, norm=PowerNorm(0.4, 0, 1), interpolation="nearest")
    _class_axes(axes, names, side)
    figure.colorbar(
        drawn,
        cax=figure.add_axes(
            ((left + side + 0.15) / width, bottom / height, 0.12 / width, side / height)
        ),
    )
    _colour_axes(figure.axes[-1])
    if many:
        _list_worst(figure, counts, totals[:, 0], names, (left + side + 1.2, width, height))
    else:
        _numbers(axes, counts, shares, side / n_classes)
    n, right_ones = int(counts.sum()), int(np.trace(counts))
    share = f" ({right_ones / n:.1%})" if n else ""
    axes.set_title(f"{right_ones:,} of {n:,} right{share}", fontsize=10, loc="left")
    _write(figure, path, tight=True)


def prediction_grid(path: Path, items: Sequence[Item], title: str = "") -> None:
    """Draw images with the predicted and the true class and the file's name above each.

    Right ones have a check mark and a thin frame, wrong ones a cross and a thick dashed frame;
    examples, of which nothing was predicted, have the true class alone.

    Parameters
    ----------
    path : Path
        PNG file to write; replaced as a whole.
    items : sequence of Item
        At most 25 are drawn, the first ones.
    title : str
        Over the whole; nothing where it is empty.
    """
    items, title = items[:SHOWN], label(title, 90) if title else ""
    columns = max(2, min(5, len(items)))
    rows = -(-len(items) // columns)  # none where there is no image: the title alone
    cell, above, gap = 1.9, 0.57, 0.22  # inches: image, its three lines, between cells
    top = 0.5 if title else 0.15
    width = max(gap + columns * (cell + gap), 2 * gap + 0.085 * width_of(title))
    height = top + rows * (cell + above + gap)
    figure = _figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))  # in inches
    axes.set_autoscale_on(False)
    axes.axis("off")
    _text(figure, gap / width, 1 - 0.28 / height, title, size=11, va="center")
    for place, item in enumerate(items):
        row, column = divmod(place, columns)
        x = gap + column * (cell + gap)
        y = height - top - row * (cell + above + gap) - above
        _draw_item(axes, item, x, y, cell)
        lines = label(item.true, 26)
        if item.predicted is not None:
            mark = "\N{CHECK MARK}" if item.predicted == item.true else "\N{BALLOT X}"
            predicted, true = label(item.predicted, 15), label(item.true, 20)
            lines = f"{mark} predicted {predicted} {item.probability:.2f}\n    true {true}"
        _text(figure, x / width, (y + 0.21) / height, lines, size=8, va="bottom")
        name = label(item.name, 36) if item.name else ""
        _text(figure, x / width, (y + 0.07) / height, name, size=6, va="bottom", color="0.4")
    _write(figure, path)


def curves(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw the out-of-fold log-loss and accuracy over the values that were tried.

    Parameters
    ----------
    path : Path
        PNG file to write; replaced as a whole.
    history : sequence of mapping
        One row a value; its first entry is what was tried ("penalty", "neighbours", ...), then
        ``log_loss``, ``accuracy``, ``chosen``. Where a row has ``log_loss_se``, the standard error
        is drawn as a band. Of less than two values there is nothing to see: no file is written.
    """
    if len(history) < 2:
        return
    tried = next(iter(history[0]))
    rows = sorted(history, key=lambda row: float(row[tried]))
    places = np.array([row[tried] for row in rows], dtype=float)
    figure = _figure(6.0, 4.8)
    panels = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.13, right=0.97, top=0.92, bottom=0.12, hspace=0.12)
    if places.min() > 0:
        panels[0].set_xscale("log")
    _draw_curve(panels[0], places, rows, "log_loss", most=np.inf)
    _draw_curve(panels[1], places, rows, "accuracy", most=1.0)
    if all(isinstance(row[tried], int) for row in rows):  # few whole numbers: each is named
        panels[1].set_xticks(places, [f"{place:g}" for place in places])
    for axes in panels:  # of a logarithm, they take longer to draw than all the rest
        axes.minorticks_off()
    panels[0].set_title(
        f"{tried.capitalize()}, chosen on the training part alone", loc="left", size=10
    )
    panels[1].set_xlabel("L2 penalty" if tried == "penalty" else tried, fontsize=9)
    _write(figure, path)


def _draw_curve(
    axes: Axes,
    places: NDArray[np.float64],
    rows: Sequence[Mapping[str, Any]],
    key: str,
    *,
    most: float,
) -> None:
    """Draw one measure over the values that were tried, with its standard error and the choice."""
    values = np.array([row[key] for row in rows], dtype=float)
    error = np.array([row.get(f"{key}_se") or 0.0 for row in rows], dtype=float)
    axes.fill_between(places, values - error, values + error, color=RIGHT, alpha=0.15, linewidth=0)
    axes.plot(places, values, "o-", color=RIGHT, markersize=3.5, clip_on=False)
    for k in (k for k, row in enumerate(rows) if row.get("chosen")):
        axes.axvline(places[k], color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(places[k], values[k], "D", color=WRONG, markersize=7, clip_on=False, zorder=5)
        right = places[k] > np.median(places)
        axes.annotate(
            f"chosen: {values[k]:.3f}", (places[k], 0.06), xycoords=axes.get_xaxis_transform(),
            xytext=(-5 if right else 5, 0), textcoords="offset points",
            ha="right" if right else "left", fontsize=8, color="0.2",
        )  # fmt: skip
    low, high = float((values - error).min()), float((values + error).max())
    # Equal values must not fill the panel with their rounding: at least a tenth of them is shown.
    room = 0.15 * (high - low) + max(0.05 * abs(high), 0.01)
    axes.set_ylim(max(0.0, low - room), min(most, high + room))
    axes.set_ylabel(f"out-of-fold {key.replace('_', '-')}", fontsize=9)
    axes.grid(visible=True, color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, path: Path, *, tight: bool = False) -> None:
    buffer = io.BytesIO()
    box = "tight" if tight else None  # draws all twice: for names of unknown length alone
    named = {"Software": None}  # without matplotlib's version the same figure has the same bytes
    figure.savefig(buffer, format="png", metadata=named, bbox_inches=box, pad_inches=0.12)
    write_atomic(path, buffer.getvalue())


def _text(
    figure: Figure, x: float, y: float, text: str, *, size: float, va: str, color: str = "black"
) -> None:
    figure.text(
        *(x, y, text), fontsize=size, va=va, color=color, linespacing=1.25, parse_math=False,
        fontfamily=list(families()),
    )  # fmt: skip


def _class_axes(axes: Axes, names: Sequence[str], side: float) -> None:
    """Write class names along both sides, as many as can be read."""
    size = float(np.clip(72 * side / len(names) * 0.62, 6, 9))  # points
    every = max(1, int(np.ceil(len(names) * size * 1.15 / (72 * side))))
    ticks = np.arange(0, len(names), every)
    shown = names[::every]
    style: dict[str, Any] = {
        "fontsize": size,
        "parse_math": False,
        "fontfamily": list(families()),
    }
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


def _colour_axes(axes: Axes) -> None:
    """Write shares beside the colours; they are not evenly spaced."""
    axes.set_yticks([0, 0.01, 0.1, 0.25, 0.5, 1], ["0", ".01", ".1", ".25", ".5", "1"])
    axes.tick_params(labelsize=7, length=2)
    axes.set_ylabel("share of the true class", fontsize=8)
    axes.spines[:].set_visible(False)


def _numbers(
    axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float
) -> None:
    """Write counts into cells, where the longest one fits; the grid between cells."""
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
            *(predicted, true, str(counts[true, predicted])), ha="center", va="center",
            fontsize=size, color="white" if dark else "0.15",
        )  # fmt: skip


def _list_worst(
    figure: Figure,
    counts: NDArray[np.int64],
    totals: NDArray[np.int64],
    names: Sequence[str],
    place: tuple[float, float, float],
) -> None:
    """List the largest confusions beside the matrix; ``place`` is x, width and height, inches."""
    x, width, height = place
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [divmod(int(flat), len(names)) for flat in order]
    pairs = [(true, predicted) for true, predicted in pairs if wrong[true, predicted] > 0]
    heading = "Most frequent confusions" if pairs else "No confusions"
    _text(figure, x / width, 1 - 0.42 / height, heading, size=10, va="center")
    for line, (true, predicted) in enumerate(pairs):
        y = 1 - (0.78 + 0.31 * line) / height
        count = f"{wrong[true, predicted]} of {totals[true]}"
        _text(figure, x / width, y, count, size=8, va="center")
        text = f"{names[true]} \N{RIGHTWARDS ARROW} {names[predicted]}"
        _text(figure, (x + 0.85) / width, y, text, size=8, va="center")


def _draw_item(axes: Axes, item: Item, x: float, y: float, cell: float) -> None:
    """Draw one image in its own shape below ``y``, pixels as squares where it is small."""
    wide = high = cell
    if isinstance(item.image, str):
        axes.text(
            *(x + cell / 2, y - cell / 2, label(item.image, 30)), ha="center", va="center",
            fontsize=8, color="0.3", parse_math=False, fontfamily=list(families()),
        )  # fmt: skip
    else:
        image = np.asarray(item.image)
        longest = max(image.shape[:2])
        high, wide = (cell * side / longest for side in image.shape[:2])
        x += (cell - wide) / 2
        step = max(1, longest // 768)  # a photograph has far more pixels than its cell
        axes.imshow(
            image[::step, ::step], extent=(x, x + wide, y - high, y), aspect="auto",
            interpolation="nearest" if longest <= 96 else "antialiased",
        )  # fmt: skip
    right, word = item.predicted in {None, item.true}, isinstance(item.image, str)
    frame = Rectangle(
        (x, y - high), wide, high, zorder=0 if word else 3, linewidth=1.2 if right else 3.5,
        facecolor="0.95" if word else "none", edgecolor=RIGHT if right else WRONG,
        linestyle="solid" if right else (0, (2.2, 1.1)),
        capstyle="butt", joinstyle="miter",  # other ends fill the gaps between dashes
    )  # fmt: skip
    axes.add_patch(frame)
