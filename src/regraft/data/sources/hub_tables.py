"""Parquet files of images as the Hugging Face hub keeps them: one column of images, one of classes.

The images' bytes are returned as they were stored, and hashed and decoded like those of any other
source. Types and names of classes are read from the files' own metadata. Files are read by row
groups: a training by epochs, which reads in another order each time, holds the bytes of all its
images in memory, as it does for a compressed tar.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from regraft.core.text import listed
from regraft.data.labels import merged_note
from regraft.data.ledger import LedgerEntry
from regraft.data.names import normalise
from regraft.data.samples import Entry, Part, Source
from regraft.data.sources.folder import LARGEST_FILE
from regraft.data.sources.hub_files import short_list
from regraft.data.sources.part_names import find_parts, part_of
from regraft.errors import DataError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.images.payload import Load

_LARGEST_GROUP = 1 << 33  # bytes that a row group declares, decompressed
_SHARD = re.compile(r"(?P<split>.+?)(-\d+-of-\d+(-[0-9a-f]+)?|[-_.]?\d+)?\.parquet")
_LABELS = ("label", "labels")


class _Columns(NamedTuple):
    """The columns of images and classes."""

    image: str
    label: str
    classes: tuple[str, ...] | None  # names of classes, where the column has their numbers


class _Position(NamedTuple):
    """The position of an image."""

    path: Path
    group: int  # row group of the file
    row: int  # in the group


class _HubRow(NamedTuple):
    """A row without its image."""

    columns: _Columns
    position: _Position
    label: Any


@dataclass(frozen=True)
class Tables:
    """The files of one subset; their names are all that is known."""

    splits: dict[str, list[str]]  # files of each split that is used, as in the repository
    parts: dict[str, Part | None]  # part of each of these splits
    notes: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """All of its files: nothing else has to be downloaded."""
        return [file for files in self.splits.values() for file in files]


def choose_tables(name: str, files: Sequence[str], subset: str | None) -> Tables:
    """Choose the Parquet files of one subset by their names, before they are downloaded.

    ``name`` is for messages. The subset is the one called default where none is given. Splits that
    are not named like parts are left out.

    Examples
    --------
    >>> tables = choose_tables("hf:a/b", ["small/train.parquet", "large/train.parquet"], "small")
    >>> tables.files
    ['small/train.parquet']
    """
    found = _subsets(files)
    chosen = subset or ("default" if "default" in found else next(iter(found)))
    if chosen not in found or (subset is None and len(found) > 1 and chosen != "default"):
        what = "has several subsets" if subset is None else f"has no subset {subset}"
        raise DataError(
            f"{name} {what}: {short_list(sorted(found))}", hint="hf:OWNER/NAME/SUBSET chooses one"
        )
    splits = found[chosen]
    if any("/partial-" in file for some in splits.values() for file in some):
        raise DataError(
            f"{name}: the hub has converted only the first gigabytes of it",
            hint="download it from its page, and give a folder of class folders",
        )
    parts, notes = _parts(name, splits)
    others = sorted(set(found) - {chosen})
    if others and subset is None:
        notes = (
            f"subset default; hf:OWNER/NAME/SUBSET chooses another: {short_list(others)}",
            *notes,
        )
    return Tables({split: splits[split] for split in parts}, parts, notes)


def open_tables(name: str, folder: Path, tables: Tables, label: str | None) -> Source:
    """Open the Parquet files of a dataset in a folder; ids are the split and a number.

    ``name`` is for messages, and ``label`` is the column of the classes where several could be.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("pyarrow", "hf", f"reading {name}") from error
    damage = (pa.ArrowException, OSError, ValueError, LookupError)
    notes = tables.notes
    entries: list[Entry] = []
    positions: list[_Position] = []
    refused: list[LedgerEntry] = []
    image = ""
    spellings: list[tuple[Any, str]] = []
    for split, paths in tables.splits.items():
        rows = list(_rows(name, [folder / path for path in paths], label, damage))
        _require_one_class(name, split, rows)
        labelled, unlabelled = _separate_unlabelled(split, rows)
        if unlabelled and not labelled:  # competitions keep the classes of their test images
            notes = (*notes, f"{split} is left out: none of its {len(rows):,} rows has a class")
            continue
        refused += unlabelled
        spellings += [(row.label, class_name) for _, class_name, row in labelled]
        for identifier, class_name, row in labelled:
            entries.append(Entry(identifier, class_name, tables.parts[split]))
            positions.append(row.position)
            image = row.columns.image
    if len({entry.part for entry in entries}) == 1:  # only one split is left
        entries = [dataclasses.replace(entry, part=None) for entry in entries]
    if not entries:
        raise DataError(f"{name} holds no labelled image")
    merged = merged_note((text, used) for text, used in spellings if isinstance(text, str))
    stream = partial(_stream, image, positions)
    return Source("hf", name, entries, stream, tuple(refused), (*notes, *merged))


def _require_one_class(name: str, split: str, rows: Sequence[_HubRow]) -> None:
    """Raise DataError where rows have lists of several classes."""
    several = [row for row in rows if isinstance(row.label, list) and len(row.label) > 1]
    if several:
        named = [_class_name(value, several[0].columns) or "none" for value in several[0].label]
        raise DataError(
            f"{name}: {len(several):,} of {len(rows):,} rows of {split} have several classes, such "
            f"as {listed(named, 3)}",
            hint="one image has one class here; hf:OWNER/NAME#COLUMN chooses another column",
        )


def _separate_unlabelled(
    split: str, rows: Sequence[_HubRow]
) -> tuple[list[tuple[str, str, _HubRow]], list[LedgerEntry]]:
    """Return id, class and row where there is a class, and ledger entries for the others."""
    labelled, unlabelled = [], []
    for number, row in enumerate(rows):
        identifier, class_name = f"{split}/{number}", _class_name(row.label, row.columns)
        if class_name is None:
            entry = LedgerEntry(identifier, "refused", "no label", "its row has no class")
            unlabelled.append(entry)
        else:
            labelled.append((identifier, class_name, row))
    return labelled, unlabelled


def _subsets(files: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Sort files by subset and split: `SUBSET/train-00000-of-00002.parquet` and the like."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        path = PurePosixPath(file)
        match = _SHARD.fullmatch(path.name)
        split = path.stem if match is None else match["split"]
        folders = [part for part in path.parts[:-1] if part != "data"]
        if split.isdecimal() and folders:  # default/train/0000.parquet, as the hub converts
            split = folders.pop()
        found["/".join(folders) or "default"][split].append(file)
    return found


def _parts(
    name: str, splits: dict[str, list[str]]
) -> tuple[dict[str, Part | None], tuple[str, ...]]:
    """Return the part of each split that has one, and notes about the others."""
    single = {split: part for split in splits if (part := part_of(split)) is not None}
    known: dict[str, Part | None] = dict(find_parts(splits) or single)
    if not known and len(splits) > 1:
        raise DataError(
            f"{name} has the splits {short_list(sorted(splits))}, none of them called like a part",
            hint="download it from its page, and give a folder with train and test folders",
        )
    others = sorted(set(splits) - set(known)) if known else []
    notes = [f"{short_list(others)}: left out, since not called like a part"] if others else []
    if len(set(known.values())) < 2:
        only = next(iter(known or splits))
        notes.append(f"{only} is the only split, so it is split like any other data")
        known = dict.fromkeys(known or splits)
    return known, tuple(notes)


def _rows(
    name: str, files: Sequence[Path], label: str | None, damage: tuple[type[Exception], ...]
) -> Iterator[_HubRow]:
    """Yield the rows of some files."""
    for file in files:
        try:
            rows = _read_rows(name, file, label)
        except damage as error:
            raise DataError(f"{name}: {file} cannot be read: {error}") from error
        yield from rows


def _read_rows(name: str, path: Path, label: str | None) -> list[_HubRow]:
    """Return the rows of a file; of its columns only the labels are read."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    rows: list[_HubRow] = []
    with pq.ParquetFile(path) as file:
        columns = _columns(name, file.schema_arrow, label)
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).total_byte_size
            if size > _LARGEST_GROUP:
                raise DataError(f"{name}: a row group of {path} has {size:,} bytes")
            values = file.read_row_group(group, columns=[columns.label])[columns.label].to_pylist()
            rows += [
                _HubRow(columns, _Position(path, group, row), value)
                for row, value in enumerate(values)
            ]
    return rows


def _columns(name: str, schema: Any, wanted: str | None) -> _Columns:
    """Choose the columns of images and classes by type, and by name where there are several."""
    features = _features(schema)
    images = [
        each for each in schema.names
        if features.get(each, {}).get("_type") == "Image" or _is_image(schema.field(each).type)
    ]  # fmt: skip
    if len(images) != 1:
        seen = short_list(images or schema.names)
        raise DataError(f"{name} has {len(images)} columns of images, and one is needed: {seen}")
    classes = [each for each in schema.names if features.get(each, {}).get("_type") == "ClassLabel"]
    named = [each for each in _LABELS if each in schema.names]
    candidates = [wanted] if wanted is not None else named or classes
    if len(candidates) != 1 or candidates[0] not in schema.names:
        others = [each for each in schema.names if each not in images]
        what = f"no column {wanted}" if wanted is not None else (
            f"{len(candidates)} columns that may be the label")  # fmt: skip
        raise DataError(
            f"{name} has {what}: {short_list(candidates if len(candidates) > 1 else others)}",
            hint="hf:OWNER/NAME#COLUMN chooses one",
        )
    names = features.get(candidates[0], {}).get("names")
    usable = isinstance(names, list) and names and all(isinstance(each, str) for each in names)
    return _Columns(images[0], candidates[0], tuple(names) if usable else None)


def _features(schema: Any) -> dict[str, Any]:
    """Return the hub's description of the columns, from the file's own metadata."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = msgspec.json.decode(text, type=dict[str, Any])["info"]["features"]
        return {key: value for key, value in features.items() if isinstance(value, dict)}
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        return {}


def _is_image(kind: Any) -> bool:
    """Return whether a column has bytes and a path in each row."""
    import pyarrow as pa  # noqa: PLC0415

    return bool(pa.types.is_struct(kind)) and {each.name for each in kind} == {"bytes", "path"}


def _class_name(value: Any, columns: _Columns) -> str | None:
    """Return a row's class; None where it has none, for which the hub has the number -1."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        if columns.classes is None:
            return str(value)
        return normalise(columns.classes[value]) if 0 <= value < len(columns.classes) else None
    if isinstance(value, list) and len(value) == 1:  # a list of classes, of which there is one
        return _class_name(value[0], columns)
    return normalise(value.strip()) or None if isinstance(value, str) else None


def _stream(
    column: str, positions: Sequence[_Position], indices: Sequence[int]
) -> Iterator[tuple[int, Load]]:
    """Yield each wanted index with the function that returns its image, by row groups."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415
    from pyarrow.compute import struct_field  # noqa: PLC0415

    for path, in_file in groupby(indices, key=lambda index: positions[index].path):
        try:
            with pq.ParquetFile(path) as file:
                for group, in_group in groupby(in_file, key=lambda index: positions[index].group):
                    images = file.read_row_group(group, columns=[column])[column]
                    if pa.types.is_struct(images.type):
                        images = struct_field(images, "bytes")  # never the path beside them
                    for index in in_group:
                        yield index, partial(_payload, images[positions[index].row].as_py())
        except (pa.ArrowException, OSError, ValueError, LookupError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error


def _payload(payload: Any) -> bytes:
    """Return the bytes of an image; a path without bytes is not opened."""
    if not isinstance(payload, bytes):
        raise ImageError("missing", "its row holds no bytes")
    if len(payload) > LARGEST_FILE:
        raise ImageError("too large", f"it has {len(payload):,} bytes")
    return payload
