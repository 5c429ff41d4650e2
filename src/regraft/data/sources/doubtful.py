"""Folders that hold no examples of a class by their names: unlabelled, misc, trash, lost+found."""

from __future__ import annotations

import ntpath
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from regraft.core.text import counted, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.data.samples import Entry, Source


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(","))


#: Names of what is not sorted, not wanted or not meant for people; see ``_plain``.
_LEFTOVERS = _names(
    """
    unlabelled, unlabeled, unannotated, unclassified, uncategorised, uncategorized, unsorted,
    unassigned, unreviewed, not labelled, not labeled, no label, todo, to do, tbd, to sort,
    to label, to check, pending, inbox, rejected, rejects, reject, discard, discarded, junk,
    garbage, trash, trashes, recycle bin, recycler, recycled, deleted, delete, removed, backup,
    backups, bak, tmp, temp, cache, lost found, system volume information, new folder,
    untitled folder, untitled, neuer ordner, nouveau dossier, nueva carpeta, nuova cartella,
    duplicates, duplicate, dups, ignore, ignored, skip, skipped, exclude, excluded, thumbs,
    thumbnails
    """
)
#: More names, of classes that say what something is not; inside a class they may mean anything.
_VAGUE = _names(
    """
    unknown, unidentified, undefined, undecided, unsure, misc, miscellaneous, various, other,
    others, rest, none, null, nan, na, n a
    """
)
_SHOWN = 5
_MASK = re.compile(
    r"[ _.-](?:mask|seg|segmentation|gt|groundtruth|annotation)s?(?:[ _.-]?\d+)?$", re.IGNORECASE
)
_LONGEST_END = 40  # characters


def doubtful_notes(source: Source) -> tuple[str, ...]:
    """Return notes that name classes, and folders inside classes, which may hold no examples.

    No note about classes if fewer than two others are left: then they are what is to be learnt.
    """
    counts = Counter(entry.label for entry in source.entries)
    classes = sorted(name for name in counts if _plain(name) in _LEFTOVERS | _VAGUE)
    notes = []
    if classes and len(counts) - len(classes) >= 2:
        notes.append(
            f"by name these may be no classes: {_named(counts, classes)}; they are trained like "
            f"the others, and `exclude={classes[0]!r}` leaves one out"
        )
    inner: Counter[str] = Counter()
    for entry in source.entries:
        *folders, _ = entry.id.split("/")
        if entry.label in folders:
            first = folders.index(entry.label) + 1
            for number, name in enumerate(folders[first:], start=first + 1):
                if _plain(name) in _LEFTOVERS:
                    inner["/".join(folders[:number])] += 1
                    break
    if inner:
        notes.append(
            f"by name these folders may hold no examples of their class: "
            f"{_named(inner, sorted(inner))}; they count as examples, and "
            f"`exclude={min(inner)!r}` leaves one out"
        )
    return (*notes, *_masks(source.entries))


def _masks(entries: Sequence[Entry]) -> list[str]:
    """Return a note about masks beside their images: ``1_mask.png`` beside ``1.jpg``."""
    ends: dict[str, str] = {}
    for entry in entries:
        stem = ntpath.splitext(entry.id)[0]
        match = _MASK.search(stem[-_LONGEST_END:])
        if match is not None:
            ends[entry.id] = match[0]
    stems = {ntpath.splitext(entry.id)[0] for entry in entries} if ends else set()
    masks = sorted(
        name for name, end in ends.items() if ntpath.splitext(name)[0].removesuffix(end) in stems
    )
    if not masks:
        return []
    pattern = f"*{ends[masks[0]].rstrip('0123456789 _.-')}*"
    note = (
        f"by name {counted(len(masks))} may be masks of others, such as {masks[0]}; they count as "
        f"examples, and `exclude={pattern!r}` leaves such out"
    )
    return [note]


def _named(counts: Counter[str], names: list[str]) -> str:
    return listed([f"{name} ({counted(counts[name])})" for name in names], _SHOWN)


def _plain(name: str) -> str:
    """Return a name in lower case, without marks, numbers at its end and a word for images.

    Examples
    --------
    >>> _plain("_Rejected"), _plain("New folder (2)"), _plain("lost+found"), _plain("TODO_images")
    ('rejected', 'new folder', 'lost found', 'todo')
    """
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
    words = re.sub(r" ?\d+$", "", words) or words
    return re.sub(r" (images?|pictures?|pics|photos?|files?|data|class(?:es)?)$", "", words)
