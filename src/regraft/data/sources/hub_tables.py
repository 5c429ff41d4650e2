"""Parquet files of images as the Hugging Face hub keeps them: one column of images, one of classes.

The images' bytes are handed out as they were stored: hashed and decoded like anybody else's. Types
and names of classes are read from the files' own metadata. A row group is read at a time; so a
training by epochs, which reads in another order each time, holds the bytes of all its images, as of
a compressed tar.
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

from regraft.data.ledger import LedgerEntry
from regraft.data.samples import Entry, Part, Source
from regraft.data.sources.folder import LARGEST_FILE
from regraft.data.sources.layout import PART_NAMES, normalise
from regraft.errors import DataError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.images.payload import Load

_LARGEST_GROUP = 1 << 33  # bytes that a row group declares, decompressed
_SHARD = re.compile(r"(?P<split>.+?)(-\d+-of-\d+(-[0-9a-f]+)?|[-_.]?\d+)?\.parquet")
_LABELS = ("label", "labels")


class _Columns(NamedTuple):
    """Columns of images and classes by name; ``classes`` where classes are numbers with names."""

    image: str
    label: str
    classes: tuple[str, ...] | None


class _Place(NamedTuple):
    """Where an image lies: file, row group, row in it."""

    path: Path
    group: int
    row: int


@dataclass(frozen=True)
class Tables:
    """The files of one subset, as far as their names tell.

    Attributes
    ----------
    splits : dict of str to list of str
        Files of each split that is used: paths below the folder, as in the repository.
    parts : dict of str to ("train", "val", "test" or None)
        What each of these splits is.
    notes : tuple of str
        What was left out.
    """

    splits: dict[str, list[str]]
    parts: dict[str, Part | None]
    notes: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """All of its files: nothing else has to be downloaded."""
        return [file for files in self.splits.values() for file in files]


def choose_tables(name: str, files: Sequence[str], subset: str | None) -> Tables:
    """Choose the Parquet files of one subset by their names, before they are there.

    Parameters
    ----------
    name : str
        As the user wrote it, for messages.
    files : sequence of str
        Paths as in the repository: they say split and subset.
    subset : str, optional
        Which of several; the one that is called default where not given.

    Returns
    -------
    Tables
        Splits named like parts are these; others are left out.

    Raises
    ------
    DataError
        Where there is no such subset, there are several to choose from, or no split can be used.

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
            f"{name} {what}: {listed(sorted(found))}", hint="hf:OWNER/NAME/SUBSET chooses one"
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
        notes = (f"subset default; hf:OWNER/NAME/SUBSET chooses another: {listed(others)}", *notes)
    return Tables({split: splits[split] for split in parts}, parts, notes)


def open_tables(name: str, folder: Path, tables: Tables, label: str | None) -> Source:
    """Open the Parquet files of a dataset.

    Parameters
    ----------
    name : str
        As the user wrote it, for messages.
    folder : Path
        Where the files lie.
    tables : Tables
        Which files.
    label : str, optional
        Which column.

    Returns
    -------
    Source
        Ids are the split and a number.

    Raises
    ------
    MissingExtraError
        Where pyarrow is not installed.
    DataError
        Where a file is damaged, there are several columns to choose from, or none that can be used.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("pyarrow", "hf", f"reading {name}") from error
    damage = (pa.ArrowException, OSError, ValueError, LookupError)
    parts, notes = tables.parts, tables.notes
    entries: list[Entry] = []
    places: list[_Place] = []
    refused: list[LedgerEntry] = []
    image = ""
    for split, paths in tables.splits.items():
        number, lost = 0, []
        for columns, place, value in _rows(name, [folder / path for path in paths], label, damage):
            identifier, number, image = f"{split}/{number}", number + 1, columns.image
            known = _class_name(value, columns)
            if known is None:
                why = "its class is not told"
                lost.append(LedgerEntry(identifier, "refused", "no label", why))
            else:
                entries.append(Entry(identifier, known, parts[split]))
                places.append(place)
        if len(lost) < number:
            refused += lost
        elif number:  # competitions keep the classes of their test images
            notes = (*notes, f"{split} is left out: none of its {number:,} rows tells a class")
    if len({entry.part for entry in entries}) == 1:  # what is left is split like any other data
        entries = [dataclasses.replace(entry, part=None) for entry in entries]
    if not entries:
        raise DataError(f"{name} holds no labelled image")
    return Source("hf", name, entries, partial(_stream, image, places), tuple(refused), notes)


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
    """Return which split is which part; those that are none are left out, and told."""
    known: dict[str, Part | None] = {
        split: PART_NAMES[split.lower()] for split in splits if split.lower() in PART_NAMES
    }
    if not known and len(splits) > 1:
        raise DataError(
            f"{name} has the splits {', '.join(sorted(splits))}, none of them called like a part",
            hint="download it from its page, and give a folder with train and test folders",
        )
    others = sorted(set(splits) - set(known)) if known else []
    notes = [f"{', '.join(others)}: left out, since not called like a part"] if others else []
    if len(set(known.values())) < 2:
        only = next(iter(known or splits))
        notes.append(f"{only} is the only split, so it is split like any other data")
        known = dict.fromkeys(known or splits)
    return known, tuple(notes)


def _rows(
    name: str, files: Sequence[Path], label: str | None, damage: tuple[type[Exception], ...]
) -> Iterator[tuple[_Columns, _Place, Any]]:
    """Yield columns, place and label of each row of some files."""
    for file in files:
        try:
            columns, labels = _read_labels(name, file, label)
        except damage as error:
            raise DataError(f"{name}: {file} cannot be read: {error}") from error
        for place, value in labels:
            yield columns, place, value


def _read_labels(
    name: str, path: Path, label: str | None
) -> tuple[_Columns, list[tuple[_Place, Any]]]:
    """Return the columns of a file, and where each row lies with its label."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    with pq.ParquetFile(path) as file:
        columns = _columns(name, file.schema_arrow, label)
        found: list[tuple[_Place, Any]] = []
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).total_byte_size
            if size > _LARGEST_GROUP:
                raise DataError(f"{name}: a row group of {path} has {size:,} bytes")
            values = file.read_row_group(group, columns=[columns.label])[columns.label].to_pylist()
            found += [(_Place(path, group, row), value) for row, value in enumerate(values)]
    return columns, found


def _columns(name: str, schema: Any, wanted: str | None) -> _Columns:
    """Choose the columns of images and classes by type, and by name where there are several."""
    features = _features(schema)
    images = [
        each for each in schema.names
        if features.get(each, {}).get("_type") == "Image" or _is_image(schema.field(each).type)
    ]  # fmt: skip
    if len(images) != 1:
        seen = listed(images or schema.names)
        raise DataError(f"{name} has {len(images)} columns of images, and one is needed: {seen}")
    classes = [each for each in schema.names if features.get(each, {}).get("_type") == "ClassLabel"]
    named = [each for each in _LABELS if each in schema.names]
    candidates = [wanted] if wanted is not None else named or classes
    if len(candidates) != 1 or candidates[0] not in schema.names:
        others = [each for each in schema.names if each not in images]
        what = f"no column {wanted}" if wanted is not None else (
            f"{len(candidates)} columns that may be the label")  # fmt: skip
        raise DataError(
            f"{name} has {what}: {listed(candidates if len(candidates) > 1 else others)}",
            hint="hf:OWNER/NAME#COLUMN chooses one",
        )
    names = features.get(candidates[0], {}).get("names")
    usable = isinstance(names, list) and names and all(isinstance(each, str) for each in names)
    return _Columns(images[0], candidates[0], tuple(names) if usable else None)


def listed(names: Sequence[str]) -> str:
    """Name columns or files, not for ever."""
    return ", ".join(name[:100] for name in names[:20]) + (", ..." if len(names) > 20 else "")


def _features(schema: Any) -> dict[str, Any]:
    """Return what the hub says of the columns, in the files' own metadata."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = msgspec.json.decode(text, type=dict[str, Any])["info"]["features"]
        return {key: value for key, value in features.items() if isinstance(value, dict)}
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        return {}


def _is_image(kind: Any) -> bool:
    """Whether a column is made of bytes and a path."""
    import pyarrow as pa  # noqa: PLC0415

    return bool(pa.types.is_struct(kind)) and {each.name for each in kind} == {"bytes", "path"}


def _class_name(value: Any, columns: _Columns) -> str | None:
    """Return a row's class; None where it has none: -1 stands for that on the hub."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        if columns.classes is None:
            return str(value)
        return normalise(columns.classes[value]) if 0 <= value < len(columns.classes) else None
    return normalise(value.strip()) or None if isinstance(value, str) else None


def _stream(
    column: str, places: Sequence[_Place], indices: Sequence[int]
) -> Iterator[tuple[int, Load]]:
    """Yield the wanted images, reading each row group once."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415
    from pyarrow.compute import struct_field  # noqa: PLC0415

    for path, in_file in groupby(indices, key=lambda index: places[index].path):
        try:
            with pq.ParquetFile(path) as file:
                for group, in_group in groupby(in_file, key=lambda index: places[index].group):
                    images = file.read_row_group(group, columns=[column])[column]
                    if pa.types.is_struct(images.type):
                        images = struct_field(images, "bytes")  # never the path beside them
                    for index in in_group:
                        yield index, partial(_payload, images[places[index].row].as_py())
        except (pa.ArrowException, OSError, ValueError, LookupError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error


def _payload(payload: Any) -> bytes:
    """Return the bytes of an image; a path instead of them is not followed."""
    if not isinstance(payload, bytes):
        raise ImageError("missing", "its row holds no bytes")
    if len(payload) > LARGEST_FILE:
        raise ImageError("too large", f"it has {len(payload):,} bytes")
    return payload
