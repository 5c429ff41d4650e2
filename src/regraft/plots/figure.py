"""What all pictures share: how a figure begins, how it becomes a file, and how words are drawn.

Figures are matplotlib's objects. pyplot is never used, because its figures live as long as the
process.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from regraft.core.files import write_atomic
from regraft.plots.text import as_written, families

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

DPI = 120
RIGHT, WRONG = "#0072B2", "#D55E00"  # distinct in all kinds of colour vision (Okabe and Ito)
DASHED = (0, (4, 3))  # the line of a choice
DOTTED = (0, (1, 2))  # the line of an aim


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure; width and height in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Figure, path: Path, *, margin: float | None = None) -> None:
    """Write a figure as PNG, replacing the file as a whole.

    With a ``margin``, in inches, the picture is cut to what was drawn and that margin. This draws
    everything twice, so it is only for figures whose words have an unknown length.
    """
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", metadata={"Software": None},  # the same figure has the same bytes
        bbox_inches=None if margin is None else "tight", pad_inches=margin or 0.0,
    )  # fmt: skip
    write_atomic(path, buffer.getvalue())


def draw_text(
    figure: Figure,
    at: tuple[float, float],  # x and y as shares of the figure, 0 to 1
    text: str,
    *,
    size: float,
    va: str,
    color: str = "black",
) -> None:
    """Draw a text as it is written."""
    figure.text(*at, text, fontsize=size, va=va, color=color, linespacing=1.25, **as_written())


def legend_above(figure: Figure, axes: Axes, words: Sequence[str], n_columns: int = 1) -> None:
    """Write the legend of some axes above the figure, in the users' own words."""
    legend = figure.legend(
        axes.get_legend_handles_labels()[0], words, loc="lower center", ncols=n_columns,
        bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_fontfamily(list(families()))


def style_axes(axes: Axes) -> None:
    """Draw faint grid lines and no box around the curves."""
    axes.grid(visible=True, color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
