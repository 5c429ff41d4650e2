"""Text for messages: short lists, counts, similar names, tables."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence


_WORD = 8  # letters of a word that are shown whole where names differ in it


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


def shape_text(shape: Sequence[int], most: int = 8) -> str:
    """Return the shape of an array in brackets; of more than ``most`` sizes, their number too.

    Examples
    --------
    >>> shape_text((3,)), shape_text((2, 3)), shape_text([1] * 1000, most=3)
    ('(3,)', '(2, 3)', '(1, 1, 1, ...; 1,000 sizes)')
    """
    if len(shape) > most:
        return f"({', '.join(map(str, shape[:most]))}, ...; {len(shape):,} sizes)"
    return str(tuple(shape))


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


def shortened(names: Sequence[str], longest: int, width: Callable[[str], int] = len) -> list[str]:
    """Return names of at most ``longest`` columns; names that differ stay different.

    A longer name loses its middle. Where names would then be the same, they show the place at which
    they differ, with some of what is around it.

    Parameters
    ----------
    names : sequence of str
        Those that are seen together, such as all classes.
    longest : int
        Columns, at least 8.
    width : callable
        Returns the columns of a text; by default, one a character.

    Examples
    --------
    >>> shortened(["a rather long name of species 01 of 50", "tulip"], 16)
    ['a rather…1 of 50', 'tulip']
    >>> shortened([f"a rather long name of species {k:02} in the hills" for k in (1, 2)], 16)
    ['a rath…01… hills', 'a rath…02… hills']
    """
    short = {name: _cut(name, longest, width) for name in names}
    for group in _alike(short):
        _show_difference(group, short, longest, width)
    for group in _alike(short):  # a short name that looks like a longer one that was cut
        for name in group[1:]:
            texts = {*short.values()}
            marks = (f"~{number}" for number in range(2, len(names) + 2))
            marked = (_fitting(short[name], longest - len(mark), width) + mark for mark in marks)
            short[name] = next((text for text in marked if text not in texts), name)
    return [short[name] for name in names]


def _alike(short: Mapping[str, str]) -> list[list[str]]:
    """Return the groups of different names that are shortened to the same text."""
    groups: dict[str, list[str]] = {}
    for name, text in short.items():
        groups.setdefault(text, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _show_difference(
    group: Sequence[str], short: dict[str, str], longest: int, width: Callable[[str], int]
) -> None:
    """Shorten names that begin or end alike, so that each shows where it differs from the others.

    Where not all that differs fits, the rest of those that are still alike is looked at again.
    """
    first = _common(group)
    start = _begin_of_word(group[0], first, most=min(_WORD, longest // 2 - 2))
    after = _common([name[start:][::-1] for name in group])
    for name in group:
        end = _end_of_word(name, len(name) - after)
        short[name] = _around(name, start, end, longest, width)
    for inner in _alike({name: short[name] for name in group}):
        _show_difference(inner, short, longest, width)  # fewer: the first difference is shown


def _around(name: str, start: int, end: int, longest: int, width: Callable[[str], int]) -> str:
    """Return a part of a name, with as much of its beginning and end as there is room for."""
    part = _fitting(name[start:end], longest - 2, width)
    whole = start + len(part) == end
    room = longest - width(part)
    tail = name[end:] if whole else ""
    if width(tail) > room // 2:
        tail = "…" + _fitting(tail[::-1], room // 2 - 1, width)[::-1] if room > 3 else "…"
    elif not whole:
        tail = "…"
    head = name[:start]
    if width(head) > room - width(tail):
        head = _fitting(head, room - width(tail) - 1, width) + "…"
    return head + part + tail


def _common(texts: Sequence[str]) -> int:
    """Return how many characters some texts have in common at their beginning."""
    low, high = min(texts), max(texts)  # all others are between them
    pairs = zip(low, high, strict=False)
    return next((at for at, (one, two) in enumerate(pairs) if one != two), len(low))


def _begin_of_word(name: str, at: int, most: int) -> int:
    """Return where the word begins that a place is in: "12" and "13" differ in whole numbers."""
    begin = at
    while begin and name[begin - 1].isalnum() and at - begin < most:
        begin -= 1
    return at if begin and name[begin - 1].isalnum() else begin


def _end_of_word(name: str, at: int) -> int:
    end = at
    while end < len(name) and name[end].isalnum() and end - at < _WORD:
        end += 1
    return at if end < len(name) and name[end].isalnum() else end


def _cut(name: str, longest: int, width: Callable[[str], int]) -> str:
    """Return a name, without its middle if it is longer."""
    if width(name) <= longest:
        return name
    head, tail, left, room = "", "", name, longest - 1
    while left:
        at_front = len(head) <= len(tail)
        character = left[0] if at_front else left[-1]
        room -= width(character)
        if room < 0:
            break
        left = left[1:] if at_front else left[:-1]
        head, tail = (head + character, tail) if at_front else (head, character + tail)
    return f"{head}…{tail}"


def _fitting(text: str, longest: int, width: Callable[[str], int]) -> str:
    """Return the beginning of a text that fits."""
    for end, character in enumerate(text):
        longest -= width(character)
        if longest < 0:
            return text[:end]
    return text


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
