"""Loss and accuracy of every penalty that was tried: curves.png of a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.plots.figure import DASHED, RIGHT, WRONG, new_figure, style_axes, write_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_LABELS = {
    "log_loss": "log-loss",
    "balanced_log_loss": "log-loss, classes balanced",
    "accuracy": "accuracy",
}


def draw_penalties(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw the out-of-fold log-loss and accuracy over the values that were tried.

    ``history`` has one row a value. Its first entry is the value ("penalty", "neighbours", ...),
    then come ``log_loss``, ``accuracy`` and ``chosen``, and perhaps ``log_loss_se``, a standard
    error, which is drawn as a band; ``balanced_log_loss`` is drawn in place of ``log_loss``. With
    fewer than two rows no file is written.
    """
    if len(history) < 2:
        return
    tried = next(iter(history[0]))
    rows = sorted(history, key=lambda row: float(row[tried]))
    x = np.array([row[tried] for row in rows], dtype=float)
    figure = new_figure(6.0, 4.8)
    panels = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.13, right=0.97, top=0.92, bottom=0.12, hspace=0.12)
    if x.min() > 0:
        panels[0].set_xscale("log")
    balanced = "balanced_log_loss" in rows[0]  # then it is what the choice was made by
    _draw_curve(panels[0], x, rows, "balanced_log_loss" if balanced else "log_loss", most=np.inf)
    _draw_curve(panels[1], x, rows, "accuracy", most=1.0)
    if all(isinstance(row[tried], int) for row in rows):  # a few whole numbers: name each
        panels[1].set_xticks(x, [f"{value:g}" for value in x])
    for axes in panels:  # minor ticks of a logarithm take longer to draw than all the rest
        axes.minorticks_off()
    panels[0].set_title(
        f"{tried.capitalize()}, chosen on the training part alone", loc="left", size=10
    )
    panels[1].set_xlabel("L2 penalty" if tried == "penalty" else tried, fontsize=9)
    write_figure(figure, path)


def _draw_curve(
    axes: Axes,
    x: NDArray[np.float64],  # (n,), values that were tried, ascending
    rows: Sequence[Mapping[str, Any]],
    key: str,
    *,
    most: float,
) -> None:
    """Draw one measure over the values that were tried, its standard error and the choice."""
    y = np.array([row[key] for row in rows], dtype=float)
    error = np.array([row.get(f"{key}_se") or 0.0 for row in rows], dtype=float)
    axes.fill_between(x, y - error, y + error, color=RIGHT, alpha=0.15, linewidth=0)
    axes.plot(x, y, "o-", color=RIGHT, markersize=3.5, clip_on=False)
    for k in (k for k, row in enumerate(rows) if row.get("chosen")):
        axes.axvline(x[k], color="0.5", linewidth=0.8, linestyle=DASHED)
        axes.plot(x[k], y[k], "D", color=WRONG, markersize=7, clip_on=False, zorder=5)
        right = x[k] > np.median(x)
        axes.annotate(
            f"chosen: {y[k]:.3f}", (x[k], 0.06), xycoords=axes.get_xaxis_transform(),
            xytext=(-5 if right else 5, 0), textcoords="offset points",
            ha="right" if right else "left", fontsize=8, color="0.2",
        )  # fmt: skip
    low, high = float((y - error).min()), float((y + error).max())
    # Show at least a tenth of the values: else equal ones fill the panel with their rounding.
    room = 0.15 * (high - low) + max(0.05 * abs(high), 0.01)
    axes.set_ylim(max(0.0, low - room), min(most, high + room))
    axes.set_ylabel(f"out-of-fold {_LABELS[key]}", fontsize=9)
    style_axes(axes)
