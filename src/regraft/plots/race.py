"""A race: accuracy on images held out by folds, against the time that an image takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from matplotlib.ticker import FuncFormatter, NullFormatter

from regraft.plots.figure import DASHED, legend_above, new_figure, style_axes, write_figure
from regraft.plots.runs import COLOURS, MARKS
from regraft.plots.text import labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class PlottedCandidate(NamedTuple):
    """A network or a sum."""

    name: str
    accuracy: float  # out-of-fold, with the ends of its interval
    low: float
    high: float
    latency: float  # ms an image
    last: bool  # whether it was measured on the images of the last round
    winner: bool


def draw_race(path: Path, candidates: Sequence[PlottedCandidate], limit: float | None) -> None:
    """Draw each candidate; those that were left out before the last round are hollow."""
    figure = new_figure(7.5, 4.5)
    axes = figure.subplots()
    for number, each in enumerate(candidates):
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            [each.latency], [each.accuracy],
            yerr=[[each.accuracy - each.low], [each.high - each.accuracy]],
            linestyle="none", capsize=3, color=colour, markersize=7,
            marker=MARKS[(number + number // len(COLOURS)) % len(MARKS)],
            markerfacecolor=colour if each.last else "white", label=str(number),
        )  # fmt: skip
        if each.winner:
            axes.plot(
                [each.latency], [each.accuracy], "o", markersize=17, fillstyle="none",
                color="black", markeredgewidth=1.2,
            )  # fmt: skip
    if limit is not None:
        axes.axvline(limit, color="0.5", linestyle=DASHED, linewidth=1)
    latencies = [each.latency for each in candidates]
    if max(latencies) > 10 * min(latencies):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.15 * max([*latencies, limit or 0]))
    axes.set_xlabel("milliseconds an image, one at a time", fontsize=9)
    axes.set_ylabel("accuracy, out-of-fold (95 %)", fontsize=9)
    style_axes(axes)
    words = [
        name + (" (winner, in a circle)" if each.winner else "" if each.last else " (left out)")
        for name, each in zip(labels([e.name for e in candidates], 60), candidates, strict=True)
    ]
    legend_above(figure, axes, words)
    figure.tight_layout()
    write_figure(figure, path, margin=0.1)
