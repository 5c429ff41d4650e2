"""The list of a repository's files on the hub, and the files compared with it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft.data.sources.hub_files import short_list
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MOST_FILES = 1_000_000  # the hub advises 100,000 at most

_LARGEST = 1 << 53  # bytes of a file; the hub's limit is 500 GB
_CHUNK = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HINT = "download it from its page, and give the folder"


class HubFile(NamedTuple):
    """What a list says of a file."""

    size: int  # bytes
    sha256: str | None  # of large files
    blob: str | None  # git's name of the content; of a large file, of the text in its place


class Listing(NamedTuple):
    """All files of a commit on the server."""

    sha: str
    files: dict[str, HubFile]


def is_commit(sha: object) -> bool:
    """Return whether this is the sha of a commit; it becomes the name of a folder."""
    return isinstance(sha, str) and _COMMIT.fullmatch(sha) is not None


def read_listing(text: str, sha: object, entries: Sequence[object]) -> Listing:
    """Return what the server says of a commit, checked; ``text`` is for messages."""
    if not isinstance(sha, str) or not is_commit(sha):
        raise DataError(f"{text}: the server calls its commit {str(sha)[:100]!r}", hint=_HINT)
    if len(entries) > MOST_FILES:
        raise DataError(f"{text} has more than {MOST_FILES:,} files and folders", hint=_HINT)
    files = {}
    for entry in entries:
        if not hasattr(entry, "size"):  # a folder
            continue
        name, size = getattr(entry, "path", None), entry.size
        if not isinstance(name, str) or type(size) is not int or not 0 <= size < _LARGEST:
            raise DataError(
                f"{text}: the server lists a file {str(name)[:100]!r} of {str(size)[:40]} bytes",
                hint=_HINT,
            )
        large = getattr(entry, "lfs", None)
        files[name] = HubFile(
            size, _matching(_SHA256, large, "sha256"), _matching(_COMMIT, entry, "blob_id")
        )
    return Listing(sha, files)


def require_files(folder: Path, expected: Mapping[str, HubFile]) -> None:
    """Compare downloaded files with their list; remove those that differ.

    Raises
    ------
    FileNotFoundError
        If some did not arrive.
    ValueError
        If some have other bytes than the list says.
    """
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{short_list(missing)} did not arrive")
    wrong = [name for name, file in expected.items() if not _is_whole(folder / name, file)]
    for name in wrong:
        (folder / name).unlink()  # the client would take it for the file that is wanted
    if wrong:
        raise ValueError(f"{short_list(wrong)} arrived with other bytes than were listed")


def _matching(pattern: re.Pattern[str], entry: Any, field: str) -> str | None:
    value = getattr(entry, field, None)
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _is_whole(path: Path, expected: HubFile) -> bool:
    """Return whether a file has the size and the hash of its list."""
    if path.stat().st_size != expected.size:
        return False
    if expected.sha256 is not None:
        digest, wanted = hashlib.sha256(), expected.sha256
    elif expected.blob is not None:
        digest, wanted = hashlib.sha1(usedforsecurity=False), expected.blob
        digest.update(f"blob {expected.size}\0".encode())  # as git names a content
    else:
        return True
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == wanted
