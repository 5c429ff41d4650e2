"""Images in a grid with what was predicted: predictions.png, mistakes.png, show.png."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.patches import Rectangle

from regraft.plots.figure import RIGHT, WRONG, draw_text, new_figure, write_figure
from regraft.plots.text import as_written, label, labels, width_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SHOWN = 25  # images in a grid
#: Inches: side of a square cell for an image, the three lines above it, the gap between cells.
_CELL, _LINES, _GAP = 1.9, 0.57, 0.22
_BELOW_WORDS, _ABOVE_IMAGES = 0, 3  # matplotlib's zorder; words and images are in between
#: Frames: of an image without a prediction, of a right one and of a wrong one.
_PLAIN = {"edgecolor": "0.6", "linewidth": 0.8}
_OF_RIGHT = {"edgecolor": RIGHT, "linewidth": 1.2}
_OF_WRONG = {"edgecolor": WRONG, "linewidth": 3.5, "linestyle": (0, (2.2, 1.1))}


@dataclass(frozen=True)
class Item:
    """One image and its classes."""

    image: NDArray[np.uint8] | None  # (H, W, 3) RGB of any size
    predicted: str | None  # class name; None for an example without a prediction
    true: str
    probability: float | None  # of the predicted class, 0 to 1
    name: str = ""  # of the file
    reason: str = ""  # why there is no image


def draw_grid(path: Path, items: Sequence[Item], title: str = "") -> None:
    """Draw images, each under its predicted class, its true class and its file name.

    Right predictions have a check mark and a thin frame, wrong ones a cross and a thick dashed
    frame; examples without a prediction have the true class alone and a grey frame. At most 25
    items are drawn.
    """
    items, title = _with_short_names(items[:SHOWN]), label(title, 90) if title else ""
    columns = max(2, min(5, len(items)))
    rows = -(-len(items) // columns)  # 0 without images: the title alone
    top = 0.5 if title else 0.15
    width = max(_GAP + columns * (_CELL + _GAP), 2 * _GAP + 0.085 * width_of(title))
    height = top + rows * (_CELL + _LINES + _GAP)
    figure = new_figure(width, height)
    # One Axes for all images: an Axes for each image would double the time to draw.
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))  # in inches
    page.set_autoscale_on(False)
    page.axis("off")
    draw_text(figure, (_GAP / width, 1 - 0.28 / height), title, size=11, va="center")
    for number, item in enumerate(items):
        row, column = divmod(number, columns)
        x = _GAP + column * (_CELL + _GAP)
        y = height - top - row * (_CELL + _LINES + _GAP) - _LINES
        _draw_item(page, item, Box(x, y, _CELL, _CELL))
        _write_lines(figure, item, x / width, (y + 0.21) / height, (y + 0.07) / height)
    write_figure(figure, path)


def _with_short_names(items: Sequence[Item]) -> list[Item]:
    """Return the items with names that fit; classes and files stay apart from each other."""
    pairs = [(item.true, item.predicted) for item in items if item.predicted is not None]
    classes = [*dict.fromkeys(name for pair in pairs for name in pair)]
    alone = [*dict.fromkeys(item.true for item in items if item.predicted is None)]
    short = {
        **dict(zip(alone, labels(alone, 26), strict=True)),
        **dict(zip(classes, labels(classes, 15), strict=True)),
    }
    files = [*dict.fromkeys(item.name for item in items if item.name)]
    names = {"": "", **dict(zip(files, labels(files, 36), strict=True))}
    return [
        replace(
            item,
            true=short[item.true],
            predicted=None if item.predicted is None else short[item.predicted],
            name=names[item.name],
        )
        for item in items
    ]


def _write_lines(figure: Figure, item: Item, x: float, y_classes: float, y_name: float) -> None:
    """Write the classes, and below them the file name; positions are shares of the figure."""
    lines = item.true
    if item.predicted is not None:
        mark = "\N{CHECK MARK}" if item.predicted == item.true else "\N{BALLOT X}"
        lines = f"{mark} predicted {item.predicted} {item.probability:.2f}\n    true {item.true}"
    draw_text(figure, (x, y_classes), lines, size=8, va="bottom")
    draw_text(figure, (x, y_name), item.name, size=6, va="bottom", color="0.4")


class Box(NamedTuple):
    """A rectangle on the page, in inches from the lower left corner."""

    left: float
    top: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        """The height of the lower side."""
        return self.top - self.height


def _draw_item(page: Axes, item: Item, cell: Box) -> None:
    """Draw an image in its frame; without an image, a grey cell with the reason."""
    frame = _PLAIN
    if item.predicted is not None:
        frame = _OF_RIGHT if item.predicted == item.true else _OF_WRONG
    if item.image is None:
        _write_reason(page, item.reason, cell)
        _draw_frame(page, cell, {**frame, "facecolor": "0.95", "zorder": _BELOW_WORDS})
    else:
        draw_framed(page, item.image, cell, frame)


def _write_reason(page: Axes, reason: str, cell: Box) -> None:
    page.text(
        cell.left + cell.width / 2, cell.top - cell.height / 2, label(reason, 30),
        ha="center", va="center", fontsize=8, color="0.3", **as_written(),
    )  # fmt: skip


def box_of_image(image: NDArray[np.uint8], cell: Box) -> Box:
    """Return the largest box of the image's shape at the top of a square cell, in its middle."""
    longest = max(image.shape[:2])
    height, width = (cell.width * side / longest for side in image.shape[:2])  # in inches
    return Box(cell.left + (cell.width - width) / 2, cell.top, width, height)


def draw_image(page: Axes, image: NDArray[np.uint8], box: Box) -> None:
    """Draw an image into a box of its shape."""
    longest = max(image.shape[:2])
    step = max(1, longest // 768)  # a photograph has far more pixels than its box
    page.imshow(
        image[::step, ::step], aspect="auto",
        extent=(box.left, box.left + box.width, box.bottom, box.top),
        interpolation="nearest" if longest <= 96 else "antialiased",  # small: pixels as squares
    )  # fmt: skip


def draw_framed(
    page: Axes, image: NDArray[np.uint8], cell: Box, frame: Mapping[str, Any] = _PLAIN
) -> None:
    """Draw an image at the top of a cell, and a frame around it: it may be white."""
    box = box_of_image(image, cell)
    draw_image(page, image, box)
    _draw_frame(page, box, {**frame, "facecolor": "none", "zorder": _ABOVE_IMAGES})


def _draw_frame(page: Axes, box: Box, style: Mapping[str, Any]) -> None:
    page.add_patch(
        Rectangle(
            (box.left, box.bottom), box.width, box.height,
            capstyle="butt", joinstyle="miter",  # other ends fill the gaps between dashes
            **style,
        )
    )  # fmt: skip
