"""Costs of mistakes: a table of the true class by the answer, and the answer of least cost."""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.files import read_bounded
from regraft.core.text import counted, did_you_mean, listed
from regraft.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ABSTAIN, UNKNOWN = "abstain", "unknown"
#: The same as numbers beside those of the classes, in ``Decided.actions``.
ABSTAINED, IS_UNKNOWN = -1, -2
_MOST_BYTES = 64 * 2**20
LARGEST = 1e9  # a cost
#: Where commas may be decimal marks: a thousand and more, or one and some thousandths.
_AMBIGUOUS = re.compile(r"[1-9][0-9]{0,2}[.,][0-9]{3}")
MOST_COSTLY = 1_000  # classes of a table that a bundle keeps; it then has 8 MB
#: What stands above the rows if these are answers: rows and columns are exchanged.
_OF_ANSWERS = re.compile(r"(predict(ed|ions?)?|answers?|decisions?)\b", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Costs:
    """What each answer costs, by the true class.

    Parameters
    ----------
    table : array of shape (K, A), float64
        Cost of each answer: the K classes, then those of ``extra``; 0 or more.
    extra : tuple of str
        Further answers: "abstain", "unknown", both or none.
    """

    table: NDArray[np.float64]
    extra: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return ", ".join([counted(len(self.table), "class", "classes"), *self.extra])

    def column(self, answer: str) -> int | None:
        """Return the column of "abstain" or "unknown"; None if the table has none."""
        return len(self.table) + self.extra.index(answer) if answer in self.extra else None

    @classmethod
    def from_tensor(
        cls, table: NDArray[np.generic] | None, extra: Sequence[str], n_classes: int
    ) -> Costs:
        """Check and take over the table that a bundle kept.

        Raises
        ------
        InputError
            It is missing, of another type or shape, or holds what is no cost.
        """
        shape = (n_classes, n_classes + len(extra))
        if table is None or table.dtype != np.float64 or table.shape != shape:
            raise InputError(f"costs must be a table of float64 of the shape {shape}")
        costs: NDArray[np.float64] = table.astype(np.float64)
        if not ((costs >= 0) & (costs <= LARGEST)).all():
            raise InputError(f"costs must be from 0 to {LARGEST:,.0f}")
        return cls(costs, tuple(extra))

    def cheapest(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the column of least expected cost for each image (N,).

        "unknown" is never chosen: probabilities of the classes say nothing about it.

        Elkan, The foundations of cost-sensitive learning, IJCAI 2001.

        Examples
        --------
        >>> costs = Costs(np.array([[0.0, 1.0, 0.3], [5.0, 0.0, 0.3]]), ("abstain",))
        >>> costs.cheapest(np.array([[0.99, 0.01], [0.8, 0.2], [0.1, 0.9]])).tolist()
        [0, 2, 1]
        """
        cheapest: NDArray[np.int64] = self.expected(probabilities).argmin(1)
        return cheapest

    def expected(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the expected cost of each answer (N, A); that of "unknown" is infinite."""
        expected: NDArray[np.float64] = probabilities.astype(np.float64) @ self.table
        unknown = self.column(UNKNOWN)
        if unknown is not None:
            expected[:, unknown] = np.inf
        return expected


def read_costs(path: Path, classes: Sequence[str]) -> Costs:
    """Read a CSV table: a row for each true class, a column for each answer.

    The first row has the names of the answers, the first column those of the true classes, in any
    order. Columns "abstain" and "unknown" are no classes, unless there are classes of these names.
    Between cells is a comma, a semicolon or a tab; with the latter two, a cost may have a decimal
    comma, as spreadsheets write it in many countries.

    Raises
    ------
    ConfigError
        A class is missing, a name is unknown or comes twice, a cost is no number from 0, or there
        are more classes than a bundle can keep costs of.
    """
    if len(classes) > MOST_COSTLY:
        raise ConfigError(
            f"costs: a table has at most {MOST_COSTLY:,} classes, there are {len(classes):,}"
        )
    text, known = read_text_of(path), {*classes}
    try:
        first = io.StringIO(text.lstrip(), newline="").readline()
        delimiter = _delimiter(first, classes)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [cells for line in lines if (cells := _cells(line, known))]
    except csv.Error as error:
        raise ConfigError(f"costs: {path} is no CSV table: {error}") from error
    if len(rows) < 2:
        raise ConfigError(f"costs: {path} has no rows", hint=_form(classes))
    corner, *answers = rows[0]
    if _OF_ANSWERS.match(corner):
        raise ConfigError(
            f"costs: {path} begins with {corner!r}, as if each row were an answer; each row must "
            "be a true class, and each column an answer",
            hint="exchange rows and columns, or write true in the first cell if they are right",
        )
    extra = tuple(name for name in (ABSTAIN, UNKNOWN) if name in answers and name not in classes)
    _check_names(path, "column", answers, classes, (*classes, *extra))
    _check_names(path, "row", [row[0] for row in rows[1:]], classes, classes)
    by_class = {row[0]: row[1:] for row in rows[1:]}
    for true, cells in by_class.items():
        cells.extend([""] * (len(answers) - len(cells)))
        if len(cells) > len(answers):
            raise ConfigError(
                f"costs: {path}: the row of {true} has {counted(len(cells), 'cost')} for "
                f"{counted(len(answers), 'answer')}",
                hint="a decimal comma needs semicolons between the cells, or write 0.5",
            )
    at = [answers.index(name) for name in (*classes, *extra)]
    table = [
        [_cost(path, (true, answers[k]), by_class[true][k], delimiter) for k in at]
        for true in classes
    ]
    check_table(np.array(table), classes, f"costs: {path}")
    return Costs(np.array(table), extra)


def check_table(table: NDArray[np.float64], classes: Sequence[str], where: str) -> None:
    """Raise ConfigError for a table (K, A) that cannot be meant; ``where`` begins the message.

    Each right answer must be the cheapest, or one of these (Elkan 2001 calls others unreasonable).
    """
    k = len(classes)
    of_classes, right = table[:, :k], np.diagonal(table)  # (K, K), (K,)
    if (of_classes == right[:, None]).all():
        raise ConfigError(
            f"{where}: a wrong answer costs as much as the right one for each class, so that "
            "nothing can be chosen",
            hint="0 for right answers, more than 0 for wrong ones",
        )
    if (of_classes < right[:, None]).any():
        true, answer = np.argwhere(of_classes < right[:, None])[0].tolist()
        name, cost = classes[true], table[true]
        raise ConfigError(
            f"{where}: answering {name} for {name}, which is right, costs {cost[true]:g}, more "
            f"than answering {classes[answer]}, {cost[answer]:g}",
            hint="0 for right answers, more than 0 for wrong ones: these are costs, not gains",
        )


def names_note(classes: Sequence[str]) -> list[str]:
    """Return a note where a class has the name of a decision; else none.

    Examples
    --------
    >>> names_note(["cat", "dog"]), len(names_note(["cat", "unknown"]))
    ([], 1)
    """
    both = [name for name in (ABSTAIN, UNKNOWN) if name in classes]
    if not both:
        return []
    have = counted(len(both), "class has", "classes have")
    note = (
        f"{have} the name of a decision: {listed(both, 2)}; the fields abstained and unknown of an "
        "answer tell which is meant, and a column of this name in a table of costs is the class"
    )
    return [note]


def read_text_of(path: Path) -> str:
    """Return the text of a table of costs; raise ConfigError if it is none, or there is no file."""
    try:
        return read_bounded(path, _MOST_BYTES).decode("utf-8-sig")
    except InputError as error:
        raise ConfigError(f"costs: {error.message}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"costs: {path} is not UTF-8 text: {error.reason} at byte {error.start}",
            hint="save it as CSV in UTF-8",
        ) from error


def _delimiter(first: str, classes: Sequence[str]) -> str:
    """Return what is between the cells: with it, the first line names the most classes."""
    known = {*classes}

    def named(delimiter: str) -> int:
        lines = csv.reader([first], delimiter=delimiter)
        return len(known.intersection(*(_cells(line, known) for line in lines)))

    return max(",;\t", key=named)


def _cells(line: Sequence[str], classes: Container[str]) -> list[str]:
    """Return the cells of a line, without empty ones at the end: spreadsheets write these too.

    Spaces around a cell are left out, but where the name of a class has them.
    """
    cells = [unicodedata.normalize("NFC", cell) for cell in line]  # as names of classes are
    cells = [cell if cell in classes else cell.strip() for cell in cells]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _check_names(
    path: Path, what: str, names: list[str], classes: Sequence[str], wanted: Sequence[str]
) -> None:
    for number, name in enumerate(names):
        if name not in wanted:
            known = [*classes, ABSTAIN, UNKNOWN] if what == "column" else classes
            raise ConfigError(
                f"costs: {path} has a {what} for {name!r}, which is no class",
                hint=did_you_mean(name, known) or _form(classes),
            )
        if name in names[:number]:
            hint = "keep one of them"
            if what == "column" and name in {ABSTAIN, UNKNOWN} and name in classes:
                hint = f"{name} is a class here; rename it to give the decision {name} a cost"
            raise ConfigError(f"costs: {path} has two {what}s for {name}", hint=hint)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ConfigError(
            f"costs: {path} has no {what} for {listed(missing, 5)}", hint=_form(classes)
        )


def _cost(path: Path, names: tuple[str, str], cell: str, delimiter: str) -> float:
    """Return the cost in the cell of a true class and an answer."""
    place = f"costs: {path}: the cost of answering {names[1]} for {names[0]}"
    if not cell:
        raise ConfigError(f"{place} is missing", hint="0 where an answer costs nothing")
    if delimiter != "," and _AMBIGUOUS.fullmatch(cell):
        raise ConfigError(
            f"{place} is {cell!r}: thousands, or decimal places?",
            hint="write it without a mark between thousands, and not with three decimal places",
        )
    try:
        cost = float(cell if delimiter == "," else cell.replace(",", "."))
    except ValueError:
        cost = math.nan
    if "_" in cell:  # between digits, Python passes over it
        cost = math.nan
    if not 0 <= cost <= LARGEST:
        raise ConfigError(f"{place} is {cell!r}; it must be a number from 0 to {LARGEST:,.0f}")
    return cost


def _form(classes: Sequence[str]) -> str:
    return (
        f"a first row with the answers, such as true,{','.join(classes[:2])},abstain, then one row "
        f"for each true class: {listed(classes, 2)}"
    )
