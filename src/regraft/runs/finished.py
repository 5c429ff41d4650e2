"""A finished run as it is compared with others: what its files say about the test and the cost."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.config.yaml_file import read_config
from regraft.core.files import read_bounded
from regraft.errors import InputError, RunError
from regraft.runs.metrics_file import networks_of, read_metrics
from regraft.splits.split_csv import read_split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_LARGEST = 1 << 30  # bytes of a table
_EPOCH_COLUMNS = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")


@dataclass(frozen=True)
class FinishedRun:
    """The test result and the cost of a run."""

    folder: Path
    name: str  # in the table and the picture
    network: str
    method: str  # a head's name, "finetune" or "scratch"
    accuracy: dict[str, Any]  # "value", "low" and "high" of the test part
    log_loss: float
    seconds: float  # of the whole run
    reused: bool  # whether features came from the store
    images: tuple[tuple[bytes, str], ...]  # (n) sha256 and true class of each test image, sorted
    right: NDArray[np.bool_]  # (n,) whether each of them was recognised
    history: list[dict[str, float | None]]  # one row per epoch; empty for a probe
    megabytes: float  # of the bundle
    folds: int  # the setting: 0 for a single test part


def read_finished(folder: Path, name: str) -> FinishedRun:
    """Read a run folder; RunError if a file is missing or from another version of regraft."""
    metrics, config = read_metrics(folder), read_config(folder / "config.yaml")
    tested = _tested_images(folder)
    try:
        return FinishedRun(
            folder,
            name,
            network="+".join(each["name"] for each in networks_of(metrics)),
            method=config.head if config.strategy == "probe" else config.strategy,
            accuracy=metrics["test"]["accuracy"],
            log_loss=metrics["test"]["log_loss"]["value"],
            seconds=metrics["seconds"]["total"],
            reused=metrics["features"]["reused"] > 0,
            images=tuple(image for image, _, _ in tested),
            right=np.array([right for _, _, right in tested]),
            history=_read_history(folder / "history.csv"),
            megabytes=_size_of(folder / "bundle") / 1e6,
            folds=config.folds,
        )
    except (KeyError, TypeError):
        raise RunError(
            f"{folder} is a run of another version of regraft", hint="train it again"
        ) from None


def _tested_images(folder: Path) -> list[tuple[tuple[bytes, str], str, bool]]:
    """Return ((sha256, true class), id, recognised) of each test image, sorted."""
    hashes = {row.id: row.sha256 for row in read_split(folder / "split.csv")}
    path = folder / "predictions.csv"
    tested = []
    for row in _read_rows(path, ("id", "true", "predicted")):
        if row["id"] not in hashes:
            raise RunError(f"{path} names {row['id']}, which is not in {folder / 'split.csv'}")
        image = (hashes[row["id"]], row["true"])
        tested.append((image, row["id"], row["true"] == row["predicted"]))
    if not tested:
        raise RunError(f"{path} has no rows")
    return sorted(tested)


def _read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        text = read_bounded(path, _LARGEST).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (InputError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if rows and not set(needed) <= set(rows[0]):
        raise RunError(
            f"{path} does not have the columns {', '.join(needed)}",
            hint="the run is from another version of regraft: train it again",
        )
    return rows


def _read_history(path: Path) -> list[dict[str, float | None]]:
    """Return loss and accuracy by epoch; nothing for a probe, whose history has no epochs."""
    rows = _read_rows(path, ())
    if not rows or not set(_EPOCH_COLUMNS) <= set(rows[0]):
        return []
    return [
        {name: float(row[name]) if row[name] else None for name in _EPOCH_COLUMNS} for row in rows
    ]


def _size_of(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
