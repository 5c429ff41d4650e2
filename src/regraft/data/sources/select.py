"""Which images of a source are used: not those that are excluded, some classes, at most so many.

It looks at names alone, before any image is read. What is left out is passed over in the ledger.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections import defaultdict
from dataclasses import replace
from functools import cache, partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from regraft.core.text import counted, did_you_mean, listed
from regraft.data.ledger import LedgerEntry
from regraft.data.names import normalise, printable
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from regraft.data.samples import Entry, Source
    from regraft.images.payload import Load

_SHOWN = 20
_FEWEST = 2  # images of a class that are always kept: one to learn from, one to test


class Reason(NamedTuple):
    """Why an image is left out, for the ledger."""

    kind: str
    text: str


_ANOTHER_CLASS = Reason("another class", "classes does not name its class")


def select(
    source: Source, exclude: Sequence[str], classes: Sequence[str], at_most: str | None
) -> Source:
    """Return the source with the wanted images alone; notes say how many are left out, and why.

    Raises ConfigError if a pattern or a class's name matches nothing, or nothing is left.
    """
    if not (exclude or classes or at_most):
        return source
    reasons: dict[int, Reason] = {}
    refused, lost = list(source.refused), dict(source.lost_classes)
    notes = []
    for pattern in map(normalise, exclude):
        reason = excluded_by(pattern)
        files = [at for at, each in enumerate(refused) if _is_below(each.path, pattern)]
        # Images that hid the class folders have been left out already.
        before = sum(refused[at].reason == reason.text for at in files)
        found = [] if before else find_excluded(pattern, source.entries)
        empty = [name for name in lost if _fits(name, pattern)]
        lost = {name: why for name, why in lost.items() if name not in empty}
        if not (found or files or empty):
            raise _unmatched("exclude", pattern, source, _folders(source.entries))
        reasons = dict.fromkeys(found, reason) | reasons
        for at in files:
            refused[at] = LedgerEntry(refused[at].path, "passed over", *reason)
        notes.append(f"left out by `exclude={pattern!r}`: {counted(len(found) + before)}")
    if classes:
        names = _class_names(classes, source)
        others = [index for index, each in enumerate(source.entries) if each.label not in names]
        reasons = dict.fromkeys(others, _ANOTHER_CLASS) | reasons
        gone = {source.entries[index].label for index in others}
        lost = {name: why for name, why in lost.items() if name in names}
        refused = [_of_other_class(each, names, gone) for each in refused]
        if others:
            what = f"{counted(len(others))} of {counted(len(gone), 'class', 'classes')}"
            notes.append(f"left out by `classes`: {what}")
    left = [index for index in range(len(source.entries)) if index not in reasons]
    if not left:
        raise ConfigError(
            f"exclude and classes leave none of the {len(source.entries):,} images of "
            f"{source.location}",
            hint="give fewer patterns",
        )
    if at_most is not None:
        chosen = _choose([source.entries[index] for index in left], at_most)
        others = [index for at, index in enumerate(left) if at not in chosen]
        reasons |= dict.fromkeys(others, Reason("not needed", f"at_most is {at_most}"))
        notes.append(
            f"`at_most={at_most!r}`: {len(chosen):,} of {counted(len(left))} are used, chosen by a "
            "hash of their paths"
        )
    return _without(replace(source, lost_classes=lost), reasons, refused, notes)


def excluded_by(pattern: str) -> Reason:
    """Return the reason of what a pattern of ``exclude`` leaves out."""
    return Reason("excluded", f"exclude is {printable(pattern)!r}")


def find_excluded(pattern: str, entries: Sequence[Entry]) -> list[int]:
    """Return the positions of the images that a pattern of ``exclude`` means."""
    matches = _matcher(pattern, entries)
    return [index for index, each in enumerate(entries) if matches(each.id, each.label)]


def _without(
    source: Source, reasons: Mapping[int, Reason], refused: list[LedgerEntry], notes: list[str]
) -> Source:
    """Return the source without some entries, which are passed over in the ledger."""
    kept = [index for index in range(len(source.entries)) if index not in reasons]
    passed = [
        LedgerEntry(source.entries[index].id, "passed over", *reason)
        for index, reason in sorted(reasons.items())
    ]
    return replace(
        source,
        entries=[source.entries[index] for index in kept],
        stream=partial(_stream_kept, source.stream, kept),
        refused=(*refused, *passed),
        notes=(*source.notes, *notes),
    )


def _stream_kept(
    stream: Callable[[Sequence[int]], Iterator[tuple[int, Load]]],
    kept: Sequence[int],
    indices: Sequence[int],
) -> Iterator[tuple[int, Load]]:
    originals = [kept[index] for index in indices]
    for index, (_, load) in zip(indices, stream(originals), strict=True):
        yield index, load


# --- names ----------------------------------------------------------------------------------------


def _matcher(pattern: str, entries: Sequence[Entry]) -> Callable[[str, str], bool]:
    """Return whether an image, given by id and label, is meant by a pattern.

    A pattern means classes if it matches any; else folders and files: with "/" the path from its
    beginning, without one any part of it.
    """
    if any(_fits(entry.label, pattern) for entry in entries):
        return lambda _, label: _fits(label, pattern)
    return lambda name, _: any(_fits(each, pattern) for each in _places(name, pattern))


def _places(name: str, pattern: str) -> list[str]:
    """Return what a pattern is compared with: the parts of a path, or its beginnings.

    Examples
    --------
    >>> _places("a/b/1.jpg", "b"), _places("a/b/1.jpg", "a/b")
    (['a', 'b', '1.jpg'], ['a', 'a/b', 'a/b/1.jpg'])
    """
    parts = name.split("/")
    if "/" not in pattern.rstrip("/"):
        return parts
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]


def _fits(name: str, pattern: str) -> bool:
    """Return whether a name is a pattern word for word, or fits it."""
    pattern = pattern.rstrip("/") or pattern
    return name == pattern or _compiled(pattern).match(name) is not None


@cache  # it is asked for each image
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def _is_below(path: str, pattern: str) -> bool:
    """Return whether a file that was not listed is meant; its path may have more folders before."""
    parts = path.split("/")
    return any(
        _fits(place, pattern)
        for first in range(len(parts))
        for place in _places("/".join(parts[first:]), pattern)
    )


def _class_names(given: Sequence[str], source: Source) -> set[str]:
    """Return the names of classes: each text is one, or several with commas between them."""
    known = {entry.label for entry in source.entries} | {*source.lost_classes}
    names: set[str] = set()
    for text in map(normalise, given):
        words = [text] if text in known else [word.strip() for word in text.split(",")]
        for word in filter(None, words):
            if word not in known:
                raise _unmatched("classes", word, source, set())
            names.add(word)
    return names


def _of_other_class(entry: LedgerEntry, names: set[str], gone: set[str]) -> LedgerEntry:
    """Return a refused file as passed over if its folders are of a class that is left out."""
    folders = set(entry.path.split("/")[:-1])
    if entry.status != "refused" or not folders & gone or folders & names:
        return entry
    return LedgerEntry(entry.path, "passed over", *_ANOTHER_CLASS)


def _folders(entries: Sequence[Entry]) -> set[str]:
    """Return the names of all folders, and their paths."""
    paths = {entry.id.rpartition("/")[0] for entry in entries} - {""}
    return paths | {part for path in paths for part in path.split("/")}


def _unmatched(setting: str, given: str, source: Source, others: set[str]) -> ConfigError:
    labels = sorted({entry.label for entry in source.entries})
    near = did_you_mean(given, [*labels, *sorted(others - set(labels))])
    return ConfigError(
        f"{setting} is {printable(given)!r}, which is nothing in {source.location}",
        hint=f"{near or 'no name is similar'}; the classes are {listed(labels, _SHOWN)}",
    )


# --- numbers --------------------------------------------------------------------------------------


def _choose(entries: Sequence[Entry], at_most: str) -> set[int]:
    """Return the positions of so many entries: the first of each class and part by a hash of ids.

    Each class and part keeps its share, as well as whole numbers can. Content would need every
    image to be read.
    """
    number, _, a_class = at_most.partition("/")
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, entry in enumerate(entries):
        strata[entry.label, entry.part or ""].append(position)
    limited: dict[Hashable, dict[tuple[str, str], int]] = defaultdict(dict)
    for stratum, positions in sorted(strata.items()):
        limited[stratum[0] if a_class else None][stratum] = len(positions)
    counts: dict[tuple[str, str], int] = {}
    for sizes in limited.values():
        counts |= _shares(sizes, int(number), at_most)
    chosen: set[int] = set()
    for stratum, positions in strata.items():
        ranked = sorted(positions, key=lambda position: _rank(entries[position].id))
        chosen.update(ranked[: counts[stratum]])
    return chosen


def _rank(name: str) -> bytes:
    return hashlib.sha256(b"regraft at most " + name.encode("utf-8", "surrogatepass")).digest()


def _shares(
    sizes: Mapping[tuple[str, str], int], number: int, at_most: str
) -> dict[tuple[str, str], int]:
    """Return how many of each class and part to take, in proportion to their sizes.

    Examples
    --------
    >>> _shares({("a", ""): 60, ("b", ""): 30, ("c", ""): 3}, 10, "10")
    {('a', ''): 6, ('b', ''): 2, ('c', ''): 2}
    """
    total = sum(sizes.values())
    if number >= total:
        return dict(sizes)
    least = {each: min(size, 1 if each[1] else _FEWEST) for each, size in sizes.items()}
    if sum(least.values()) > number:
        raise ConfigError(
            f"at_most is {at_most}; these data need {sum(least.values()):,} images at least",
            hint="two of each class, or one of each class in each part, are always kept",
        )
    wanted = {each: number * size / total for each, size in sizes.items()}
    counts = {each: max(least[each], int(wanted[each])) for each in sizes}
    difference = number - sum(counts.values())
    step = 1 if difference > 0 else -1
    # By how far each is from its share, the farthest first: there may be thousands of classes.
    order = sorted(sizes, reverse=True)
    waiting = [(step * (counts[each] - wanted[each]), at) for at, each in enumerate(order)]
    heapify(waiting)
    while difference:
        at = heappop(waiting)[1]
        each = order[at]
        if least[each] <= counts[each] + step <= sizes[each]:
            counts[each] += step
            difference -= step
            heappush(waiting, (step * (counts[each] - wanted[each]), at))
    return counts
