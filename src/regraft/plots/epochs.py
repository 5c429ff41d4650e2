"""Loss and accuracy over the epochs: curves.png of a fine-tuned run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator

from regraft.plots.figure import DASHED, RIGHT, WRONG, new_figure, style_axes, write_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def draw_epochs(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss and accuracy of the training and the validation part, and mark the best epoch.

    ``history`` has one row an epoch, from epoch 0, which has no training figures.
    """
    figure = new_figure(6.0, 4.8)
    panels = figure.subplots(2, 1, sharex=True)
    chosen = next(row for row in history if row["chosen"])
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for part, label, colour in (("train", "training", WRONG), ("val", "validation", RIGHT)):
            rows = [row for row in history if row[f"{part}_{name}"] is not None]
            epochs = [row["epoch"] for row in rows]
            values = [row[f"{part}_{name}"] for row in rows]
            axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=label)
        axes.axvline(chosen["epoch"], color="0.5", linewidth=0.8, linestyle=DASHED)
        axes.plot([chosen["epoch"]], [chosen[f"val_{name}"]], "D", color=RIGHT, markersize=7)
        axes.set_ylabel(name, fontsize=9)
        style_axes(axes)
    panels[0].legend(fontsize=8, frameon=False)
    title = f"Epoch {chosen['epoch']} is kept: the best on the validation part"
    title += ", classes balanced" if "val_balanced_accuracy" in chosen else ""
    panels[0].set_title(title, fontsize=10, loc="left")
    panels[1].set_xlabel("epoch (0: before training)", fontsize=9)
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    write_figure(figure, path, margin=0.1)
