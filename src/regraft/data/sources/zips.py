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
from typing import TYPE_CHECKING

from regraft.data.samples import Source
from regraft.data.sources import archive
from regraft.data.sources.archive import DAMAGE, say
from regraft.data.sources.folder import LARGEST_FILE, read_head
from regraft.data.sources.layout import Members, arrange, printable
from regraft.errors import ArchiveError, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.data.sources.options import Data, SourceOptions
    from regraft.images.payload import Load

_LOCAL_HEADER = 30  # bytes, without name and extra fields
_UTF8 = 0x800  # flag: the name is UTF-8
_UNICODE_PATH = 0x7075  # extra field of Info-ZIP: version, CRC-32 of the first name, UTF-8 name
_UNIX = (3, 19)  # writers on Linux and macOS


def open_zip(data: Data, options: SourceOptions) -> Source | None:  # noqa: ARG001
    """Open a zip of class folders; None for anything else.

    Raises
    ------
    ArchiveError
        Where the file is named ``.zip`` and is none, or its list of members is damaged.
    DataError
        Where it holds no class folders that can be used.
    """
    if isinstance(data, tuple) or not is_zip(Path(data)):
        return None
    location = os.fspath(data)
    reader, members = list_zip(Path(data))
    layout = arrange(members.names, location)
    infos = [members.keys[position] for position in layout.positions]
    return Source(
        "zip",
        location,
        layout.entries,
        partial(reader.stream, infos),
        (*members.left_out, *layout.refused),
        layout.notes,
    )


def is_zip(path: Path) -> bool:
    """Whether a path is a file that says, by suffix or content, that it is a zip."""
    return path.is_file() and (
        path.suffix.lower() == ".zip" or read_head(str(path), 4) == b"PK\x03\x04"
    )


class ZipReader:
    """Reads members from several threads.

    ``zipfile`` locks each read of the shared file, but counts its open members without a lock:
    a lost count would close the file under the others' hands. So opening and closing are locked
    here, and decompressing is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        except DAMAGE as error:
            raise ArchiveError(f"{path} cannot be read as a zip: {say(error)}") from error
        self._refuse_overlaps()

    def _refuse_overlaps(self) -> None:
        """Refuse members that share bytes: so a small file says that it holds petabytes.

        References
        ----------
        Fifield, A better zip bomb, WOOT 2019. CPython refuses them since 3.12.2 and 3.11.8.
        """
        infos = sorted(self.infos(), key=lambda info: info.header_offset)
        if len(infos) > archive.MOST_MEMBERS:
            raise ArchiveError(f"{self.path} has more than {archive.MOST_MEMBERS:,} members")
        for one, following in itertools.pairwise(infos):
            if one.header_offset + _LOCAL_HEADER + one.compress_size > following.header_offset:
                raise ArchiveError(
                    f"{self.path} is no sound zip: {printable(_name(following))} lies within "
                    f"{printable(_name(one))}"
                )

    def infos(self) -> list[zipfile.ZipInfo]:
        """Return all members in the order in which they are listed."""
        return self._zip.infolist()

    def stream(
        self, infos: Sequence[zipfile.ZipInfo], indices: Sequence[int]
    ) -> Iterator[tuple[int, Load]]:
        """Yield how each of the wanted members is read."""
        for index in indices:
            yield index, partial(self.read, infos[index])

    def read(self, info: zipfile.ZipInfo, first: int = LARGEST_FILE + 1) -> bytes:
        """Return a member's bytes, or only the first ones.

        Raises
        ------
        ImageError
            Where it is damaged or too large.
        """
        try:
            with self._lock:
                member = self._zip.open(info)
            try:
                data = member.read(first)
            finally:
                with self._lock:
                    member.close()
        except DAMAGE as error:
            raise ImageError("damaged member", say(error)) from error
        if len(data) > LARGEST_FILE:
            raise ImageError("too large", f"it has more than {LARGEST_FILE} bytes")
        return data

    def head(self, info: zipfile.ZipInfo) -> bytes:
        """Return a member's first bytes; nothing where it is damaged."""
        try:
            return self.read(info, first=16)
        except ImageError:
            return b""


def _name(info: zipfile.ZipInfo) -> str:
    """Return a member's name as its writer meant it.

    Info-ZIP on Linux and macOS does not set the flag for UTF-8 but writes the name a second time,
    into an extra field with a checksum of the first; others write UTF-8 bytes and say nothing.
    zipfile takes both for code page 437.
    """
    if info.flag_bits & _UTF8:
        return info.orig_filename
    raw = info.orig_filename.encode("cp437")
    extra = memoryview(info.extra)
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field = bytes(extra[4 : 4 + size])
        matches = field[1:5] == struct.pack("<I", zlib.crc32(raw))
        if kind == _UNICODE_PATH and matches:
            with suppress(UnicodeDecodeError):
                return field[5:].decode()
        extra = extra[4 + size :]
    if info.create_system in _UNIX:
        with suppress(UnicodeDecodeError):
            return raw.decode()
    return info.orig_filename


def list_zip(path: Path) -> tuple[ZipReader, Members[zipfile.ZipInfo]]:
    """List a zip's images; each key is what ``ZipReader.read`` takes."""
    reader = ZipReader(path)
    members: Members[zipfile.ZipInfo] = Members()
    for info in reader.infos():
        # zipfile cuts names at a NUL and swaps separators on Windows: the original is checked
        name = members.allow(_name(info))
        mode = info.external_attr >> 16
        if name is None or info.orig_filename.endswith("/"):
            continue
        if stat.S_ISLNK(mode):
            members.refuse(name, "link", "links inside archives are not followed")
        elif stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            members.refuse(name, "not a regular file", "it is a pipe, a device or a socket")
        elif info.flag_bits & 0x1:
            members.refuse(name, "encrypted", "it can only be read with a password")
        else:
            members.add(name, info, partial(reader.head, info))
    return reader, members
