"""Text for messages: short lists, counts, similar names, tables."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence


def listed(names: Sequence[str], most: int = 10, between: str = ", ") -> str:
    """Return the first few names, and the number of the others.

    Examples
    --------
    >>> listed(["a", "b", "c", "d"], most=2), listed(["a", "b"])
    ('a, b and 2 more', 'a, b')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def counted(count: int, noun: str = "image", plural: str = "") -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> counted(1), counted(1200), counted(2, "class", "classes")
    ('1 image', '1,200 images', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def nearest(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are most similar to a given one, the most similar first.

    Examples
    --------
    >>> nearest("Tulpe", ["rose", "tulip"]), nearest("x", ["rose"])
    (['tulip'], [])
    """
    by_folded = {each.casefold(): each for each in reversed(list(known))}
    found = difflib.get_close_matches(name.casefold(), list(by_folded), n=most, cutoff=cutoff)
    return [by_folded[each] for each in found]


def did_you_mean(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> str:
    """Return a question with the most similar names; empty if no name is similar.

    Examples
    --------
    >>> did_you_mean("sed", ["seed", "head"]), did_you_mean("sed", [])
    ('did you mean seed?', '')
    """
    near = nearest(name, known, most, cutoff)
    return f"did you mean {' or '.join(near)}?" if near else ""


def columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Container[int] = ()
) -> str:
    """Return a table of cells in columns; the columns numbered in ``right`` are aligned right.

    Examples
    --------
    >>> print(columns(["class", "n"], [["daisy", "126"], ["rose", "9"]], right={1}))
    class    n
    daisy  126
    rose     9
    """
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
