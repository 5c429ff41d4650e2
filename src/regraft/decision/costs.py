"""Costs of mistakes: a table of the true class by the answer, and the answer of least cost."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.files import read_bounded
from regraft.core.text import did_you_mean, listed
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ABSTAIN, UNKNOWN = "abstain", "unknown"
_MOST_BYTES = 64 * 2**20
LARGEST = 1e9  # a cost


@dataclass(frozen=True)
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

    def column(self, answer: str) -> int | None:
        """Return the column of "abstain" or "unknown"; None if the table has none."""
        return len(self.table) + self.extra.index(answer) if answer in self.extra else None

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
        expected = probabilities.astype(np.float64) @ self.table  # (N, A)
        unknown = self.column(UNKNOWN)
        if unknown is not None:
            expected[:, unknown] = np.inf
        cheapest: NDArray[np.int64] = expected.argmin(1)
        return cheapest


def read_costs(path: Path, classes: Sequence[str]) -> Costs:
    """Read a CSV table: a row for each true class, a column for each answer.

    The first row has the names of the answers, the first column those of the true classes, in any
    order. Columns "abstain" and "unknown" are no classes, unless there are classes of these names.

    Raises
    ------
    ConfigError
        A class is missing, a name is unknown or comes twice, or a cost is no number from 0.
    """
    try:
        text = read_bounded(path, _MOST_BYTES).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if any(row)]
    except OSError as error:
        raise ConfigError(f"costs: {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"costs: {path} is no CSV table: {error}") from error
    if len(rows) < 2:
        raise ConfigError(f"costs: {path} has no rows", hint=_form(classes))
    head = [name.strip() for name in rows[0][1:]]
    by_class = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[1:]}
    extra = tuple(name for name in (ABSTAIN, UNKNOWN) if name in head and name not in classes)
    _check_names(path, "column", head, [*classes, *extra], classes)
    _check_names(path, "row", [row[0].strip() for row in rows[1:]], classes, classes)
    table = np.array(
        [
            [_cost(path, true, answer, by_class[true], head) for answer in (*classes, *extra)]
            for true in classes
        ]
    )
    return Costs(table, extra)


def _check_names(
    path: Path, what: str, names: list[str], wanted: Sequence[str], classes: Sequence[str]
) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ConfigError(
            f"costs: {path} has no {what} for {listed(missing, 5)}", hint=_form(classes)
        )
    for number, name in enumerate(names):
        if name not in wanted:
            near = did_you_mean(name, wanted)
            raise ConfigError(f"costs: {path}: there is no class {name!r}", hint=near)
        if name in names[:number]:
            raise ConfigError(f"costs: {path} has two {what}s for {name}")


def _cost(path: Path, true: str, answer: str, cells: list[str], head: list[str]) -> float:
    at = head.index(answer)
    cell = cells[at] if at < len(cells) else ""
    try:
        cost = float(cell)
    except ValueError:
        cost = -1.0
    if not 0 <= cost <= LARGEST:
        raise ConfigError(
            f"costs: {path}: the cost of answering {answer} for {true} is {cell!r}; it must be a "
            f"number from 0 to {LARGEST:,.0f}"
        )
    return cost


def _form(classes: Sequence[str]) -> str:
    first = listed(classes, 2)
    return (
        f"a first row with the answers, such as true,{','.join(classes[:2])},abstain, then one row "
        f"for each true class: {first}"
    )
