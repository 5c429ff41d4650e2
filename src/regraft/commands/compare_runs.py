"""``regraft compare RUN RUN``: finished runs in one table and one picture, with paired tests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import columns
from regraft.errors import InputError, RunError
from regraft.evaluation.paired import compare_pairs
from regraft.plots.runs import PlottedRun, draw_runs
from regraft.runs.finished import read_finished
from regraft.runs.names import picture_path
from regraft.runs.summary import interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from regraft.evaluation.paired import Difference
    from regraft.runs.finished import FinishedRun


def compare_runs(folders: Sequence[Path], out: Path | None = None) -> str:
    """Compare runs that were tested on the same images; return the table, the tests and the path.

    The picture is written to ``out``, a PNG file that does not exist; by default to
    ``regraft-runs/compare.png``, which is replaced.
    """
    _check_folders(folders)
    picture = picture_path(out, "compare.png")
    return compare_named_runs({str(folder): folder for folder in folders}, picture)


def compare_named_runs(folders: Mapping[str, Path], picture: Path) -> str:
    """Compare the runs in some folders, by the names that table and picture show."""
    runs = [read_finished(folder, name) for name, folder in folders.items()]
    _require_same_images(runs)
    differences = compare_pairs(np.stack([run.right for run in runs]))  # of (R, n)
    draw_runs(picture, [_plotted(run) for run in runs])
    lines = [_table(runs), "", *(_verdict(runs, each) for each in differences)]
    return "\n".join([*lines, *_notes(runs), f"picture: {picture}"])


def _check_folders(folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        raise InputError("regraft compare needs RUNS, two or more", hint="regraft compare --help")
    twice = [str(each) for each, n in Counter(each.resolve() for each in folders).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice")


def _require_same_images(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose test images or labels differ from those of the first."""
    first = runs[0]
    for other in runs[1:]:
        one, two = (Counter(digest for digest, _ in run.images) for run in (first, other))
        if one != two:
            raise RunError(
                f"{first.folder} and {other.folder} were not tested on the same images: "
                f"{(one - two).total():,} are only in the first, {(two - one).total():,} only in "
                "the second",
                hint=_hint_for_same_images(first, other),
            )
        labels = zip(first.images, other.images, strict=True)
        changed = sum(mine != theirs for mine, theirs in labels)
        if changed:
            raise RunError(
                f"{first.folder} and {other.folder} have other labels of {changed:,} test images",
                hint="train both on the same data",
            )


def _hint_for_same_images(first: FinishedRun, other: FinishedRun) -> str:
    """Return how to train two runs that are tested on the same images."""
    if first.folds == other.folds == 0:
        return f"train on the same data with `split={str(first.folder / 'split.csv')!r}`"
    if 0 in {first.folds, other.folds}:
        both = f"both with `folds={max(first.folds, other.folds)}`, or both without"
        return f"one was tested by folds and the other was not: train {both}, on the same data"
    return "folds test every image: train both on the same data"


def _table(runs: Sequence[FinishedRun]) -> str:
    rows = [
        [
            run.name,
            run.network,
            run.method,
            interval(run.accuracy),
            f"{run.log_loss:.3f}",
            f"{run.seconds:,.0f}",
            f"{run.megabytes:,.1f}",
        ]
        for run in runs
    ]
    header = ["run", "network", "method", "test accuracy", "log-loss", "seconds", "MB"]
    count = f"{len(runs[0].images):,} test images, the same for all"
    return f"{count}\n{columns(header, rows, right={4, 5, 6})}"


def _verdict(runs: Sequence[FinishedRun], found: Difference) -> str:
    """Return one line about the difference between two runs, with the one to take."""
    first, second = runs[found.first], runs[found.second]
    verdict = f"{(first if found.value > 0 else second).name} is better"
    if not found.significant:
        cheap, dear = sorted((first, second), key=_price)
        verdict = (
            f"no significant difference: take the cheaper, {cheap.name} "
            f"({cheap.megabytes:,.1f} MB and {cheap.seconds:,.0f} s against "
            f"{dear.megabytes:,.1f} and {dear.seconds:,.0f})"
        )
    corrected = f", Holm {found.p_holm:.2g}" if len(runs) > 2 else ""
    return (
        f"{first.name} - {second.name}: {found.value:+.3f} "
        f"(95 %: {found.low:+.3f} to {found.high:+.3f}); alone right {found.only_first:,} and "
        f"{found.only_second:,}, McNemar p {found.p:.2g}{corrected}: {verdict}"
    )


def _price(run: FinishedRun) -> tuple[int, bool, float]:
    """Return a key that orders runs by cost.

    A few bytes are no difference. A training by epochs begins with a probe, and may have found its
    features in the store: fewer seconds then do not make it cheaper than the probe.
    """
    return round(run.megabytes), bool(run.history), run.seconds


def _notes(runs: Sequence[FinishedRun]) -> list[str]:
    reused = [run.name for run in runs if run.reused]
    return [f"fewer seconds, by the store of features: {', '.join(reused)}"] if reused else []


def _plotted(run: FinishedRun) -> PlottedRun:
    accuracy = run.accuracy
    return PlottedRun(
        run.name, accuracy["value"], accuracy["low"], accuracy["high"],
        run.seconds, run.megabytes, run.history,
    )  # fmt: skip
