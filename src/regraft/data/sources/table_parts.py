"""Which part the rows of a table are in: a column of names of parts, or columns of yes and no.

Cells may be empty: such a row is in no part, and the split decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft.data.sources.part_names import PART_NAMES, find_parts, part_of
from regraft.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from regraft.data.samples import Part

#: Columns whose cells must be parts, in lower case; the first wins over the others.
SPLIT_COLUMNS = (
    "split", "part", "subset", "set", "partition", "data_split", "dataset_split", "split_name",
)  # fmt: skip
#: Columns that name parts in some tables and something else in others: used if all cells do.
_MAYBE = ("usage", "phase", "stage", "fold", "dataset", "data set", "data_set")
#: Columns of yes and no, and the part that yes means; fastai writes is_valid.
_YES_NO: dict[str, Part] = {
    "is_valid": "val", "is_val": "val", "is_validation": "val", "is_test": "test",
    "is_holdout": "test", "is_train": "train", "is_training": "train", "is_training_image": "train",
}  # fmt: skip
_YES = {"true", "1", "1.0", "yes", "y", "t"}
_NO = {"false", "0", "0.0", "no", "n", "f"}
#: More words for parts; PublicTest and PrivateTest are the two test parts of Kaggle's contests.
_WORDS: dict[str, Part] = {
    "publictest": "val", "privatetest": "test", "heldout": "test", "trn": "train", "vld": "val",
    "tst": "test",
}  # fmt: skip


class PartColumns(NamedTuple):
    """The columns that say in which part a row is; at most one of three kinds is there."""

    split: int | None = None  # index in the header
    maybe: int | None = None
    yes_no: tuple[tuple[Part, int], ...] = ()

    @property
    def indices(self) -> list[int]:
        """Return the columns to read."""
        named = [index for index in (self.split, self.maybe) if index is not None]
        return [*named, *(index for _, index in self.yes_no)]


def find_part_columns(names: Sequence[str], split: int | None) -> PartColumns:
    """Return the columns to read, of names in lower case; ``split`` is that of parts, if known."""
    if split is not None:
        return PartColumns(split)
    yes_no: dict[Part, int] = {}
    for index, name in enumerate(names):
        if name in _YES_NO:
            yes_no.setdefault(_YES_NO[name], index)
    if yes_no:
        return PartColumns(yes_no=tuple(yes_no.items()))
    return PartColumns(maybe=next((names.index(name) for name in _MAYBE if name in names), None))


def part_word(columns: PartColumns, cells: Mapping[int, Any], where: str) -> str:
    """Return what a row says of its part, as it is written; "" for nothing."""
    if columns.yes_no:
        return _from_yes_no({part: _text(cells[index]) for part, index in columns.yes_no}, where)
    return _text(cells[columns.indices[0]]) if columns.indices else ""


def parts_of_words(
    columns: PartColumns, first_rows: Mapping[str, int], header: Sequence[str], location: str
) -> tuple[dict[str, Part | None], str]:
    """Return the part of each word in the rows, and a note, "" where nothing is to be said.

    ``first_rows`` has the number of the first row with each word. Raises TableError for a word of a
    column of parts that is none.
    """
    words = sorted(filter(None, first_rows), key=lambda word: first_rows[word])
    nothing: dict[str, Part | None] = dict.fromkeys(first_rows)
    if columns.yes_no and words:
        said = [f"{header[index]} as {part}" for part, index in columns.yes_no]
        return {**nothing, **PART_NAMES}, f"read as parts: yes in {', '.join(said)}"
    pairs = find_parts(words)
    parts = {word: pairs.get(word) or _part(word) for word in words}
    unknown = [word for word, part in parts.items() if part is None]
    if not words or (columns.maybe is not None and len(unknown) == len(words)):
        numbered = bool(words) and all(word.isdecimal() for word in words)
        column = "" if columns.maybe is None else header[columns.maybe]
        note = f"the column {column} is not read: its numbers do not say which images are tested"
        return nothing, note if numbered else ""
    column = header[columns.indices[0]]
    if unknown:
        raise TableError(
            f"{location}, row {first_rows[unknown[0]]}: the {column.strip()} is {unknown[0]!r}",
            hint="use train, val and test, leave cells empty, or call the column something else",
        )
    unusual = [
        f"{word} as {part}" for word, part in parts.items() if word.lower() not in PART_NAMES
    ]
    if unusual or columns.maybe is not None:
        return nothing | parts, f"the column {column} is read as parts" + (
            f": {', '.join(unusual)}" if unusual else ""
        )
    return nothing | parts, ""


def _part(word: str) -> Part | None:
    plain = re.sub(r"[\W_]+", "", word).lower()
    return _WORDS.get(plain) or part_of(word)


def _from_yes_no(cells: Mapping[Part, str], where: str) -> str:
    """Return the part that cells of yes and no mean, by the part of their columns."""
    for part, text in cells.items():
        if text and text.lower() not in _YES | _NO:
            raise TableError(
                f"{where}: {text!r} in the column of {part} images is neither yes nor no",
                hint="use True and False, or a column split with train, val and test",
            )
    said = [part for part, text in cells.items() if text.lower() in _YES]
    if len(said) > 1:
        raise TableError(
            f"{where}: it is said to be in the {' and in the '.join(said)} part",
            hint="an image is in one part",
        )
    if said:
        return said[0]
    if "" in cells.values():
        return ""
    others: list[Part] = ["test", "val"] if "train" in cells else ["train"]
    left = [part for part in others if part not in cells]
    if not left:
        raise TableError(f"{where}: it is said to be in no part", hint="leave the cells empty")
    return left[0]


def _text(value: Any) -> str:
    """Return a cell as text; empty for what pandas writes for an empty cell."""
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124 - NaN
        return ""
    text = str(value).strip()
    return "" if text.lower() == "nan" else text
