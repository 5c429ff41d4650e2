"""Names of classes, from every kind of source: what cannot be used, and what may not be meant."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from regraft.core.text import counted, listed
from regraft.data.names import LONGEST_LABEL, printable
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from regraft.data.samples import Source

_LISTED = 5  # names in one message
# Joiners of letters and of emoji are part of words: without them these look different.
_JOINERS = "\u200c\u200d"
_LIST = re.compile(r"\[(?P<items>.*)\]|\{(?P<set>.*)\}", re.DOTALL)
#: What is between several labels of one image. Names of one class seldom hold the first two.
_SEPARATORS = ("|", ";", ",")


def require_usable(source: Source) -> None:
    """Raise DataError for a name of a class that cannot be printed or written to files."""
    for label in sorted({entry.label for entry in source.entries}):
        if not _key(label):
            what = "has no name that can be seen" if label else "has no name"
        elif len(label) > LONGEST_LABEL:
            what = f"is called '{_cut(label)}', which holds {len(label):,} characters"
        elif printable(label) != label:
            what = (
                f"is called '{_cut(label)}', which holds control characters, or what is not valid "
                "text"
            )
        else:
            continue
        image = next(entry.id for entry in source.entries if entry.label == label)
        raise DataError(
            f"{source.location}: the class of {_cut(image)} {what}",
            hint="give the class a plain name",
        )


def label_notes(source: Source, *, settled: bool) -> tuple[str, ...]:
    """Return notes about names of classes that may not be meant.

    Raises DataError where labels name several classes, unless the user has named the classes
    (``settled``).
    """
    counts = Counter(entry.label for entry in source.entries)
    several = _several(counts)
    if several is not None and several.is_sure and not settled:
        raise DataError(f"{source.location}: {several.text}", hint=several.hint)
    notes = [several.text + ": one image has one class here"] if several and not settled else []
    in_folders = source.kind in {"folder", "zip", "tar", "kaggle"}
    remedy = "put their images into one folder" if in_folders else "give them one name"
    return (*notes, *_alike(counts, remedy), *_invisible(counts))


def merged_note(spellings: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return a note about labels that become one class; each is as written, and as it is used.

    Examples
    --------
    >>> merged_note([("rose", "rose"), ("rose ", "rose"), ("tulip ", "tulip")])
    ("labels that differ in blanks or the form of accents are one class: rose and 'rose '",)
    """
    written: dict[str, set[str]] = defaultdict(set)
    for text, name in spellings:
        written[name].add(text)
    merged = [texts for _, texts in sorted(written.items()) if len(texts) > 1]
    named = listed([_together(texts) for texts in merged], _LISTED, "; ")
    note = f"labels that differ in blanks or the form of accents are one class: {named}"
    return (note,) if merged else ()


# --- names that are alike ----------------------------------------------------------------------


def _key(label: str) -> str:
    """Return what a reader sees of a name: without case, form, blanks and invisible characters."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    seen = "".join(each for each in text if unicodedata.category(each) not in {"Cf", "Cc"})
    return " ".join(seen.split())


def _alike(counts: Mapping[str, int], remedy: str) -> list[str]:
    alike: dict[str, set[str]] = defaultdict(set)
    for label in counts:
        alike[_key(label)].add(label)
    return [
        f"the classes {_together(names)} differ in case or form only: if they are the same "
        f"class, {remedy}"
        for _, names in sorted(alike.items())
        if len(names) > 1
    ]


def _invisible(counts: Mapping[str, int]) -> list[str]:
    found = [
        label
        for label in sorted(counts)
        if any(unicodedata.category(each) == "Cf" and each not in _JOINERS for each in label)
    ]
    named = listed([_quoted(label) for label in found], _LISTED)
    return [f"invisible characters are part of the names of classes: {named}"] if found else []


def _together(names: Iterable[str]) -> str:
    return " and ".join(_quoted(name) for name in sorted(names))


def _quoted(label: str) -> str:
    r"""Return a name, in quotes and with escapes if not all of it can be seen.

    Examples
    --------
    >>> print(_quoted("rose"), _quoted("rose "), _quoted("rose\u200b"), _quoted("e\u0301"))
    rose 'rose ' 'rose\u200b' 'e\u0301'
    """
    unseen = {"Cf", "Zs"} if unicodedata.is_normalized("NFC", label) else {"Cf", "Zs", "Mn"}
    shown = "".join(
        each.encode("unicode_escape").decode()
        if unicodedata.category(each) in unseen and each not in {" ", *_JOINERS}
        else each
        for each in _cut(label)
    )
    return f"'{shown}'" if shown != " ".join(label.split()) else shown


def _cut(name: str) -> str:
    """Return the first 100 characters of a name, fit to print."""
    return printable(name[:100]) + ("..." if len(name) > 100 else "")


# --- several labels in one ---------------------------------------------------------------------


class _Several(NamedTuple):
    """Labels that name several classes."""

    text: str
    hint: str
    is_sure: bool


def _several(counts: Mapping[str, int]) -> _Several | None:
    """Return the labels that are several in one, if there are any: lists, or joined ones."""
    lists = [label for label in counts if _is_list(label)]
    if lists:
        return _found(counts, lists, "a list", is_sure=True)
    for separator in _SEPARATORS:
        joined = {}
        for label in counts:
            parts = frozenset(part.strip() for part in label.split(separator)) - {""}
            if len(parts) > 1:
                joined[label] = parts
        found = _joined(counts, joined, separator) if joined else None
        if found is not None:
            return found
    return None


def _is_list(label: str) -> bool:
    match = _LIST.fullmatch(label.strip())
    return match is not None and "," in (match["items"] or match["set"] or "").strip(", ")


def _joined(
    counts: Mapping[str, int], joined: Mapping[str, frozenset[str]], separator: str
) -> _Several | None:
    """Return joined labels, by how many of their parts are used elsewhere.

    A name such as "tench, Tinca tinca" has parts that no other label has. The parts of several
    labels in one are labels of other images, or come again in other company or another order. It is
    sure where most joined labels have only such parts, and at least one has only parts that are
    labels by themselves (with "," as in names), or two are of that kind (with "|" and ";").
    """
    used = Counter(part for parts in set(joined.values()) for part in parts)
    orders = Counter(joined.values())
    alone = [
        label for label, parts in joined.items() if parts <= counts.keys() or orders[parts] > 1
    ]
    known = [
        label
        for label, parts in joined.items()
        if orders[parts] > 1 or all(part in counts or used[part] > 1 for part in parts)
    ]
    most = 2 * len(known) >= len(joined)
    if separator == ",":
        is_sure, is_likely = most and bool(alone), most and len(known) > 1
    else:
        is_sure = most and (bool(alone) or len(known) > 1)
        is_likely = any(part in counts or used[part] > 1 for p in joined.values() for part in p)
    if not (is_sure or is_likely):
        return None
    return _found(counts, sorted(joined), f"joined by {separator!r}", is_sure=is_sure, first=known)


def _found(
    counts: Mapping[str, int],
    labels: list[str],
    how: str,
    *,
    is_sure: bool,
    first: list[str] | None = None,
) -> _Several:
    number = sum(counts[label] for label in labels)
    example = min(first or labels)
    what = f"{number:,} of {counted(sum(counts.values()), 'label')}"
    seem = "name" if is_sure else "seem to name"
    text = f"{what} {seem} several classes ({how}), such as {_quoted(example)}"
    return _Several(
        text,
        "one image has one class here: keep one label of each image; if these are classes of "
        "their own, `classes` names all classes",
        is_sure,
    )
