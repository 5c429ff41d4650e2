"""CSV and Parquet tables: path, label, and optionally split and group.

Paths are relative to the table's folder. An absolute path, or one with ``..``, is accepted where it
leads to a place below that folder, and its id is the relative path. All others are refused: a table
from elsewhere must not reach files that have nothing to do with it. Backslashes are separators.
"""

from __future__ import annotations

import csv
import io
import ntpath
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.core.files import read_regular
from regraft.data.samples import Entry, Source
from regraft.data.sources.folder import is_inside, read_file
from regraft.data.sources.layout import LONGEST_LABEL, PART_NAMES, Members, normalise, printable
from regraft.errors import ImageError, MissingExtraError, TableError

if TYPE_CHECKING:
    from regraft.data.sources.options import Data, SourceOptions
    from regraft.images.payload import Load

#: Column names in lower case; the first is the canonical one, which wins over its synonyms.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image",
             "image_path", "img"),
    "label": ("label", "class", "target", "category", "class_name", "label_name"),
    "split": ("split", "part", "subset", "set"),
    "group": ("group", "group_id"),
}  # fmt: skip

_LONGEST_CELL = 4096  # characters: no system opens a longer path
_LARGEST_CSV = 1 << 30  # bytes, about ten million rows

#: (number of the row, {"path": ..., "label": ..., "split": ..., "group": ...})
_Row = tuple[int, Mapping[str, Any]]


def open_table(data: Data, options: SourceOptions) -> Source | None:  # noqa: ARG001
    """Open a table of paths and labels; None for anything else.

    Raises
    ------
    TableError
        Where columns are missing or a row cannot be used; it names the row.
    MissingExtraError
        Where Parquet is to be read and pyarrow is not installed.
    """
    if isinstance(data, tuple):
        return None
    path = Path(data)
    read = _READERS.get(path.suffix.lower())
    if read is None or not path.is_file():
        return None
    location = os.fspath(data)
    return _source(location, os.path.realpath(path.parent), read(path))


def _source(location: str, folder: str, rows: Iterable[_Row]) -> Source:
    """Turn rows into entries; files are not touched before they are read."""
    found: list[tuple[Entry, str]] = []
    members: Members[str] = Members()
    seen: dict[str, tuple[int, str]] = {}
    backslashes = 0
    for number, row in rows:
        written = _text(row, "path", number, location)
        backslashes += "\\" in written
        label = normalise(_text(row, "label", number, location))
        part = None
        if "split" in row:
            value = "" if row["split"] is None else str(row["split"]).strip()
            value = _checked(value, "split", number, location)
            part = PART_NAMES.get(value.lower())
            if part is None:
                raise TableError(
                    f"{location}, row {number}: the split is {value!r}",
                    hint="use train, val and test, or leave the column out",
                )
        group = None
        if row.get("group") is not None:
            group = _checked(str(row["group"]), "group", number, location).strip() or None
        name = _relative(written.replace("\\", "/"), folder)
        if name is None:
            raise TableError(
                f"{location}, row {number}: {written} lies outside of the table's folder",
                hint="paths must lead to files below the table's folder",
            )
        earlier, known_as = seen.setdefault(normalise(name), (number, label))
        if known_as != label:
            raise TableError(
                f"{location}, row {number}: {name} has the label {label}, and {known_as} in row "
                f"{earlier}",
                hint="an image has one label: take out the wrong row",
            )
        if earlier != number:
            members.refuse(name, "duplicate name", f"row {number}: row {earlier} has it already")
        else:
            found.append((Entry(normalise(name), label, part, group), name))
    found.sort(key=lambda pair: pair[0].id)  # the order of rows changes no result
    if not found:
        raise TableError(
            f"{location} has no usable row",
            hint="each row needs the path of an image below the table's folder, and its label",
        )
    notes = (f"{backslashes} paths are written with backslashes, which are read as separators",)
    return Source(
        "table",
        location,
        [entry for entry, _ in found],
        partial(_stream, folder, [name for _, name in found]),
        tuple(members.left_out),
        notes if backslashes else (),
    )


def _relative(written: str, folder: str) -> str | None:
    """Return a path below the table's folder in its normal form; None where it leads out.

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


def _stream(
    folder: str, paths: Sequence[str], indices: Sequence[int]
) -> Iterator[tuple[int, Load]]:
    for index in indices:
        yield index, partial(_read, folder, paths[index])


def _read(folder: str, name: str) -> bytes:
    path = os.path.realpath(f"{folder}/{name}")
    if not is_inside(path, folder):
        raise ImageError("link out of the tree", f"it leads to {path}")
    return read_file(path)


def _text(row: Mapping[str, Any], column: str, number: int, location: str) -> str:
    """Return a value that must not be empty."""
    value = row[column]
    if column == "path" and not isinstance(value, str | None):
        raise TableError(
            f"{location}, row {number}: the path is of type {type(value).__name__}, not text"
        )
    if isinstance(value, float) or value is None:  # NaN is what pandas makes of an empty cell
        text = "" if value is None or value != value else str(value)  # noqa: PLR0124 - NaN
    elif isinstance(value, str | int):
        text = str(value)
    else:
        raise TableError(
            f"{location}, row {number}: the {column} is of type {type(value).__name__}",
            hint="labels are text or whole numbers",
        )
    if not text.strip():
        raise TableError(f"{location}, row {number}: the {column} is empty")
    return _checked(text if column == "path" else text.strip(), column, number, location)


def _checked(text: str, column: str, number: int, location: str) -> str:
    """Return a value that can be printed and written; ids, labels and groups all will be."""
    if len(text) > (LONGEST_LABEL if column == "label" else _LONGEST_CELL):
        raise TableError(f"{location}, row {number}: the {column} has {len(text):,} characters")
    if printable(text) != text:
        raise TableError(
            f"{location}, row {number}: the {column} {printable(text)} holds control characters",
            hint="remove them: they are no part of a name",
        )
    return text


def _choose_columns(header: Sequence[str], location: str) -> dict[str, int]:
    """Return where each known column is.

    Raises
    ------
    TableError
        Where path or label is missing, or two columns could be the same one.
    """
    names = [name.strip().lower() for name in header]
    chosen: dict[str, int] = {}
    for column, synonyms in COLUMNS.items():
        at = [index for index, name in enumerate(names) if name == column]
        at = at or [index for index, name in enumerate(names) if name in synonyms]
        if len(at) > 1:
            raise TableError(
                f"{location} has {len(at)} columns that could be the {column}: "
                f"{', '.join(header[index] for index in at)}",
                hint=f"call the right one {column}",
            )
        if at:
            chosen[column] = at[0]
    missing = [column for column in ("path", "label") if column not in chosen]
    if missing:
        raise TableError(
            f"{location} has no column {' and no column '.join(missing)}; its columns are: "
            f"{', '.join(map(repr, header[:10]))}",
            hint="the first row must name the columns: path, label, and optionally split and group",
        )
    return chosen


def _read_csv(path: Path) -> Iterator[_Row]:
    """Yield the rows of a CSV; the number of a row is that of its last line in the file."""
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
        if not header:
            raise TableError(f"{path} is empty")
        columns = _choose_columns(header, str(path))
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise TableError(
                    f"{path}, row {reader.line_num}: {len(fields)} fields, and the header has "
                    f"{len(header)}",
                    hint="put values that hold the separator into double quotes",
                )
            yield reader.line_num, {column: fields[at] for column, at in columns.items()}
    except csv.Error as error:
        raise TableError(f"{path}, row {reader.line_num}: {error}") from error


def _read_parquet(path: Path) -> Iterator[_Row]:
    """Yield the rows of a Parquet file; the first is row 1."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", f"reading {path}") from error
    try:
        with pq.ParquetFile(path) as file:
            header = file.schema_arrow.names
            columns = _choose_columns(header, str(path))
            wanted = [header[at] for at in columns.values()]
            number = 0
            for batch in file.iter_batches(columns=wanted):
                values = {c: batch.column(header[at]).to_pylist() for c, at in columns.items()}
                for row in zip(*values.values(), strict=True):
                    number += 1
                    yield number, dict(zip(values, row, strict=True))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read as Parquet: {error}") from error


_READERS = {
    ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet, ".pq": _read_parquet,
}  # fmt: skip
