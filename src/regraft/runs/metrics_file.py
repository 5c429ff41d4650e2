"""The run folder's own files: what tells a run from other folders, metrics.json, tables."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import msgspec

from regraft.core.files import read_bounded, write_atomic
from regraft.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SCHEMA_VERSION = 1
_MARK = "metrics.json"  # a folder with this file and our schema is a run, and may be replaced
#: A list of numbers over several lines; a line break in a string is escaped.
_NUMBERS = re.compile(rb"\[\n *(-?[0-9.eE+-]+(?:,\n *-?[0-9.eE+-]+)*)\n *\]")
_MAX_METRICS = 256 * 2**20  # a confusion matrix of 5,000 classes


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run that regraft wrote."""
    try:
        metrics = read_metrics(folder)
    except RunError:
        return False
    return {"regraft", "task", "backbone"} <= set(metrics) and (folder / "split.csv").is_file()


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return a run's metrics.json.

    Raises
    ------
    RunError
        Where there is none, or it is of a newer regraft.
    """
    path = folder / _MARK
    if not path.is_file() or path.is_symlink():
        raise RunError(
            f"{folder} is not a run: it has no {_MARK}",
            hint="a run is a folder that regraft train wrote",
        )
    try:
        metrics = msgspec.json.decode(read_bounded(path, _MAX_METRICS), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: {error}") from error
    version = metrics.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema version {version}; this regraft reads {SCHEMA_VERSION}",
            hint="pip install --upgrade regraft",
        )
    return metrics


def write_metrics(folder: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """Write metrics.json with the schema version first; return what a reader of it gets."""
    data = msgspec.json.encode({"schema_version": SCHEMA_VERSION, **value})
    text = msgspec.json.format(data, indent=2)
    # A confusion matrix row by row: with a line for each number that of 800 classes was 7 MB.
    text = _NUMBERS.sub(lambda list_: b"[" + re.sub(rb",\n *", b", ", list_[1]) + b"]", text)
    write_atomic(folder / _MARK, text)
    return msgspec.json.decode(data, type=dict[str, Any])


def write_csv(path: Path, header: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    """Write a table; cells that a spreadsheet would take for a formula are left as they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
