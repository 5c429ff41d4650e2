"""A figure of several runs: loss and accuracy over epochs, accuracy against seconds and size."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from regraft.core.files import write_atomic
from regraft.plots.grid import DPI
from regraft.plots.text import families, label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

#: Okabe and Ito's colours, black last; then again with other marks.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black")
_MARKS = "osD^v<>"


class Drawn(NamedTuple):
    """One run: its name, test accuracy with the ends of its interval, seconds, megabytes.

    ``history`` has a row an epoch with ``train_loss``, ``val_loss``, ``train_accuracy`` and
    ``val_accuracy``, None where there is no such figure; of a probe, which has no epochs, no row.
    """

    name: str
    accuracy: float
    low: float
    high: float
    seconds: float
    megabytes: float
    history: Sequence[Mapping[str, Any]]


def draw_runs(path: Path, runs: Sequence[Drawn]) -> None:
    """Draw runs beside each other.

    Parameters
    ----------
    path : Path
        PNG file to write; replaced as a whole.
    runs : sequence of Drawn
        In the order of the legend.
    """
    trained = any(run.history for run in runs)
    figure = Figure(figsize=(9.0, 7.0 if trained else 4.0), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(2 if trained else 1, 2).flat)
    if trained:
        _over_epochs(panels[0], runs, "loss")
        _over_epochs(panels[1], runs, "accuracy")
    _against(panels[-2], runs, "seconds", "seconds of the run")
    _against(panels[-1], runs, "megabytes", "size of the bundle, MB")
    handles = panels[-1].get_legend_handles_labels()[0]
    legend = figure.legend(
        handles, [label(run.name, 40) for run in runs], loc="lower center", ncols=2,
        bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_fontfamily(list(families()))
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight")
    write_atomic(path, buffer.getvalue())


def _style(place: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "marker": _MARKS[(place + place // len(_COLOURS)) % len(_MARKS)],
    }


def _over_epochs(axes: Axes, runs: Sequence[Drawn], figure: str) -> None:
    for place, run in enumerate(runs):
        for part, line in (("train", ":"), ("val", "-")):
            key = f"{part}_{figure}"
            rows = [row for row in run.history if row.get(key) is not None]
            axes.plot(
                [row["epoch"] for row in rows], [row[key] for row in rows],
                linestyle=line, markersize=3, **_style(place),
            )  # fmt: skip
    axes.set_ylabel(figure, fontsize=9)
    axes.set_xlabel("epoch (dotted: training, line: validation)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)


def _against(axes: Axes, runs: Sequence[Drawn], name: str, words: str) -> None:
    for place, run in enumerate(runs):
        error = [[run.accuracy - run.low], [run.high - run.accuracy]]
        axes.errorbar(
            [getattr(run, name)], [run.accuracy], yerr=error, linestyle="none", capsize=3,
            label=str(place), **_style(place),
        )  # fmt: skip
    values = [getattr(run, name) for run in runs]
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.1 * max(values))
    axes.set_xlabel(words, fontsize=9)
    axes.set_ylabel("test accuracy (95 %)", fontsize=9)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(visible=True, color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
