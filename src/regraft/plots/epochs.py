"""Loss and accuracy over the epochs: curves.png of a fine-tuned run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from regraft.core.files import write_atomic
from regraft.plots.grid import DPI, RIGHT, WRONG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def draw_epochs(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss and accuracy of the training and the validation part, the best epoch marked.

    Parameters
    ----------
    path : Path
        PNG file to write; replaced as a whole.
    history : sequence of mapping
        One row an epoch, from epoch 0, which has no training figures.
    """
    figure = Figure(figsize=(6.0, 4.8), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    chosen = next(row for row in history if row["chosen"])
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for part, label, colour in (("train", "training", WRONG), ("val", "validation", RIGHT)):
            rows = [row for row in history if row[f"{part}_{name}"] is not None]
            epochs = [row["epoch"] for row in rows]
            values = [row[f"{part}_{name}"] for row in rows]
            axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=label)
        axes.axvline(chosen["epoch"], color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot([chosen["epoch"]], [chosen[f"val_{name}"]], "D", color=RIGHT, markersize=7)
        axes.set_ylabel(name, fontsize=9)
        axes.grid(visible=True, color="0.92", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    panels[0].legend(fontsize=8, frameon=False)
    title = f"Epoch {chosen['epoch']} is kept: the best on the validation part"
    panels[0].set_title(title, fontsize=10, loc="left")
    panels[1].set_xlabel("epoch (0: before training)", fontsize=9)
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight")
    write_atomic(path, buffer.getvalue())
