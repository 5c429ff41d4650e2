"""Results for people and for programs: lines, JSON lines, CSV, tables."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import TYPE_CHECKING, Any, TypeAlias

from regraft.cli.streams import tell, write
from regraft.core.csv_text import warn_of_formulas
from regraft.core.text import columns, counted
from regraft.errors import one_line, visible
from regraft.runs.names import TABLE_HINT, write_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

#: The id, labels with probabilities, what was decided, and the error.
_Row: TypeAlias = "tuple[str, list[object], list[object], str]"

#: Fields of tables that hold bytes.
BYTES = {"bytes", "download", "limit"}
#: Of a line of ``predict --json``; a reader of this version may ignore further fields.
PREDICTION_VERSION = 1
#: What is decided about an image, in columns and JSON alike.
_DECIDED = ("typicality", "unknown", "set", "abstained", "decision")


def write_predictions(
    results: Iterable[Any], *, csv: Path | None, json: bool, overwrite: bool = False
) -> int:
    """Write predictions as they come: to a CSV file, to stdout as JSON lines, or to both.

    Without ``csv`` and ``json`` each is a line for people. The CSV file has a row for every image,
    and is written once it is complete; with ``overwrite`` it replaces an old one. JSON has a line
    for every image, with ``error`` null or text. An image that could not be used is named on stderr
    too; the exit code, which is returned, is then 1.
    """
    refused = 0
    rows: list[_Row] = []
    for result in results:
        if result.error is not None:
            refused += 1
            tell(f"{_one_line(result.id)}: {_one_line(result.error)}")
            if csv is not None:
                rows.append((result.id, [], [""] * len(_DECIDED), _one_line(result.error)))
            if json:
                write(_json_line(result))
            continue
        if csv is None or json:
            write(_json_line(result) if json else _line(result))
        if csv is not None:
            pairs = [value for pair in result.top for value in pair]
            rows.append((result.id, pairs, _decided_cells(result), ""))
    if csv is not None:
        _write_table(csv, rows, overwrite=overwrite)
        counts = counted(len(rows) - refused) + (f", {refused:,} refused" if refused else "")
        tell(_one_line(f"{csv}: {counts}"))
    return 1 if refused else 0


def _decided_cells(result: Any) -> list[object]:
    """Return what was decided about an image as cells: empty where it was not."""
    cells = []
    for name in _DECIDED:
        value = getattr(result, name)
        if isinstance(value, tuple):
            value = json_module.dumps(list(value), ensure_ascii=False)
        elif isinstance(value, bool):
            value = str(value).lower()
        cells.append("" if value is None else value)
    return cells


def _write_table(path: Path, rows: Sequence[_Row], *, overwrite: bool) -> None:
    width = max([2, *(len(pairs) for _, pairs, _, _ in rows)])
    # Not "label": that is the true class in every other table.
    names = ("predicted", "probability")
    further = [f"{name}_{k}" for k in range(2, width // 2 + 1) for name in names]
    table: list[list[object]] = [["id", *names, *further, *_DECIDED, "error"]]
    table += [
        [name, *pairs, *[""] * (width - len(pairs)), *decided, error]
        for name, pairs, decided, error in rows
    ]
    write_table(path, table, TABLE_HINT, overwrite=overwrite)
    cells = (cell for name, *several, _ in rows for cell in (name, *several[0], *several[1]))
    warn_of_formulas(str(path), cells)


def _line(result: Any) -> str:
    pairs = ", ".join(f"{_one_line(label)} {probability:.3f}" for label, probability in result.top)
    if result.decision not in {None, result.label}:  # what is decided comes first
        pairs = f"{_one_line(result.decision)} ({pairs})"
    return "; ".join([f"{_one_line(result.id)}: {pairs}", *map(_one_line, result.remarks())])


def _json_line(result: Any) -> str:
    top = [{"label": label, "probability": probability} for label, probability in result.top]
    best = top[0] if top else {"label": None, "probability": None}
    error = None if result.error is None else str(result.error)
    decided = {name: getattr(result, name) for name in _DECIDED}
    version = {"schema_version": PREDICTION_VERSION}
    return _json({**version, "id": result.id, **best, "top": top, **decided, "error": error})


def _json(value: Any, **options: Any) -> str:
    text = json_module.dumps(value, ensure_ascii=False, **options)
    # JSON's own escapes, if a name has characters that control a terminal.
    return text if visible(text) == text else json_module.dumps(value, **options)


def _one_line(text: object) -> str:
    return visible(" ".join(str(text).split()))


def as_json(value: Mapping[str, Any]) -> str:
    """Return a mapping as indented JSON; NaN and infinity are errors, since JSON has neither."""
    return _json(value, indent=2, allow_nan=False)


def as_table(rows: Sequence[Any]) -> str:
    """Return dataclasses of one kind as an aligned table, headed by the names of their fields.

    Examples
    --------
    >>> from regraft.data.ledger import LedgerEntry
    >>> print(as_table([LedgerEntry("a.jpg", "used"), LedgerEntry("b", "refused", "truncated")]))
    path   status   kind       reason
    a.jpg  used
    b      refused  truncated
    """
    if not rows:
        return ""
    names = [field.name for field in dataclasses.fields(rows[0])]
    values = [[getattr(row, name) for name in names] for row in rows]
    numeric = {
        column
        for column in range(len(names))
        if all(isinstance(row[column], int | float | None) for row in values)
    }
    cells = [[_cell(*pair) for pair in zip(names, row, strict=True)] for row in values]
    return columns([name.replace("_", " ") for name in names], cells, right=numeric)


def _cell(name: str, value: Any) -> str:
    if name in BYTES:
        return f"{value / 1e6:,.0f} MB"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else one_line(str(value))
