"""Class folders: which member of a tree belongs to which class and part.

Written once, on lists of names, for folders and archives alike. An id is the name below the folders
that were looked through, so that ``flowers.zip``, its unpacked folder and the folder that holds the
class folders all give the same ids.
"""

from __future__ import annotations

import ntpath
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from regraft.data.ledger import LedgerEntry
from regraft.data.samples import Entry, Part
from regraft.errors import DataError
from regraft.images.headers import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Key = TypeVar("Key")

#: The last six are not decoded: such files are refused by name instead of passed over in silence.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    | {".heic", ".heif", ".avif", ".jxl", ".jp2", ".jpx"}
)

#: Folder names and table values that name a part, in lower case.
PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


# What changes lines, colours or the direction of reading on a terminal, or ends a name for C.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
LONGEST_LABEL = 1000  # characters of a class's name
_LONGEST_NAME = 4096  # characters: no system opens a longer path


def has_image_suffix(name: str) -> bool:
    """Whether a file's name says that it is meant as an image."""
    return ntpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def has_image_magic(head: bytes) -> bool:
    """Whether a file's first 16 bytes or more say that it is an image.

    Examples
    --------
    >>> has_image_magic(b"GIF89a and so on"), has_image_magic(b"path,label")
    (True, False)
    """
    if head.startswith(b"BM"):  # two letters are not enough: a BMP's reserved bytes are zero
        return head[6:10] == bytes(4)
    return any(matches(head) for matches, _ in FORMATS.values())


def normalise(name: str) -> str:
    """Return the name in NFC: macOS writes accents apart, Linux and Windows do not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    r"""Return the name with control characters and bytes that are no text written as escapes.

    Examples
    --------
    >>> print(printable("tu\nlip"), printable("\udcff"))
    tu\nlip \udcff
    """
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_hidden(part: str) -> bool:
    """Whether one part of a path is passed over with all below it."""
    return part.startswith(".") or part in {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}


@dataclass
class Members(Generic[Key]):
    """The images of a tree while it is listed: names with what reads them, and what is left out."""

    names: list[str] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    left_out: list[LedgerEntry] = field(default_factory=list)

    def refuse(self, name: str, kind: str, reason: str) -> None:
        """Put a file into the ledger that was meant to be read and is not."""
        self.left_out.append(LedgerEntry(printable(name), "refused", kind, reason))

    def pass_over(self, name: str, kind: str, reason: str) -> None:
        """Put a file into the ledger that was never meant as an image."""
        self.left_out.append(LedgerEntry(printable(name), "passed over", kind, reason))

    def allow(self, name: str) -> str | None:
        """Return an archive member's name in its normal form; None, and a record, if unsafe."""
        reason = None
        if len(name) > _LONGEST_NAME:
            name, reason = f"{name[:200]}...", f"its name has {len(name):,} characters"
        elif "\0" in name:
            reason = "its name holds a NUL byte"
        elif "\\" in name:
            reason = "its name holds a backslash, which is a separator on some systems only"
        elif name.startswith("/") or ntpath.splitdrive(name)[0]:
            reason = "its name is absolute"
        elif ".." in name.split("/"):
            reason = "its name leads out of the archive"
        if reason is not None:
            self.refuse(name, "unsafe name", reason)
            return None
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if any(is_hidden(part) for part in parts):
            self.pass_over("/".join(parts), "hidden file", "hidden files are not read")
            return None
        return "/".join(parts)

    def add(self, name: str, key: Key, head: Callable[[], bytes]) -> None:
        """Add a regular file if it is an image by its suffix, or else by its first bytes.

        Parameters
        ----------
        name : str
            Path in the source, "/" between parts.
        key
            What the container reads the file by.
        head : callable
            Returns the first bytes of the file; called where the suffix says nothing.
        """
        name = normalise(name)
        if not name:
            self.refuse("a file without a name", "unsafe name", "its name is empty")
        elif has_image_suffix(name) or has_image_magic(head()):
            self.names.append(name)
            self.keys.append(key)
        else:
            self.pass_over(name, "not an image", "neither its suffix nor its content is an image's")


@dataclass(frozen=True)
class Arrangement:
    """Which names are labelled images: ``entries[i]`` is ``names[positions[i]]``."""

    positions: list[int]
    entries: list[Entry]
    refused: list[LedgerEntry]
    notes: tuple[str, ...]


def arrange(names: Sequence[str], location: str) -> Arrangement:
    """Find the class folders, with or without part folders, in a list of image names.

    A single folder that holds folders is looked through, however deep. If all folders there are
    then named like parts (``train``, ``val``, ``test`` and their synonyms, in any case), each holds
    class folders of its own. A file deep below a class folder belongs to the class.

    Parameters
    ----------
    names : sequence of str
        Images only, NFC, "/" between parts.
    location : str
        What the user gave, for messages.

    Returns
    -------
    Arrangement
        Sorted by id: the order in which an archive was packed changes no result.

    Raises
    ------
    DataError
        Where there are no class folders, or part folders among others.

    Examples
    --------
    >>> arrange(["top/b/1.jpg", "top/a/x/2.jpg"], "photos.zip").entries
    [Entry(id='a/x/2.jpg', label='a', part=None, group=None), Entry(id='b/1.jpg', label='b', \
part=None, group=None)]
    """
    tree = _Tree(names, location)
    root = tree.look_through((), tree.unique())
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
    """Names split into parts, and the images that lie where none may lie."""

    def __init__(self, names: Sequence[str], location: str) -> None:
        self.location = location
        self.names = names
        self.split = [name.split("/") for name in names]
        self.refused: list[LedgerEntry] = []
        self._members: dict[tuple[str, ...], list[int]] = {}

    def unique(self) -> list[int]:
        """Return the positions of all names, the second of two equal ones refused."""
        seen: set[str] = set()
        positions = []
        for position, name in enumerate(self.names):
            if name in seen:
                self._refuse(position, "duplicate name", "another file has the same name")
            else:
                seen.add(name)
                positions.append(position)
        return positions

    def look_through(
        self, folder: tuple[str, ...], members: list[int], stop_at: frozenset[str] = frozenset()
    ) -> tuple[str, ...]:
        """Go down while there is one folder only and it holds folders; return where that ends."""
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
        """Return the folders below one, by name; images lying beside them are refused, once."""
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
                f"{where} holds {len(loose)} images and no class folders, so their labels are "
                "unknown",
                hint="put the images of each class into a folder with the class's name, or give a "
                "table with the columns path and label",
            )
        for position in loose:
            self._refuse(
                position,
                "beside class folders",
                "it lies beside the class folders, so its class is unknown",
            )
        if loose:
            gone = set(loose)
            self._members[folder] = [i for i in self._members[folder] if i not in gone]
        return dict(below)

    def id_below(self, position: int, root: tuple[str, ...]) -> str:
        """Return a name without the folders that were looked through."""
        return "/".join(self.split[position][len(root) :]) if root else self.names[position]

    def readable(self, found: Sequence[tuple[int, Entry]]) -> Iterator[tuple[int, Entry]]:
        """Leave out what has an unreadable name; of a class with such a name, all are kept."""
        for position, entry in found:
            if printable(entry.id) == entry.id or printable(entry.label) != entry.label:
                yield position, entry  # such a label is an error of the whole: ``open_source``
            else:
                reason = "its name holds control characters, or is not valid text"
                self._refuse(position, "unreadable name", reason)

    def _refuse(self, position: int, kind: str, reason: str) -> None:
        name = printable(self.names[position])
        self.refused.append(LedgerEntry(name, "refused", kind, reason))


def _part_folders(
    folders: list[str], root: tuple[str, ...], location: str
) -> dict[str, Part] | None:
    """Return which folder is which part; None where they are class folders."""
    parts = {name: PART_NAMES[name.lower()] for name in folders if name.lower() in PART_NAMES}
    others = sorted(set(folders) - set(parts))
    if len(parts) < 2 or (others and len(set(parts.values())) < 2):
        return None  # "test" or "train" (the vehicle) among others is a class like any other
    if others:
        where = "/".join(root) or location
        raise DataError(
            f"{where} holds the part folders {', '.join(sorted(parts))} and others beside them: "
            f"{', '.join(others[:5])}",
            hint="leave only part folders there, or only class folders",
        )
    return parts


def _class_roots(
    tree: _Tree, root: tuple[str, ...], below: dict[str, list[int]], parts: dict[str, Part]
) -> list[tuple[tuple[str, ...], Part | None]]:
    """Return the folder that holds the class folders of each part.

    ``train/train/rose`` is looked through like a single folder at the top; but a part that holds
    one class only is not, where that class is one of the training part's.
    """
    order = sorted(parts, key=lambda name: (parts[name] != "train", name))
    roots: list[tuple[tuple[str, ...], Part | None]] = []
    known: frozenset[str] = frozenset()
    for name in order:
        folder = tree.look_through((*root, name), below[name], stop_at=known)
        known |= tree.children(folder).keys()
        roots.append((folder, parts[name]))
    return roots


def _notes(
    found: list[tuple[int, Entry]],
    root: tuple[str, ...],
    folders: list[tuple[tuple[str, ...], Part | None]],
) -> tuple[str, ...]:
    """Say what a user may not expect."""
    notes = []
    if root and root[-1].lower() in PART_NAMES:
        notes.append(f"{root[-1]} is the only part folder, so it is split like any other data")
    depth = {part: len(folder) - len(root) for folder, part in folders}
    classes = {entry.label for _, entry in found}
    alike: dict[str, set[str]] = defaultdict(set)
    for name in classes:
        alike[unicodedata.normalize("NFKC", name).casefold()].add(name)
    notes += [
        f"the classes {' and '.join(sorted(names))} differ in case or form only: where they are "
        "one, put their images into one folder"
        for _, names in sorted(alike.items())
        if len(names) > 1
    ]
    nested: dict[str, set[str]] = defaultdict(set)
    for _, entry in found:
        inner = entry.id.split("/")[depth[entry.part] + 1 : -1]
        if inner and inner[0] in classes:
            nested[entry.label].add(inner[0])
    notes += [
        f"the class folder {label} holds folders named like classes ({', '.join(sorted(inner)[:5])}"
        "): is it a copy of the data?"
        for label, inner in sorted(nested.items())
        if len(inner) > 1
    ]
    notes += _shared_folders(found, depth, classes)
    return tuple(notes)


def _shared_folders(
    found: list[tuple[int, Entry]], depth: dict[Part | None, int], classes: set[str]
) -> list[str]:
    """Ask where all classes hold folders of the same names: 2023/rose and 2024/rose."""
    holders: dict[str, set[str]] = defaultdict(set)
    for _, entry in found:
        inner = entry.id.split("/")[depth[entry.part] + 1 : -1]
        if not inner:
            return []  # images lie in the class folder itself
        holders[inner[0]].add(entry.label)
    shared = sorted(name for name, labels in holders.items() if labels == classes)
    if len(classes) < 2 or len(shared) < 2:
        return []
    what = f"the classes are {_listed(sorted(classes))}, and each holds folders named"
    hint = "if those are the classes, let them be the folders at the top"
    return [f"{what} {_listed(shared)}: {hint}"]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
