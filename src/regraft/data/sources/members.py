"""The files of a tree while it is listed: images, and the files that are left out."""

from __future__ import annotations

import ntpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from regraft.data.ledger import LedgerEntry
from regraft.data.names import normalise, printable
from regraft.images.headers import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Key = TypeVar("Key")

#: The last two lines are not decoded: such files are refused by name, and not passed over.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif"}
    | {".tiff", ".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx"}
    | {".jxl", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng"}
    | {".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr", ".iiq", ".dcr", ".erf", ".x3f", ".mrw"}
)

_LONGEST_NAME = 4096  # characters: no system opens a longer path


def has_image_suffix(name: str) -> bool:
    """Return whether a file's suffix is that of an image."""
    return ntpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def has_image_magic(head: bytes) -> bool:
    """Return whether a file's first 16 bytes or more are those of an image.

    Examples
    --------
    >>> has_image_magic(b"GIF89a and so on"), has_image_magic(b"path,label")
    (True, False)
    """
    if head.startswith(b"BM"):  # two letters are not enough: a BMP's reserved bytes are zero
        return head[6:10] == bytes(4)
    return any(matches(head) for matches, _ in FORMATS.values())


def is_hidden(part: str) -> bool:
    """Return whether a part of a path is passed over, with all files below it."""
    return part.startswith(".") or part in {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}


@dataclass
class Members(Generic[Key]):
    """The files of a tree while it is listed; ``keys[i]`` is what reads ``names[i]``."""

    names: list[str] = field(default_factory=list)  # images
    keys: list[Key] = field(default_factory=list)
    left_out: list[LedgerEntry] = field(default_factory=list)
    folders: dict[str, None] = field(default_factory=dict)  # also those without files; NFC
    notes: list[str] = field(default_factory=list)  # for the user

    def record_refused(self, name: str, kind: str, reason: str) -> None:
        """Record a file that is meant as an image and is not read."""
        self.left_out.append(LedgerEntry(printable(name), "refused", kind, reason))

    def record_passed_over(self, name: str, kind: str, reason: str) -> None:
        """Record a file that is not meant as an image."""
        self.left_out.append(LedgerEntry(printable(name), "passed over", kind, reason))

    def allow(self, name: str) -> str | None:
        """Return an archive member's name in its normal form; if unsafe record it, return None."""
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
            self.record_refused(name, "unsafe name", reason)
            return None
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if any(is_hidden(part) for part in parts):
            self.record_passed_over("/".join(parts), "hidden file", "hidden files are not read")
            return None
        return "/".join(parts)

    def add(self, name: str, key: Key, head: Callable[[], bytes]) -> None:
        """Add a regular file if it is an image by its suffix or its first bytes, from ``head``."""
        name = normalise(name)
        if not name:
            self.record_refused("a file without a name", "unsafe name", "its name is empty")
        elif has_image_suffix(name) or has_image_magic(head()):
            self.names.append(name)
            self.keys.append(key)
        else:
            self.record_passed_over(
                name, "not an image", "neither its suffix nor its content is an image's"
            )

    def without(
        self, gone: Mapping[int, str], reason: Callable[[str], tuple[str, str]]
    ) -> Members[Key]:
        """Return the members without some images, which are passed over.

        ``gone`` has the position of each with what ``reason`` turns into a kind and a sentence.
        """
        kept = [at for at in range(len(self.names)) if at not in gone]
        left = Members(
            [self.names[at] for at in kept],
            [self.keys[at] for at in kept],
            list(self.left_out),
            self.folders,
            self.notes,
        )
        for position, why in sorted(gone.items()):
            left.record_passed_over(self.names[position], *reason(why))
        return left
