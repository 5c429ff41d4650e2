"""Files: written whole or not at all, and read within bounds."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path

from regraft.errors import DiskFullError, InputError

# Opening a FIFO blocks for ever; with O_NONBLOCK it is opened, and fstat shows what it is. Windows
# has neither FIFOs in folders nor the flag, and needs O_BINARY.
_READ_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_NETWORK_FILE_SYSTEMS = (
    *("9p", "afp", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "gpfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs"),
    *("fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
)
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def can_be_path(path: Path | str) -> bool:
    r"""Return whether the system takes this for a path at all; no file need be there.

    No system takes the character 0, nor half of a character, except as Python writes the bytes of a
    name that is not UTF-8.

    Examples
    --------
    >>> can_be_path("a b/c"), can_be_path("a" + chr(0)), can_be_path("a" + chr(0xD800))
    (True, False, False)
    """
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the new one, never a part.

    The bytes are written to a new file in the same folder and flushed to the disk; then that file
    is renamed, and the folder is flushed. Raises DiskFullError or InputError.

    Pillai et al., All File Systems Are Not Created Equal, OSDI 2014.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder) / "a.json", b"{}")
    ...     read_bounded(Path(folder) / "a.json", limit=10)
    b'{}'
    """
    path = Path(path)
    if not can_be_path(path):
        raise InputError(f"{path} is not a path that this system can have")
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if is_full(error):
            raise DiskFullError(
                f"no space left for {path}: {len(data)} bytes were needed",
                hint="free some space there, or choose another folder",
            ) from error
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:  # an interrupt: no incomplete file is left
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a file as ``write_atomic`` does, at a path where nothing is; else FileExistsError.

    Of two that write there at once, one does: an empty file holds the place.
    """
    try:
        path.open("xb").close()
    except FileExistsError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        write_atomic(path, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows and some network file systems cannot."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_full(error: BaseException | None) -> bool:
    """Return whether an error means that a disk or a quota is full.

    Examples
    --------
    >>> is_full(OSError(errno.ENOSPC, "no space")), is_full(OSError(errno.EACCES, "no"))
    (True, False)
    """
    return isinstance(error, OSError) and error.errno in _FULL


def existing_parent(path: Path) -> Path:
    """Return the path itself if it exists, else the nearest folder above it that does."""
    return next(each for each in (path, *path.parents) if each.exists())


def network_file_system(folder: Path, mounts: str | None = None) -> str | None:
    """Return the name of the network file system that a folder is on; None on a local disk.

    On some network file systems two processes get the same lock, and then destroy each other's
    file. The folder need not exist yet. ``mounts`` is a mount table as in Linux's
    /proc/self/mountinfo, by default that of this system.
    """
    folder = folder.absolute()
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - only here

        remote = 4  # DRIVE_REMOTE of GetDriveTypeW
        kind = ctypes.windll.kernel32.GetDriveTypeW(folder.anchor)
        return "network drive" if kind == remote or folder.drive.startswith("\\\\") else None
    table = Path("/proc/self/mountinfo")
    if mounts is None:
        if not table.exists():
            return None
        mounts = table.read_text(encoding="utf-8", errors="replace")
    with suppress(OSError):
        folder = folder.resolve()
    best, name = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        # Spaces in a mount point are written as octal escapes.
        point = Path(left.split()[4].replace("\\040", " "))
        if (folder == point or point in folder.parents) and len(point.parts) >= best:
            best, name = len(point.parts), right.split()[0]
    return name if name in _NETWORK_FILE_SYSTEMS else None


def refuse_full_disk(path: Path, needed: int, what: str, setting: str = "`out`") -> None:
    """Raise DiskFullError if fewer than ``needed`` bytes are free where ``path`` would be.

    ``path`` need not exist yet; ``what`` is for the message, such as "checkpoints in FOLDER", and
    ``setting`` names the folder.
    """
    free = shutil.disk_usage(existing_parent(path)).free
    if free < needed:
        raise DiskFullError(
            f"{what} need up to {needed:,} bytes; {free:,} are free",
            hint=f"free some space there; {setting} names another folder",
        )


def read_regular(
    path: Path | str, limit: int, first: int | None = None, *, follow: bool = True
) -> bytes:
    """Read a regular file of at most ``limit`` bytes, and never block on a FIFO or a device.

    With ``first``, read only that many bytes, of a file of any size. Without ``follow``, the last
    part of the path must not be a link. OSErrors are those of the system, EFBIG for a file that is
    too large, EINVAL for anything that is not a regular file, and ENOENT for what can be no path.
    """
    if not can_be_path(path):
        raise OSError(errno.ENOENT, "no path: it holds a null byte or half of a character")
    if not follow and Path(path).is_symlink():
        raise OSError(errno.EINVAL, "not a regular file")
    # The flag too: the file may have been replaced by a link since that check.
    flags = _READ_FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    with open(os.open(path, flags), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if first is not None:
            return file.read(first)
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes; at most {limit} are read")
        pieces = []
        left = limit + 1  # a file may grow between fstat and read
        while left and (piece := file.read(min(left, max(status.st_size, 4095) + 1))):
            pieces.append(piece)
            left -= len(piece)
        if not left:
            raise OSError(errno.EFBIG, f"more than {limit} bytes")
    return b"".join(pieces)


def read_bounded(path: Path | str, limit: int) -> bytes:
    """Read a whole file that must not be larger than ``limit`` bytes.

    Any OSError becomes an InputError, and is its cause.
    """
    try:
        return read_regular(path, limit)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
