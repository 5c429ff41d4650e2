"""CSV and Parquet tables: path, label, and optionally split and group.

Paths are relative to the table's folder, or to the image root. An absolute path, or one with
``..``, is accepted if it is below that folder; its id is the relative path. All others are refused:
a table from elsewhere must not reach files outside of that folder. Backslashes are separators.
"""

from __future__ import annotations

import csv
import io
import ntpath
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft.core.files import read_regular
from regraft.core.text import counted, listed
from regraft.data.labels import merged_note
from regraft.data.ledger import LedgerEntry
from regraft.data.names import LONGEST_LABEL, normalise, printable
from regraft.data.samples import Entry, Source
from regraft.data.sources.folder import is_inside, read_file
from regraft.data.sources.stream import read_each
from regraft.data.sources.table_parts import (
    SPLIT_COLUMNS,
    PartColumns,
    find_part_columns,
    part_word,
    parts_of_words,
)
from regraft.errors import ConfigError, ImageError, MissingExtraError, TableError

if TYPE_CHECKING:
    from regraft.data.sources.options import Data, SourceOptions

#: Column names in lower case; the first is the canonical one, which wins over its synonyms.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image",
             "image_path", "img"),
    "label": ("label", "class", "target", "category", "class_name", "label_name"),
    "split": SPLIT_COLUMNS,
    "group": ("group", "group_id"),
}  # fmt: skip

_LONGEST_CELL = 4096  # characters: no system opens a longer path
_LARGEST_CSV = 1 << 30  # bytes, about ten million rows

#: A row's number, and its values by the index of their column.
_NumberedRow = tuple[int, Mapping[int, Any]]


class _Columns(NamedTuple):
    """The columns that are read."""

    header: list[str]
    path: int
    label: int
    group: int | None
    parts: PartColumns

    @property
    def indices(self) -> list[int]:
        """Return all columns that are read."""
        group = [] if self.group is None else [self.group]
        return [self.path, self.label, *group, *self.parts.indices]


class _Table(NamedTuple):
    """A table that is open: its columns, and its rows, which are read one after another."""

    columns: _Columns
    rows: Iterator[_NumberedRow]


class _TableRow(NamedTuple):
    """A row that was checked."""

    number: int
    entry: Entry  # its id is the path in NFC
    path: str  # below the folder, as it is opened
    has_backslash: bool
    part: str  # as it is written; "" for none
    label: str  # as it is written


class _Root(NamedTuple):
    """The folder where paths begin."""

    folder: str  # a real path
    is_given: bool  # and not the table's own folder

    def outside(self, where: str, written: str) -> TableError:
        """Return the error for a path that is not below the folder."""
        if self.is_given:
            what, hint = self.folder, "paths must lead to files below `image_root`"
        else:
            what = "the table's folder"
            hint = (
                "paths must lead to files below the table's folder; `image_root` names "
                "another folder"
            )
        return TableError(f"{where}: {written} is outside of {what}", hint=hint)


def open_table(data: Data, options: SourceOptions) -> Source | None:
    """Open a table of paths and labels; None for other data. A TableError names the row."""
    if isinstance(data, tuple):
        return None
    path = Path(data)
    read = _READERS.get(path.suffix.lower())
    if read is None or not path.is_file():
        return None
    root = options.image_root
    if root is not None and not root.is_dir():
        raise ConfigError(f"image_root is {root}, which is not a folder")
    folder = os.path.realpath(path.parent if root is None else root)
    return _source(os.fspath(data), _Root(folder, root is not None), read(path))


def _source(location: str, root: _Root, table: _Table) -> Source:
    """Make a source of a table's rows; no image file is opened yet."""
    rows, repeats = _separate_repeats(_check_rows(location, root, table), location)
    if not rows:
        raise TableError(
            f"{location} has no usable row",
            hint="each row needs the path of an image below the table's folder, and its label",
        )
    first_rows = {row.part: row.number for row in reversed(rows)}
    parts, note = parts_of_words(table.columns.parts, first_rows, table.columns.header, location)
    _require_one_file(rows, root, location)
    rows.sort(key=lambda row: row.entry.id)  # the order of rows changes no result
    return Source(
        kind="table",
        location=location,
        entries=[replace(row.entry, part=parts[row.part]) for row in rows],
        stream=partial(read_each, partial(_read_below, root.folder), [row.path for row in rows]),
        refused=[_repeat_entry(row, earlier) for row, earlier in repeats],
        notes=(
            *_backslash_notes([*rows, *(row for row, _ in repeats)]),
            *filter(None, [note]),
            *merged_note((row.label, row.entry.label) for row in rows),
        ),
    )


def _check_rows(location: str, root: _Root, table: _Table) -> Iterator[_TableRow]:
    """Yield the rows of a table; the first one that cannot be used is an error."""
    columns = table.columns
    for number, values in table.rows:
        where = f"{location}, row {number}"
        written = _text(values[columns.path], "path", where)
        label = normalise(_text(values[columns.label], "label", where))
        group = _group(None if columns.group is None else values[columns.group], where)
        part = _checked(part_word(columns.parts, values, where), "split", where)
        path = _relative(written.replace("\\", "/"), root.folder)
        if path is None:
            raise root.outside(where, written)
        entry = Entry(normalise(path), label, group=group)
        label_written = str(values[columns.label])
        yield _TableRow(number, entry, path, "\\" in written, part, label_written)


def _require_one_file(rows: Sequence[_TableRow], root: _Root, location: str) -> None:
    """Raise TableError if no path leads to a file: then they begin in another folder."""
    # os and not pathlib, whose ``exists`` raises an error for a name that is too long.
    if not any(os.path.exists(f"{root.folder}/{row.path}") for row in rows):  # noqa: PTH110
        raise TableError(
            f"{location}, row {rows[0].number}: {rows[0].path} is no file below {root.folder}, and "
            f"neither is any other of {len(rows):,}",
            hint="`image_root` names the folder where they begin",
        )


def _separate_repeats(
    rows: Iterable[_TableRow], location: str
) -> tuple[list[_TableRow], list[tuple[_TableRow, _TableRow]]]:
    """Return the first row of each path, and each later row with the first one of its path.

    Raises TableError if two rows of a path have different labels.
    """
    first: dict[str, _TableRow] = {}
    repeats = []
    for row in rows:
        earlier = first.setdefault(row.entry.id, row)
        if earlier.entry.label != row.entry.label:
            raise TableError(
                f"{location}, row {row.number}: {row.path} has the label {row.entry.label}, and "
                f"{earlier.entry.label} in row {earlier.number}",
                hint="an image has one label: remove the wrong row",
            )
        if earlier is not row:
            repeats.append((row, earlier))
    return list(first.values()), repeats


def _repeat_entry(row: _TableRow, earlier: _TableRow) -> LedgerEntry:
    reason = f"row {row.number}: row {earlier.number} has it already"
    return LedgerEntry(printable(row.path), "refused", "duplicate name", reason)


def _backslash_notes(rows: Sequence[_TableRow]) -> tuple[str, ...]:
    count = sum(row.has_backslash for row in rows)
    what = counted(count, "path is", "paths are")
    note = f"{what} written with backslashes, which are read as separators"
    return (note,) if count else ()


def _group(value: Any, where: str) -> str | None:
    """Return the group that a row names; None where it names none."""
    if value is None:
        return None
    return _checked(str(value), "group", where).strip() or None


def _relative(written: str, folder: str) -> str | None:
    """Return a path below the table's folder in its normal form; None if it is outside.

    Examples
    --------
    >>> _relative("a/./b/../1.jpg", "/data"), _relative("../1.jpg", "/data")
    ('a/1.jpg', None)
    """
    if "\0" in written:
        return None
    path = os.path.normpath(os.path.join(folder, written))  # noqa: PTH118 - pathlib keeps ".."
    if not is_inside(path, folder) and Path(written).is_absolute():
        path = os.path.realpath(written)  # the folder may have been written through a link
    if not is_inside(path, folder) or path == folder:
        return None
    if os.name != "nt" and ntpath.splitdrive(written)[0]:
        return None
    return os.path.relpath(path, folder).replace(os.sep, "/")


def _read_below(folder: str, name: str) -> bytes:
    """Read a file below a folder, unless a link leads out of it."""
    path = os.path.realpath(f"{folder}/{name}")
    if not is_inside(path, folder):
        raise ImageError("link out of the tree", f"it leads to {path}")
    return read_file(path)


def _text(value: Any, column: str, where: str) -> str:
    """Return a path or a label, which must not be empty."""
    if column == "path" and not isinstance(value, str | None):
        raise TableError(f"{where}: the path is of type {type(value).__name__}, not text")
    if isinstance(value, float) or value is None:  # pandas writes NaN for an empty cell
        text = "" if value is None or value != value else str(value)  # noqa: PLR0124 - NaN
    elif isinstance(value, str | int):
        text = str(value)
    else:
        raise TableError(
            f"{where}: the {column} is of type {type(value).__name__}",
            hint="one image has one class here: a label is a text or a number",
        )
    if not text.strip():
        raise TableError(f"{where}: the {column} is empty")
    return _checked(text if column == "path" else text.strip(), column, where)


def _checked(text: str, column: str, where: str) -> str:
    """Return a value that can be printed and written, as ids, labels and groups are."""
    if len(text) > (LONGEST_LABEL if column == "label" else _LONGEST_CELL):
        raise TableError(f"{where}: the {column} has {len(text):,} characters")
    if printable(text) != text:
        raise TableError(
            f"{where}: the {column} {printable(text)} holds control characters",
            hint="remove them: they are not part of a name",
        )
    return text


def _choose_columns(header: Sequence[str], location: str) -> _Columns:
    """Return the columns to read; path and label must be there, and none twice."""
    names = [name.strip().lower() for name in header]
    chosen: dict[str, int] = {}
    for column, synonyms in COLUMNS.items():
        found = [index for index, name in enumerate(names) if name == column]
        found = found or [index for index, name in enumerate(names) if name in synonyms]
        if len(found) > 1:
            raise TableError(
                f"{location} has {len(found)} columns that could be the {column}: "
                f"{listed([header[index] for index in found])}",
                hint=f"call the right one {column}",
            )
        if found:
            chosen[column] = found[0]
    missing = [column for column in ("path", "label") if column not in chosen]
    if missing:
        raise TableError(
            f"{location} has no column {' and no column '.join(missing)}; its columns are: "
            f"{listed([repr(name) for name in header])}",
            hint="the first row must name the columns: path, label, and optionally split and group",
        )
    parts = find_part_columns(names, chosen.get("split"))
    return _Columns([*header], chosen["path"], chosen["label"], chosen.get("group"), parts)


def _read_csv(path: Path) -> _Table:
    """Open a CSV; a row's number is that of its last line in the file."""
    try:
        text = read_regular(path, _LARGEST_CSV).decode("utf-8-sig")
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}",
            hint="save it as UTF-8",
        ) from error
    first = text.partition("\n")[0]
    # Spreadsheets write ";" where the comma is the decimal sign.
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True,
                        strict=True)  # fmt: skip
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise TableError(f"{path}, row {reader.line_num}: {error}") from error
    if not header:
        raise TableError(f"{path} is empty")
    columns = _choose_columns(header, str(path))
    return _Table(columns, _csv_rows(path, reader, columns))


def _csv_rows(path: Path, reader: Any, columns: _Columns) -> Iterator[_NumberedRow]:
    """Yield the rows after the header."""
    width, indices = len(columns.header), columns.indices
    try:
        for fields in reader:
            if not fields:
                continue
            if len(fields) != width:
                raise TableError(
                    f"{path}, row {reader.line_num}: {len(fields)} fields, and the header has "
                    f"{width}",
                    hint="put values that hold the separator into double quotes",
                )
            yield reader.line_num, {index: fields[index] for index in indices}
    except csv.Error as error:
        raise TableError(f"{path}, row {reader.line_num}: {error}") from error


def _read_parquet(path: Path) -> _Table:
    """Open a Parquet file; its first row is row 1."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", f"reading {path}") from error
    unreadable = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        header = pq.read_schema(path).names
    except unreadable as error:
        raise TableError(f"{path} cannot be read as Parquet: {error}") from error
    columns = _choose_columns(header, str(path))

    def rows() -> Iterator[_NumberedRow]:
        number, indices = 0, columns.indices
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=[header[index] for index in indices]):
                    cells = [batch.column(header[index]).to_pylist() for index in indices]
                    for row in zip(*cells, strict=True):
                        number += 1
                        yield number, dict(zip(indices, row, strict=True))
        except unreadable as error:
            raise TableError(f"{path} cannot be read as Parquet: {error}") from error

    return _Table(columns, rows())


_READERS = {
    ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet, ".pq": _read_parquet,
}  # fmt: skip
