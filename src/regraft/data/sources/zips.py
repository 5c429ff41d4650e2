"""Zip archives of class folders, read from several threads."""

from __future__ import annotations

import itertools
import os
import stat
import struct
import threading
import zipfile
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from regraft.core.text import counted
from regraft.data.names import normalise, printable
from regraft.data.sources import archive
from regraft.data.sources.archive import DAMAGE, damage_reason
from regraft.data.sources.folder import LARGEST_FILE, read_head
from regraft.data.sources.layout import source_of_folders
from regraft.data.sources.members import Members
from regraft.data.sources.stream import read_each
from regraft.errors import ArchiveError, ImageError

if TYPE_CHECKING:
    from regraft.data.samples import Source
    from regraft.data.sources.options import Data, SourceOptions

_LOCAL_HEADER = 30  # bytes, without name and extra fields
_UTF8 = 0x800  # flag: the name is UTF-8
_UNICODE_PATH = 0x7075  # extra field of Info-ZIP: version, CRC-32 of the first name, UTF-8 name


def open_zip(data: Data, options: SourceOptions) -> Source | None:
    """Open a zip of class folders; None for other data."""
    if isinstance(data, tuple) or not is_zip(Path(data)):
        return None
    reader, members = list_zip(Path(data))
    stream = partial(read_each, reader.read)
    return source_of_folders("zip", os.fspath(data), members, stream, options)


def is_zip(path: Path) -> bool:
    """Return whether a path is a file with the suffix or the first bytes of a zip."""
    return path.is_file() and (
        path.suffix.lower() == ".zip" or read_head(str(path), 4) == b"PK\x03\x04"
    )


class ZipReader:
    """Read members from several threads.

    ``zipfile`` locks each read of the shared file, but counts its open members without a lock: a
    lost count would close the file while other threads read it. So opening and closing are locked
    here, and decompressing is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        except DAMAGE as error:
            raise ArchiveError(f"{path} cannot be read as a zip: {damage_reason(error)}") from error
        self._refuse_overlaps()

    def _refuse_overlaps(self) -> None:
        """Raise ArchiveError for members that share bytes.

        With them a small file can declare petabytes.
        Fifield, A better zip bomb, WOOT 2019. CPython refuses them since 3.12.2 and 3.11.8.
        """
        infos = sorted(self.infos(), key=lambda info: info.header_offset)
        if len(infos) > archive.MOST_MEMBERS:
            raise ArchiveError(f"{self.path} has more than {archive.MOST_MEMBERS:,} members")
        for one, following in itertools.pairwise(infos):
            if one.header_offset + _LOCAL_HEADER + one.compress_size > following.header_offset:
                raise ArchiveError(
                    f"{self.path} is damaged: {printable(_name(following).text)} overlaps with "
                    f"{printable(_name(one).text)}"
                )

    def infos(self) -> list[zipfile.ZipInfo]:
        """Return all members in the order in which they are listed."""
        return self._zip.infolist()

    def read(self, info: zipfile.ZipInfo, first: int = LARGEST_FILE + 1) -> bytes:
        """Return a member's bytes, or only the first ones."""
        try:
            with self._lock:
                member = self._zip.open(info)
            try:
                data = member.read(first)
            finally:
                with self._lock:
                    member.close()
        except DAMAGE as error:
            raise ImageError("damaged member", damage_reason(error)) from error
        if len(data) > LARGEST_FILE:
            raise ImageError("too large", f"it has more than {LARGEST_FILE} bytes")
        return data

    def head(self, info: zipfile.ZipInfo) -> bytes:
        """Return a member's first bytes; none where it is damaged."""
        try:
            return self.read(info, first=16)
        except ImageError:
            return b""


class _Name(NamedTuple):
    """A member's name, and whether its encoding had to be guessed."""

    text: str
    is_guess: bool = False


def _name(info: zipfile.ZipInfo) -> _Name:
    """Return a member's name as its writer meant it, as far as the archive says.

    A flag says that a name is UTF-8. Info-ZIP writes the name a second time, into an extra field
    with a checksum of the first. Other programs write UTF-8 without any sign of it: text in another
    encoding is hardly ever valid UTF-8 by chance. What is left is in the code page of the writer's
    system, which nothing names: zipfile reads it as 437, that of the first PCs.
    """
    name = info.orig_filename
    if info.flag_bits & _UTF8:
        return _Name(name)
    raw = name.encode("cp437")
    checksum = struct.pack("<I", zlib.crc32(raw))
    extra = memoryview(info.extra)
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field = bytes(extra[4 : 4 + size])
        if kind == _UNICODE_PATH and field[1:5] == checksum:
            with suppress(UnicodeDecodeError):
                return _Name(field[5:].decode())
        extra = extra[4 + size :]
    try:
        return _Name(raw.decode())
    except UnicodeDecodeError:
        return _Name(name, is_guess=True)


def _note_of_guesses(path: Path, guesses: list[str]) -> str:
    """Return a note about names in an unknown encoding."""
    names = counted(len(guesses), "name is", "names are")
    return (
        f"{path}: {names} not marked as UTF-8 and read in code page 437, such as "
        f"{printable(guesses[0])}: if it looks wrong, unpack the zip where it was made and give "
        "the folder, or make it again with names in UTF-8"
    )


def list_zip(path: Path) -> tuple[ZipReader, Members[zipfile.ZipInfo]]:
    """List a zip's images; each key is what ``ZipReader.read`` takes."""
    reader = ZipReader(path)
    members: Members[zipfile.ZipInfo] = Members()
    guesses = []
    for info in reader.infos():
        # zipfile cuts names at a NUL and swaps separators on Windows: the original is checked
        text, is_guess = _name(info)
        guesses += [text] if is_guess else []
        name = members.allow(text)
        mode = info.external_attr >> 16
        if name is None:
            continue
        if info.orig_filename.endswith("/"):
            members.folders.setdefault(normalise(name))
            continue
        if stat.S_ISLNK(mode):
            members.record_refused(name, "link", "links inside archives are not followed")
        elif stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            members.record_refused(name, "not a regular file", "it is a pipe, a device or a socket")
        elif info.flag_bits & 0x1:
            members.record_refused(name, "encrypted", "it can only be read with a password")
        else:
            members.add(name, info, partial(reader.head, info))
    if guesses:
        members.notes.append(_note_of_guesses(path, guesses))
    return reader, members
