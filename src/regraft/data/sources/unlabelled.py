"""Images to predict: files, folders, patterns, archives and standard input, in the order given."""

from __future__ import annotations

import glob
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from regraft.core.text import counted, listed
from regraft.data.names import normalise, printable
from regraft.data.samples import Entry, Source
from regraft.data.sources.folder import LARGEST_FILE, list_tree, read_file
from regraft.data.sources.lost import no_images
from regraft.data.sources.members import Members, has_image_magic
from regraft.data.sources.stream import read_each
from regraft.data.sources.tars import is_tar, list_tar
from regraft.data.sources.zips import is_zip, list_zip
from regraft.errors import DataError
from regraft.images.payload import Load
from regraft.images.unrecognised import FORMATS_ARE_READ

if TYPE_CHECKING:
    from regraft.data.ledger import LedgerEntry

#: One container's entries and the function that streams them, as in ``Source``.
_Stream = Callable[[Sequence[int]], Iterator[tuple[int, Load]]]


def open_unlabelled(
    paths: Sequence[str], stdin: BinaryIO | None = None, *, without: Path | None = None
) -> Source:
    """Open images whose labels are not known; their labels are empty.

    A path is a file, a folder with all files below it, a pattern that no shell expanded, or a zip
    or tar archive. ``-`` is standard input, which holds one image, or such paths, one a line. An id
    is the path as given, followed by the name in the folder or archive. An image that is named
    twice is listed twice: each entry answers one question, in the order of the questions. Files in
    the folder ``without`` are left out, and a note counts them.

    Examples
    --------
    >>> import io
    >>> source = open_unlabelled(["-"], io.BytesIO(b"GIF89a and so on"))
    >>> [(index, load()[:6]) for index, load in source.stream([0])]
    [(0, b'GIF89a')]
    """
    found = _Found(without)
    given = list(paths)
    if "-" in given:
        position = given.index("-")
        content = _read_stdin(stdin)
        if has_image_magic(content[:16]):
            given[position : position + 1] = []
            found.add(["-"], partial(read_each, bytes, [content]))
        else:
            given[position : position + 1] = _lines(content)
    for path in given:
        _add_path(path, found)
    if not found.entries:
        what = f"there are no images in {listed(paths) or 'an empty list of paths'}"
        raise no_images(what, found.left_out, hint=None)
    if found.n_without:
        here = "it is" if found.n_without == 1 else "they are"
        found.notes.append(f"{counted(found.n_without, 'file')} left out: {here} in {without}")
    location = paths[0] if len(paths) == 1 else f"{len(paths)} paths"
    return Source("unlabelled", location, found.entries, found.stream, tuple(found.left_out),
                  tuple(found.notes))  # fmt: skip


class _Found:
    """Entries of several containers, one after the other."""

    def __init__(self, without: Path | None) -> None:
        self.entries: list[Entry] = []
        self.left_out: list[LedgerEntry] = []
        self.notes: list[str] = []
        self.n_without = 0
        self._without = None if without is None else without.resolve()
        self._streams: list[tuple[int, int, _Stream]] = []  # first index, number, images

    def leaves_out(self, path: str) -> bool:
        """Return whether a file is in the folder whose files are left out; count it."""
        out = self._without is not None and Path(path).resolve().is_relative_to(self._without)
        self.n_without += out
        return out

    def add(self, names: Sequence[str], stream: _Stream) -> None:
        """Add a container's images."""
        self._streams.append((len(self.entries), len(names), stream))
        self.entries += [Entry(printable(name), "") for name in names]

    def add_tree(self, path: str, members: Members[Any], stream: _Stream) -> None:
        """Add the images of a folder or an archive; their ids begin with its path."""
        self.left_out += members.left_out
        self.notes += members.notes
        self.add([normalise((Path(path) / name).as_posix()) for name in members.names], stream)

    def stream(self, indices: Sequence[int]) -> Iterator[tuple[int, Load]]:
        """Yield from one container after the other; see ``Source.stream``."""
        for first, count, stream in self._streams:
            # Ascending: thousands of single files are as many containers.
            wanted = indices[bisect_left(indices, first) : bisect_left(indices, first + count)]
            inner = stream([index - first for index in wanted])
            for index, (_, load) in zip(wanted, inner, strict=True):
                yield index, load


def _add_path(path: str, found: _Found) -> None:
    """Add the images of one path."""
    here = Path(path)
    try:
        exists = bool(path) and here.exists()
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except ValueError:  # a NUL byte
        exists = False
    if not exists:
        # pathlib's own glob takes no absolute patterns
        matches = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []  # noqa: PTH207
        if not matches:
            what = "matches nothing" if glob.has_magic(path) else "does not exist"
            raise DataError(f"{printable(path)!r} {what}", hint="name files, folders or archives")
        for match in matches:
            _add_path(match, found)
    elif here.is_file() and found.leaves_out(path):
        return
    elif here.is_dir():
        files = list_tree(here)
        gone = {at: "" for at, path in enumerate(files.keys) if found.leaves_out(path)}
        files = files.without(gone, lambda _: ("kept", "it is where unknown images are kept"))
        found.add_tree(path, files, partial(read_each, read_file, files.keys))
    elif is_zip(here):
        archive, zipped = list_zip(here)
        found.add_tree(path, zipped, partial(read_each, archive.read, zipped.keys))
    elif is_tar(here):
        reader, tarred = list_tar(here)
        found.add_tree(path, tarred, partial(reader.stream, tarred.keys))
    else:
        found.add([normalise(here.as_posix())], partial(read_each, read_file, [path]))


def _read_stdin(stdin: BinaryIO | None) -> bytes:
    content = (stdin or sys.stdin.buffer).read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise DataError(f"standard input holds more than {LARGEST_FILE} bytes")
    return content


def _lines(content: bytes) -> list[str]:
    """Return the paths that standard input lists."""
    try:
        lines = [line.strip("\r") for line in content.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise DataError(
            "standard input is neither an image nor a list of paths in UTF-8",
            hint=FORMATS_ARE_READ,
        ) from error
    return [line for line in lines if line and line != "-"]
