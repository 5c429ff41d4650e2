"""Several runs held against each other: one table, paired tests, one picture."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.config.yaml_file import read_config
from regraft.core.files import read_bounded
from regraft.core.text import columns
from regraft.errors import InputError, RunError
from regraft.evaluation.paired import compare_pairs
from regraft.plots.runs import PlottedRun, draw_runs
from regraft.runs.metrics_file import read_metrics
from regraft.runs.names import picture_path
from regraft.runs.summary import interval
from regraft.splits.split_csv import read_split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.evaluation.paired import Difference

_LARGEST = 1 << 30  # bytes of a table


@dataclass(frozen=True)
class Compared:
    """A run as it is compared.

    Attributes
    ----------
    folder : Path
        Its folder.
    name : str
        How it is called here: the folder as the user wrote it, or its last part.
    network, method : str
        What was trained, and how: a head's name, "finetune" or "scratch".
    accuracy : dict of str to float
        "value", "low" and "high" of the test part.
    log_loss, seconds : float
        Of the test part; of the whole run.
    reused : bool
        Whether features came from the store.
    images : tuple of (bytes, str)
        sha256 and true class of each test image, sorted.
    right : array of shape (n,), bool
        Whether each of them was recognised.
    history : list of dict
        A row an epoch; none where nothing was trained by epochs.
    megabytes : float
        Of its bundle.
    """

    folder: Path
    name: str
    network: str
    method: str
    accuracy: dict[str, Any]
    log_loss: float
    seconds: float
    reused: bool
    images: tuple[tuple[bytes, str], ...]
    right: NDArray[np.bool_]
    history: list[dict[str, float | None]]
    megabytes: float


def compare_runs(folders: Sequence[Path], out: Path | None = None) -> str:
    """Compare runs that were tested on the same images.

    Parameters
    ----------
    folders : sequence of Path
        Two run folders or more.
    out : Path, optional
        PNG file that is not there yet; else ``regraft-runs/compare.png``, which is replaced.

    Returns
    -------
    str
        A table of the runs, a line for each pair, and where the picture is.

    Raises
    ------
    InputError
        Where there are fewer than two runs, or one stands there twice.
    RunError
        Where a folder is no run, its tables cannot be used, the runs were not tested on the same
        images with the same labels, or the picture cannot be written there.
    """
    if len(folders) < 2:
        raise InputError("regraft compare needs RUNS, two or more", hint="regraft compare --help")
    twice = [str(each) for each, n in Counter(each.resolve() for each in folders).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice")
    picture = picture_path(out, "compare.png")
    return compare_finished({str(folder): folder for folder in folders}, picture)


def compare_finished(folders: Mapping[str, Path], picture: Path) -> str:
    """Compare runs under names; see ``compare_runs``.

    Parameters
    ----------
    folders : mapping of str to Path
        Run folders by the names that table and picture have; a single one is only told.
    picture : Path
        PNG file to write; replaced.

    Returns
    -------
    str
        As ``compare_runs``.

    Raises
    ------
    RunError
        As ``compare_runs``.
    """
    runs = [_read(folder, name) for name, folder in folders.items()]
    for other in runs[1:]:
        _check_same(runs[0], other)
    differences = compare_pairs(np.stack([run.right for run in runs]))
    draw_runs(picture, [_drawn(run) for run in runs])
    reused = [run.name for run in runs if run.reused]
    notes = [f"fewer seconds, by the store of features: {', '.join(reused)}"] if reused else []
    lines = [_line(runs, each) for each in differences]
    return "\n".join([_table(runs), "", *lines, *notes, f"picture: {picture}"])


def _read(folder: Path, name: str) -> Compared:
    """Read what a run has written."""
    metrics = read_metrics(folder)
    hashes = {row.id: row.sha256 for row in read_split(folder / "split.csv")}
    path = folder / "predictions.csv"
    found = []
    for row in _rows(path, ("id", "true", "predicted")):
        if row["id"] not in hashes:
            raise RunError(f"{path} names {row['id']}, which is not in {folder / 'split.csv'}")
        right = row["true"] == row["predicted"]
        found.append(((hashes[row["id"]], row["true"]), row["id"], right))
    if not found:
        raise RunError(f"{path} has no rows")
    found.sort()
    config = read_config(folder / "config.yaml")
    method = config.head if config.strategy == "probe" else config.strategy
    try:
        figures = (
            metrics["backbone"]["name"],
            method,
            metrics["test"]["accuracy"],
            metrics["test"]["log_loss"]["value"],
            metrics["seconds"]["total"],
            metrics["features"]["reused"] > 0,
        )
    except (KeyError, TypeError):
        raise RunError(
            f"{folder} is a run of another version of regraft", hint="train it again"
        ) from None
    return Compared(
        folder,
        name,
        *figures,
        tuple(image for image, _, _ in found),
        np.array([right for _, _, right in found]),
        _history(folder / "history.csv"),
        sum(each.stat().st_size for each in (folder / "bundle").rglob("*") if each.is_file()) / 1e6,
    )


def _rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        text = read_bounded(path, _LARGEST).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (InputError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if rows and not set(needed) <= set(rows[0]):
        raise RunError(
            f"{path} has not the columns {', '.join(needed)}",
            hint="the run is of another version of regraft: train it again",
        )
    return rows


def _history(path: Path) -> list[dict[str, float | None]]:
    """Return loss and accuracy by epoch; of a probe, whose history has no epochs, nothing."""
    names = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
    rows = _rows(path, ())
    if not rows or not set(names) <= set(rows[0]):
        return []
    return [{name: float(row[name]) if row[name] else None for name in names} for row in rows]


def _check_same(first: Compared, other: Compared) -> None:
    """Refuse runs whose test images or labels differ."""
    one, two = (Counter(digest for digest, _ in run.images) for run in (first, other))
    if one != two:
        raise RunError(
            f"{first.folder} and {other.folder} were not tested on the same images: "
            f"{(one - two).total():,} are only in the first, {(two - one).total():,} only in the "
            "second",
            hint=_same_images(first, other),
        )
    labels = zip(first.images, other.images, strict=True)
    changed = sum(mine != theirs for mine, theirs in labels)
    if changed:
        raise RunError(
            f"{first.folder} and {other.folder} have other labels of {changed:,} test images",
            hint="train both on the same data",
        )


def _same_images(first: Compared, other: Compared) -> str:
    """Say how two runs come to the same test images."""
    folds = [read_config(run.folder / "config.yaml").folds for run in (first, other)]
    if folds[0] == folds[1] == 0:
        return f"train on the same data with --split {first.folder / 'split.csv'}"
    if 0 in folds:
        both = f"both with --folds {max(folds)}, or both without"
        return f"one was tested by folds and the other was not: train {both}, on the same data"
    return "folds test every image: train both on the same data"


def _table(runs: Sequence[Compared]) -> str:
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


def _line(runs: Sequence[Compared], found: Difference) -> str:
    """Say in one line what is between two runs, and what to do about it."""
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


def _price(run: Compared) -> tuple[int, bool, float]:
    """Order runs by what they cost.

    A few bytes are no difference. A training by epochs begins with a probe, whose features it may
    have found in the store: then its fewer seconds say nothing.
    """
    return round(run.megabytes), bool(run.history), run.seconds


def _drawn(run: Compared) -> PlottedRun:
    accuracy = run.accuracy
    return PlottedRun(
        run.name, accuracy["value"], accuracy["low"], accuracy["high"],
        run.seconds, run.megabytes, run.history,
    )  # fmt: skip
