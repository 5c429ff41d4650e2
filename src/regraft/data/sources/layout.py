"""Class folders: which file of a tree belongs to which class and part.

It works on lists of names, for folders and archives alike. An id leaves out the folders above the
class and part folders, so that ``flowers.zip``, its unpacked folder and the folder that holds the
class folders all give the same ids.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from regraft.core.text import counted, listed
from regraft.data.ledger import LedgerEntry
from regraft.data.names import printable
from regraft.data.samples import Entry, Part, Source
from regraft.data.sources.part_names import PART_NAMES
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from regraft.data.sources.members import Members
    from regraft.images.payload import Load

Key = TypeVar("Key")

_LISTED = 5  # names in one message


def source_of_folders(
    kind: str,
    location: str,
    members: Members[Key],
    stream: Callable[[Sequence[Key], Sequence[int]], Iterator[tuple[int, Load]]],
    order: Callable[[Key], int] | None = None,
) -> Source:
    """Make a source of the class folders of a tree; ``stream(keys, indices)`` reads its images.

    Entries are sorted by id, or by ``order(key)``, where images are read in one order only.
    """
    layout = arrange(members.names, location)
    images = [
        (members.keys[position], entry)
        for position, entry in zip(layout.positions, layout.entries, strict=True)
    ]
    if order is not None:
        images.sort(key=lambda image: order(image[0]))
    keys, entries = [key for key, _ in images], [entry for _, entry in images]
    left_out = (*members.left_out, *layout.refused)
    return Source(kind, location, entries, partial(stream, keys), left_out, layout.notes)


@dataclass(frozen=True)
class Arrangement:
    """Which names are labelled images: ``entries[i]`` is ``names[positions[i]]``."""

    positions: list[int]
    entries: list[Entry]
    refused: list[LedgerEntry]
    notes: tuple[str, ...]


def arrange(names: Sequence[str], location: str) -> Arrangement:
    """Find the class folders, with or without part folders, in the NFC names of images.

    A single folder that holds folders is skipped, and the next one if it is again alone. If all
    folders found are named like parts (``train``, ``val``, ``test`` and their synonyms, in any
    case), each holds class folders of its own. A file deep below a class folder belongs to the
    class. Entries are sorted by id: the order of an archive's members changes no result.

    Examples
    --------
    >>> arrange(["top/b/1.jpg", "top/a/x/2.jpg"], "photos.zip").entries
    [Entry(id='a/x/2.jpg', label='a', part=None, group=None), Entry(id='b/1.jpg', label='b', \
part=None, group=None)]
    """
    tree = _Tree(names, location)
    root = tree.skip_single((), tree.unique())
    below = tree.children(root)
    parts = _part_folders(list(below), root, location)
    if parts is None:
        folders: list[tuple[tuple[str, ...], Part | None]] = [(root, None)]
    else:
        folders = _class_roots(tree, root, below, parts)
    found: list[tuple[int, Entry]] = []
    for folder, part in folders:
        for label, positions in tree.children(folder).items():
            found += [
                (position, Entry(tree.id_below(position, root), label, part))
                for position in positions
            ]
    found = sorted(tree.readable(found), key=lambda pair: pair[1].id)
    if not names:
        raise DataError(
            f"{location} holds no images",
            hint="put the images of each class into a folder with the class's name",
        )
    notes = _notes(found, root, folders)
    return Arrangement([p for p, _ in found], [e for _, e in found], tree.refused, notes)


class _Tree:
    """Names split into parts, and the images outside of class folders."""

    def __init__(self, names: Sequence[str], location: str) -> None:
        self.location = location
        self.names = names
        self.split = [name.split("/") for name in names]
        self.refused: list[LedgerEntry] = []
        self._members: dict[tuple[str, ...], list[int]] = {}

    def unique(self) -> list[int]:
        """Return the positions of all names, and record the second of two equal ones."""
        seen: set[str] = set()
        positions = []
        for position, name in enumerate(self.names):
            if name in seen:
                self._record_refused(position, "duplicate name", "another file has the same name")
            else:
                seen.add(name)
                positions.append(position)
        return positions

    def skip_single(
        self, folder: tuple[str, ...], members: list[int], stop_at: frozenset[str] = frozenset()
    ) -> tuple[str, ...]:
        """Descend while there is a single folder that holds folders; return the last one."""
        self._members[folder] = members
        while True:
            below = self.children(folder)
            if len(below) != 1:
                return folder
            ((name, inside),) = below.items()
            deeper = (*folder, name)
            if name in stop_at or all(len(self.split[i]) == len(deeper) + 1 for i in inside):
                return folder
            folder = deeper
            self._members[folder] = inside

    def children(self, folder: tuple[str, ...]) -> dict[str, list[int]]:
        """Return the folders below one, by name; record the images beside them, once."""
        depth = len(folder)
        below: dict[str, list[int]] = defaultdict(list)
        loose = []
        for position in self._members[folder]:
            parts = self.split[position]
            if len(parts) > depth + 1:
                below[parts[depth]].append(position)
            else:
                loose.append(position)
        if loose and not below:
            where = f"{self.location}: {'/'.join(folder)}" if folder else self.location
            raise DataError(
                f"{where} holds {counted(len(loose))} and no class folders, so the labels are "
                "unknown",
                hint="put the images of each class into a folder with the class's name, or give a "
                "table with the columns path and label",
            )
        for position in loose:
            self._record_refused(
                position,
                "beside class folders",
                "it is next to the class folders, so its class is unknown",
            )
        if loose:
            gone = set(loose)
            self._members[folder] = [i for i in self._members[folder] if i not in gone]
        return dict(below)

    def id_below(self, position: int, root: tuple[str, ...]) -> str:
        """Return a name without the folders that were skipped."""
        return "/".join(self.split[position][len(root) :]) if root else self.names[position]

    def readable(self, found: Sequence[tuple[int, Entry]]) -> Iterator[tuple[int, Entry]]:
        """Yield images; record one whose name cannot be printed, unless its class cannot either."""
        for position, entry in found:
            if printable(entry.id) == entry.id or printable(entry.label) != entry.label:
                yield position, entry  # ``open_source`` raises an error for such a class
            else:
                reason = "its name holds control characters, or is not valid text"
                self._record_refused(position, "unreadable name", reason)

    def _record_refused(self, position: int, kind: str, reason: str) -> None:
        name = printable(self.names[position])
        self.refused.append(LedgerEntry(name, "refused", kind, reason))


def _part_folders(
    folders: list[str], root: tuple[str, ...], location: str
) -> dict[str, Part] | None:
    """Return the part of each folder; None where they are class folders."""
    parts = {name: PART_NAMES[name.lower()] for name in folders if name.lower() in PART_NAMES}
    others = sorted(set(folders) - set(parts))
    if len(parts) < 2 or (others and len(set(parts.values())) < 2):
        return None  # "test" or "train" (the vehicle) among others is a class like any other
    if others:
        where = "/".join(root) or location
        raise DataError(
            f"{where} holds the part folders {', '.join(sorted(parts))} and others beside them: "
            f"{listed(others, _LISTED)}",
            hint="leave only part folders there, or only class folders",
        )
    return parts


def _class_roots(
    tree: _Tree, root: tuple[str, ...], below: dict[str, list[int]], parts: dict[str, Part]
) -> list[tuple[tuple[str, ...], Part | None]]:
    """Return the folder that holds the class folders of each part.

    In ``train/train/rose`` the second folder is skipped, like a single folder at the top. A part
    with a single class keeps it where the training part has that class, too.
    """
    order = sorted(parts, key=lambda name: (parts[name] != "train", name))
    roots: list[tuple[tuple[str, ...], Part | None]] = []
    known: frozenset[str] = frozenset()
    for name in order:
        folder = tree.skip_single((*root, name), below[name], stop_at=known)
        known |= tree.children(folder).keys()
        roots.append((folder, parts[name]))
    return roots


def _notes(
    found: list[tuple[int, Entry]],
    root: tuple[str, ...],
    folders: list[tuple[tuple[str, ...], Part | None]],
) -> tuple[str, ...]:
    """Return notes about what a user may not expect."""
    notes = []
    if root and root[-1].lower() in PART_NAMES:
        notes.append(f"{root[-1]} is the only part folder, so it is split like any other data")
    depth = {part: len(folder) - len(root) for folder, part in folders}
    classes = {entry.label for _, entry in found}
    alike: dict[str, set[str]] = defaultdict(set)
    for name in classes:
        alike[unicodedata.normalize("NFKC", name).casefold()].add(name)
    notes += [
        f"the classes {' and '.join(sorted(names))} differ in case or form only: if they are "
        "the same class, put their images into one folder"
        for _, names in sorted(alike.items())
        if len(names) > 1
    ]
    nested: dict[str, set[str]] = defaultdict(set)
    for _, entry in found:
        inner = entry.id.split("/")[depth[entry.part] + 1 : -1]
        if inner and inner[0] in classes:
            nested[entry.label].add(inner[0])
    notes += [
        f"the class folder {label} holds folders named like classes "
        f"({listed(sorted(inner), _LISTED)}): is it a copy of the data?"
        for label, inner in sorted(nested.items())
        if len(inner) > 1
    ]
    notes += _shared_folders(found, depth, classes)
    return tuple(notes)


def _shared_folders(
    found: list[tuple[int, Entry]], depth: dict[Part | None, int], classes: set[str]
) -> list[str]:
    """Return a question where all classes hold folders of equal names: 2023/rose and 2024/rose."""
    holders: dict[str, set[str]] = defaultdict(set)
    for _, entry in found:
        inner = entry.id.split("/")[depth[entry.part] + 1 : -1]
        if not inner:
            return []  # the class folder itself holds images
        holders[inner[0]].add(entry.label)
    shared = sorted(name for name, labels in holders.items() if labels == classes)
    if len(classes) < 2 or len(shared) < 2:
        return []
    what = f"the classes are {listed(sorted(classes), _LISTED)}, and each holds folders named"
    hint = "if those are the classes, let them be the folders at the top"
    return [f"{what} {listed(shared, _LISTED)}: {hint}"]
