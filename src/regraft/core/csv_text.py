"""CSV tables: every name comes back as it was; which cells a spreadsheet would run as formulas.

Names in our files stay as they are, to the byte: programs join tables by them, and ``--split`` and
``compare`` read them again. Who opens such a file in a spreadsheet is told.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from typing import TYPE_CHECKING

from regraft.core.text import counted
from regraft.errors import RegraftWarning

if TYPE_CHECKING:
    from collections.abc import Iterable

#: At the beginning of a cell, or after what divides cells in some countries. In full width too.
_FORMULA = re.compile(r"(?:^|[;\t\r\n])\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def as_csv(rows: Iterable[Iterable[object]]) -> str:
    r"""Return a table as CSV text, one line a row; a name with a line break or a CR is quoted.

    Examples
    --------
    >>> as_csv([["id", "label"], ["a\rb", "c,d"]])
    'id,label\n"a\rb","c,d"\n'
    """
    lines = []
    for row in rows:
        line = io.StringIO(newline="")
        # With this end the writer quotes both characters; with \n alone a CR would end a row.
        csv.writer(line, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def is_formula(cell: object) -> bool:
    """Return whether a spreadsheet may run a cell as a formula; numbers are none.

    Examples
    --------
    >>> is_formula("=1+1"), is_formula("-1.5"), is_formula("rose-1.jpg")
    (True, False, False)
    """
    if not isinstance(cell, str) or _FORMULA.search(cell) is None:
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def warn_of_formulas(name: str, cells: Iterable[object]) -> None:
    """Warn if a spreadsheet would run cells of the file with this name."""
    found = {cell for cell in cells if is_formula(cell)}
    if found:
        first = min(map(str, found))[:60]
        warnings.warn(
            f"{name} has {counted(len(found), 'name')} that a spreadsheet may run as a formula, "
            f"such as {first}: import its columns as text",
            RegraftWarning,
            stacklevel=2,
        )
