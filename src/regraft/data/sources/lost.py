"""Class folders of which nothing can be used: they must not disappear without a word."""

from __future__ import annotations

import ntpath
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from regraft.core.text import counted, listed
from regraft.data.sources.members import is_hidden
from regraft.data.sources.tree import TO_LABEL
from regraft.errors import DataError
from regraft.images.unrecognised import FORMATS_ARE_READ

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.data.ledger import LedgerEntry
    from regraft.data.sources.members import Members
    from regraft.data.sources.tree import Folder

_LISTED = 5  # kinds in one message

#: Suffixes of images, videos and arrays that are not read: a class of them is lost.
UNREAD_SUFFIXES = frozenset(
    {".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".pcx", ".tga", ".dds", ".ras", ".sgi", ".xbm", ".xpm"}
    | {".ico", ".icns", ".svg", ".svgz", ".eps", ".ps", ".psd", ".xcf", ".ai", ".wmf", ".emf"}
    | {".dcm", ".dicom", ".nii", ".nrrd", ".mha", ".mhd", ".svs", ".ndpi", ".czi", ".fits", ".exr"}
    | {".hdr", ".raw", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v"}
    | {".npy", ".npz"}
)

_HINTS = {
    "not an image": f"{FORMATS_ARE_READ}: convert the files",
    "encrypted": "unpack it with its password, and give the folder",
    "link out of the tree": "copy the files, or give the folder to which the links lead",
    "unsafe name": "make the archive again with another program, or unpack it and give the folder",
}
EMPTY = "it is empty"


def no_images(what: str, left_out: Sequence[LedgerEntry], hint: str | None = TO_LABEL) -> DataError:
    """Return the error for data without an image, with the reasons that were recorded."""
    refused = [entry for entry in left_out if entry.status == "refused"]
    seen = refused or [entry for entry in left_out if entry.kind != "hidden file"]
    if not seen:
        return DataError(what, hint=hint)
    kinds = Counter(entry.kind for entry in seen).most_common()
    named = listed([f"{number:,} {kind}" for kind, number in kinds], _LISTED)
    count = counted(len(seen), "file is", "files are")
    status = "refused" if refused else "passed over"
    first = seen[0]
    return DataError(
        f"{what}: {count} {status} ({named}); the first is {first.path}: {first.reason}",
        hint=_HINTS.get(kinds[0][0], hint),
    )


def classes_without_images(
    roots: Sequence[Folder], classes: set[str], members: Members[Any]
) -> tuple[dict[str, str], list[str]]:
    """Return why each class folder without an image has none, and notes.

    ``roots`` hold the class folders. A folder of other files, such as ``docs``, is no class: it is
    only noted.
    """
    files: dict[str, list[LedgerEntry]] = defaultdict(list)
    for label, entry in _below(roots, classes, members):
        files[label] += [entry] if entry is not None else []
    lost: dict[str, str] = {}
    others = []
    for label, entries in sorted(files.items()):
        if any(entry.kind == "excluded" for entry in entries):
            continue
        seen = [entry for entry in entries if entry.kind != "hidden file"]
        refused = [entry for entry in seen if entry.status == "refused"]
        suffixes = Counter(ntpath.splitext(entry.path)[1].lower() for entry in seen)
        unread = {suffix: n for suffix, n in suffixes.items() if suffix in UNREAD_SUFFIXES}
        if not seen:
            lost[label] = EMPTY
        elif refused:
            first = refused[0]
            lost[label] = f"{counted(len(refused), 'file')} refused: {first.kind}: {first.reason}"
        elif unread:
            lost[label] = (
                f"{counted(sum(unread.values()), 'file')} of a format that is not read "
                f"({listed(sorted(unread), _LISTED)})"
            )
        else:
            others.append(label)
    note = f"no images are in {listed(others, _LISTED)}: not taken for a class"
    return lost, [note] if others else []


def _below(
    roots: Sequence[Folder], classes: set[str], members: Members[Any]
) -> Iterator[tuple[str, LedgerEntry | None]]:
    """Yield the class folders that have no entry, with each file in them; None for none."""
    paths: list[tuple[str, LedgerEntry | None]] = [(name, None) for name in members.folders]
    paths += [(entry.path, entry) for entry in members.left_out]
    for path, entry in paths:
        parts = path.split("/")
        for root in roots:
            depth = len(root)
            if len(parts) <= depth or tuple(parts[:depth]) != root:
                continue
            label = parts[depth]
            is_file = len(parts) == depth + 1 and path not in members.folders
            if not (is_file or label in classes or is_hidden(label) or label in {"", ".."}):
                yield label, entry
