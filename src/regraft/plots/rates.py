"""The losses of a learning-rate trial: lr-find.png."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.plots.figure import DASHED, RIGHT, WRONG, new_figure, style_axes, write_figure

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def draw_rates(
    path: Path,
    rates: NDArray[np.float64],  # (n,), ascending
    losses: NDArray[np.float64],  # (n,)
    smooth: NDArray[np.float64],  # (n,), the losses, smoothed
    limit: float,
    suggestion: float,
) -> None:
    """Draw the loss at each learning rate, with the limit and the suggestion."""
    figure = new_figure(6.0, 3.6)
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color="0.7", markersize=4, label="batch")
    axes.plot(rates, smooth, color=RIGHT, label="smoothed")
    axes.axvline(limit, color="0.5", linewidth=0.8, linestyle=DASHED, label="limit")
    axes.axvline(suggestion, color=WRONG, label=f"suggestion: {suggestion:.1e}")
    axes.set_xscale("log")
    top = max(3 * smooth[: len(smooth) // 2].max(), 1.2 * smooth[0])
    axes.set_ylim(0, min(float(top), 1.05 * float(losses.max())))
    axes.set_xlabel("learning rate", fontsize=9)
    axes.set_ylabel("training loss", fontsize=9)
    style_axes(axes)
    axes.legend(fontsize=8, frameon=False)
    write_figure(figure, path, margin=0.1)
