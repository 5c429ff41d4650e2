"""Several runs in one figure: loss and accuracy over epochs, accuracy over seconds and size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.ticker import MaxNLocator

from regraft.plots.figure import legend_above, new_figure, style_axes, write_figure
from regraft.plots.text import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

#: Colours of Okabe and Ito, black last; more runs have the same colours with other marks.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black")
MARKS = "osD^v<>"


class PlottedRun(NamedTuple):
    """One run."""

    name: str
    accuracy: float  # on the test part, with the ends of its interval
    low: float
    high: float
    seconds: float
    megabytes: float
    #: One row an epoch: train_loss, val_loss, train_accuracy, val_accuracy, or None; none of probes
    history: Sequence[Mapping[str, Any]]


def draw_runs(path: Path, runs: Sequence[PlottedRun]) -> None:
    """Draw several runs side by side, in the order of the legend."""
    trained = any(run.history for run in runs)
    figure = new_figure(9.0, 7.0 if trained else 4.0)
    panels = list(figure.subplots(2 if trained else 1, 2).flat)
    if trained:
        _draw_over_epochs(panels[0], runs, "loss")
        _draw_over_epochs(panels[1], runs, "accuracy")
    _draw_accuracy_over(panels[-2], runs, "seconds", "seconds of the run")
    _draw_accuracy_over(panels[-1], runs, "megabytes", "size of the bundle, MB")
    legend_above(figure, panels[-1], labels([run.name for run in runs], 40), n_columns=2)
    figure.tight_layout()
    write_figure(figure, path, margin=0.1)


def _style(number: int) -> dict[str, Any]:
    """Return colour and mark of a run."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKS[(number + number // len(COLOURS)) % len(MARKS)],
    }


def _draw_over_epochs(axes: Axes, runs: Sequence[PlottedRun], measure: str) -> None:
    for number, run in enumerate(runs):
        for part, line in (("train", ":"), ("val", "-")):
            key = f"{part}_{measure}"
            rows = [row for row in run.history if row.get(key) is not None]
            axes.plot(
                [row["epoch"] for row in rows], [row[key] for row in rows],
                linestyle=line, markersize=3, **_style(number),
            )  # fmt: skip
    axes.set_ylabel(measure, fontsize=9)
    axes.set_xlabel("epoch (dotted: training, line: validation)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style_axes(axes)


def _draw_accuracy_over(axes: Axes, runs: Sequence[PlottedRun], cost: str, words: str) -> None:
    for number, run in enumerate(runs):
        error = [[run.accuracy - run.low], [run.high - run.accuracy]]
        axes.errorbar(
            [getattr(run, cost)], [run.accuracy], yerr=error, linestyle="none", capsize=3,
            label=str(number), **_style(number),
        )  # fmt: skip
    values = [getattr(run, cost) for run in runs]
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.1 * max(values))
    axes.set_xlabel(words, fontsize=9)
    axes.set_ylabel("test accuracy (95 %)", fontsize=9)
    style_axes(axes)
