"""metrics.json, which marks a run folder, and CSV tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from regraft.core.csv_text import as_csv, warn_of_formulas
from regraft.core.files import read_bounded, write_atomic
from regraft.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SCHEMA_VERSION = 1
_MARK = "metrics.json"  # a folder with this file in our schema is a run, and may be replaced
#: A list of numbers on several lines; in a string, a line break is escaped.
_NUMBERS = re.compile(rb"\[\n *(-?[0-9.eE+-]+(?:,\n *-?[0-9.eE+-]+)*)\n *\]")
_MAX_METRICS = 256 * 2**20  # a confusion matrix of 5,000 classes


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run that regraft wrote."""
    try:
        metrics = read_metrics(folder)
    except RunError:
        return False
    return {"regraft", "task", "backbone"} <= set(metrics) and (folder / "split.csv").is_file()


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read a run's metrics.json; raise RunError if there is none or it has another version."""
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


def networks_of(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of the networks of a run, in their order."""
    return [metrics["backbone"], *metrics.get("other_networks", [])]


def write_metrics(folder: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """Write metrics.json with the schema version first; return it as a reader gets it."""
    data = msgspec.json.encode({"schema_version": SCHEMA_VERSION, **value})
    text = msgspec.json.format(data, indent=2)
    # One line for each row of a confusion matrix: with a line for each number, that of 800 classes
    # takes 7 MB.
    text = _NUMBERS.sub(lambda list_: b"[" + re.sub(rb",\n *", b", ", list_[1]) + b"]", text)
    write_atomic(folder / _MARK, text)
    return msgspec.json.decode(data, type=dict[str, Any])


def write_csv(path: Path, header: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    """Write a CSV table; names stay as they are, and a warning says which may run as formulas."""
    table: list[list[object]] = [list(header), *(list(row) for row in rows)]
    write_atomic(path, as_csv(table).encode())
    warn_of_formulas(path.name, (cell for row in table for cell in row))
