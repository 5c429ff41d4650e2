"""Tar archives of class folders: plain ones by offset, compressed ones from front to back."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, cast

from regraft.data.names import normalise
from regraft.data.sources import archive
from regraft.data.sources.archive import DAMAGE, damage_reason
from regraft.data.sources.folder import LARGEST_FILE, read_head
from regraft.data.sources.layout import source_of_folders
from regraft.data.sources.members import Members
from regraft.data.sources.stream import read_each
from regraft.errors import ArchiveError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from regraft.data.samples import Source
    from regraft.data.sources.options import Data, SourceOptions
    from regraft.images.payload import Load

_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda raw: cast("IO[bytes]", gzip.GzipFile(fileobj=raw)),
    b"BZh": lambda raw: cast("IO[bytes]", bz2.BZ2File(raw)),
    b"\xfd7zXZ\0": lambda raw: cast("IO[bytes]", lzma.LZMAFile(raw)),  # noqa: SIM115 - closed by _Closing
}
# tarfile's errors at the end of an archive, with and without an end mark; not in the type stubs.
_EMPTY: type[Exception] = tarfile.EmptyHeaderError  # type: ignore[attr-defined]
_END: tuple[type[Exception], ...] = (_EMPTY, tarfile.EOFHeaderError)  # type: ignore[attr-defined]
_TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")


def open_tar(data: Data, options: SourceOptions) -> Source | None:
    """Open a tar of class folders, plain or compressed; None for other data."""
    if isinstance(data, tuple) or not is_tar(Path(data)):
        return None
    reader, members = list_tar(Path(data))
    order = (lambda member: member.offset) if reader.compressed else None  # read front to back
    return source_of_folders("tar", os.fspath(data), members, reader.stream, options, order)


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar."""

    name: str
    offset: int  # bytes into the (decompressed) tar
    size: int  # bytes


def is_tar(path: Path) -> bool:
    """Return whether a path is a file with a suffix or the first bytes of a tar."""
    if not path.is_file():
        return False
    return path.name.lower().endswith(_TAR_SUFFIXES) or read_head(str(path), 262)[257:] == b"ustar"


class TarReader:
    """Read a plain tar by offset, and a compressed one from front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        head = read_head(str(path), 6)
        self._open = next(
            (opener for magic, opener in _COMPRESSIONS.items() if head.startswith(magic)), None
        )
        self.compressed = self._open is not None

    def opened(self) -> AbstractContextManager[IO[bytes]]:
        """Open the tar's own bytes, decompressed where they are compressed."""
        raw = self.path.open("rb")
        # The decompressors leave the file below open; its reference count closes it.
        return _Closing(raw, self._open(raw)) if self._open else raw

    def stream(
        self, members: Sequence[TarMember], indices: Sequence[int]
    ) -> Iterator[tuple[int, Load]]:
        """Yield each wanted index with the function that reads its member, in ascending order.

        Damage in a compressed archive is an ArchiveError: what follows cannot be reached.
        """
        if not self.compressed:
            yield from read_each(self._read_at, members, indices)
            return
        with self.opened() as file:
            position = 0
            for index in indices:
                member = members[index]
                try:
                    _skip(file, member.offset - position)
                    data = file.read(min(member.size, LARGEST_FILE + 1))
                except DAMAGE as error:
                    raise self.damaged(error, member.name) from error
                position = member.offset + len(data)
                yield index, partial(_checked, data, member)

    def _read_at(self, member: TarMember) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(member.offset)
                data = file.read(min(member.size, LARGEST_FILE + 1))
        except OSError as error:
            raise ImageError("unreadable", error.strerror or str(error)) from error
        return _checked(data, member)

    def damaged(self, error: Exception, member: str) -> ArchiveError:
        """Return the error that names the archive and the last member that was reached."""
        where = f"at or after {member}" if member else "at its start"
        return ArchiveError(
            f"{self.path} is damaged {where}: {damage_reason(error)}",
            hint="get the archive again: what follows the damage cannot be read",
        )


def _checked(data: bytes, member: TarMember) -> bytes:
    if member.size > LARGEST_FILE:
        raise ImageError("too large", f"it has more than {LARGEST_FILE} bytes")
    if len(data) < member.size:
        raise ImageError("damaged member", f"{len(data)} of {member.size} bytes are there")
    return data


def list_tar(path: Path) -> tuple[TarReader, Members[TarMember]]:
    """List a tar's images; each key is what ``TarReader.stream`` takes.

    Damage is an ArchiveError; ``tarfile`` alone would end its list there without an error.
    """
    reader = TarReader(path)
    members: Members[TarMember] = Members()
    info_class, ended_early = _strict_info()
    last, count = "", 0
    try:
        with reader.opened() as file:
            metered = _Metered(file)
            # In stream mode tarfile reads what it skips: a decompressor cannot seek.
            mode = "r|" if reader.compressed else "r:"
            with tarfile.open(fileobj=metered, mode=mode, tarinfo=info_class) as opened:  # type: ignore[call-overload]
                while (member := _next(opened, metered)) is not None:
                    last = member.name
                    _list_member(opened, member, members)
                    count += 1
                    if count > archive.MOST_MEMBERS:
                        raise tarfile.ReadError(f"more than {archive.MOST_MEMBERS:,} members")
            while reader.compressed and file.read(1 << 20):
                pass  # the checksum of the whole file is compared at its end
    except DAMAGE as error:
        raise reader.damaged(error, last) from error
    if ended_early():
        members.notes.append(f"{path} ends without a tar's end mark: it may have been cut short")
    return reader, members


def _list_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, members: Members[TarMember]
) -> None:
    name = members.allow(member.name)
    if name is None:
        return
    if member.isdir():
        members.folders.setdefault(normalise(name))
        return
    if member.issym() or member.islnk():
        members.record_refused(name, "link", "links inside archives are not followed")
    elif member.issparse() or not member.isreg():
        members.record_refused(
            name, "not a regular file", "it is a pipe, a device or a sparse file"
        )
    else:
        key = TarMember(member.name, member.offset_data, member.size)
        members.add(name, key, partial(_member_head, archive, member))


def _member_head(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)  # a file object: nothing is written
    return file.read(16) if file else b""


def _next(archive: tarfile.TarFile, metered: _Metered) -> tarfile.TarInfo | None:
    """Return the next member, and bound what its header can make tarfile read."""
    metered.allow(archive.offset)
    member = archive.next()
    # tarfile keeps every member for random access, which is not needed here.
    archive.members = []  # type: ignore[attr-defined]
    return member


class _Metered(io.RawIOBase):
    """A file that does not return headers of gigabytes (pax, long names, sparse maps)."""

    # tarfile skips a member with too large a declared size block by block: for years, at 2^60.
    _READS_AT_END = 8
    _HEADER = 4 << 20  # most bytes of one member's headers, with what is read ahead

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._end = self._HEADER
        self._empty = 0

    def allow(self, offset: int) -> None:
        """Allow the header that begins at ``offset`` to be read."""
        self._end = offset + self._HEADER

    def read(self, size: int | None = -1, /) -> bytes:
        at = self._file.tell()
        if size is None or size < 0 or at + size > self._end:
            size = max(self._end - at, 0) + 1
        data = self._file.read(size)
        self._empty += size > 0 and not data
        if self._empty > self._READS_AT_END:
            raise tarfile.ReadError("it ends too early")
        if at + len(data) > self._end:
            raise tarfile.ReadError(f"a header of more than {self._HEADER} bytes")
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _strict_info() -> tuple[type[tarfile.TarInfo], Callable[[], bool]]:
    """Return a header class that reports damage, and whether the archive had no end mark.

    ``tarfile`` takes a damaged header for the archive's end.
    """
    ended_early = False

    class StrictInfo(tarfile.TarInfo):
        # Not ``frombuf``: newer releases of tarfile do not call it for the headers that it reads.
        @classmethod
        def fromtarfile(cls, opened: tarfile.TarFile) -> Self:
            nonlocal ended_early
            try:
                found = super().fromtarfile(opened)
            except _END as error:
                ended_early = isinstance(error, _EMPTY)
                raise
            except tarfile.HeaderError as error:
                raise tarfile.ReadError(f"a member's header cannot be read ({error})") from error
            ended_early = False
            return found

    return StrictInfo, lambda: ended_early


class _Closing(AbstractContextManager[IO[bytes]]):
    """Close a decompressor and the file that it reads."""

    def __init__(self, raw: IO[bytes], file: IO[bytes]) -> None:
        self._raw = raw
        self._file = file

    def __enter__(self) -> IO[bytes]:
        return self._file

    def __exit__(self, *details: object) -> None:
        self._file.close()
        self._raw.close()


def _skip(file: IO[bytes], count: int) -> None:
    while count > 0:
        piece = file.read(min(count, 1 << 20))
        if not piece:
            raise EOFError("it ends too early")
        count -= len(piece)
