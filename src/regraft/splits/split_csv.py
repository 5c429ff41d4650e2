"""split.csv: the part of each image, so that a later run can have the same parts."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast, get_args

from regraft.core.csv_text import as_csv
from regraft.core.files import read_bounded, write_atomic
from regraft.data.samples import Part
from regraft.errors import InputError, TableError

if TYPE_CHECKING:
    from regraft.data.dataset import Dataset

COLUMNS = ("id", "label", "part", "sha256", "group")
LEFT_OUT = ""  # written for an image in no part: a copy of one in another part
_LARGEST = 1 << 30  # bytes; five million rows take a third of that


class SplitRow(NamedTuple):
    """One image of a split.csv."""

    id: str
    label: str
    part: Part | None  # None: left out
    sha256: bytes  # 32 bytes
    group: str | None


def write_split(path: Path | str, dataset: Dataset) -> None:
    """Write the part of each sample, in their order; it is empty for an image in no part."""
    samples = dataset.samples
    rows = (
        (name, samples.classes[label], part or LEFT_OUT, digest.hex(), group or "")
        for name, label, part, digest, group in zip(
            samples.ids,
            samples.labels,
            dataset.part_names(),
            samples.hashes,
            samples.groups,
            strict=True,
        )
    )
    write_atomic(path, as_csv([COLUMNS, *rows]).encode())


def read_split(path: Path | str) -> list[SplitRow]:
    """Read a split.csv, or that of a run's folder; it may have other columns, in any order.

    Raises TableError with the number of the row if it is no such table; the header is row 1.
    """
    path = Path(path)
    if path.is_dir():  # a run, as other commands take it
        path /= "split.csv"
    try:
        text = read_bounded(path, _LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not UTF-8 text: byte {error.start}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[SplitRow] = []
    try:
        header = next(reader, [])
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise TableError(
                f"{path} has no column {', '.join(missing)}",
                hint=f"a split.csv of a run has the columns {', '.join(COLUMNS)}",
            )
        positions = [header.index(name) for name in COLUMNS]
        rows.extend(
            _split_row(path, reader.line_num, fields, positions) for fields in reader if fields
        )
    except csv.Error as error:
        raise TableError(f"{path}, row {reader.line_num}: {error}") from None
    if not rows:
        raise TableError(f"{path} has no rows")
    return rows


def fitted_hashes(path: Path | str) -> frozenset[bytes] | None:
    """Return the sha256 of all images in a split.csv that a run was fitted on; None without file.

    These are the training part and the validation part, which chooses the epoch and temperature of
    a fine-tuned network.
    """
    try:
        rows = read_split(path)
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return frozenset(row.sha256 for row in rows if row.part in {"train", "val"})


def _split_row(path: Path | str, number: int, fields: list[str], positions: list[int]) -> SplitRow:
    if len(fields) <= max(positions):
        raise TableError(f"{path}, row {number}: {len(fields)} fields, fewer than the header")
    name, label, part, sha256, group = (fields[index] for index in positions)
    if part != LEFT_OUT and part not in get_args(Part):
        raise TableError(
            f"{path}, row {number}: the part is {part[:80]!r}",
            hint="a part is train, val or test, or empty for an image that is left out",
        )
    try:
        digest = bytes.fromhex(sha256)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise TableError(f"{path}, row {number}: {sha256[:80]!r} is not a sha256 of 64 hex digits")
    return SplitRow(name, label, cast("Part", part) if part else None, digest, group or None)
