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

# A FIFO would block an ordinary open for ever; O_NONBLOCK lets fstat look at it first. Windows has
# neither FIFOs in folders nor the flag, and needs O_BINARY.
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


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the new one, never a part.

    The bytes go to a new file beside, are flushed to the disk and renamed over the old one; then
    the folder's own entry is flushed where the platform can do that.

    Parameters
    ----------
    path : path
        File to make or to replace; its folder must exist.
    data : bytes
        The whole content.

    Raises
    ------
    DiskFullError
        Where there is no space left.
    InputError
        Where the file cannot be written for another reason.

    References
    ----------
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
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if is_full(error):
            raise DiskFullError(
                f"no space left for {path}: {len(data)} bytes were needed",
                hint="free some space there, or choose another place",
            ) from error
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:  # an interrupt: nothing half-written stays behind
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


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
    """Tell whether an error says that a disk or a quota is full.

    Examples
    --------
    >>> is_full(OSError(errno.ENOSPC, "no space")), is_full(OSError(errno.EACCES, "no"))
    (True, False)
    """
    return isinstance(error, OSError) and error.errno in _FULL


def existing_parent(path: Path) -> Path:
    """Return the path itself where it exists, else the nearest folder above it that does."""
    return next(each for each in (path, *path.parents) if each.exists())


def network_file_system(folder: Path, mounts: str | None = None) -> str | None:
    """Return the name of the network file system that a folder is on, else None.

    On some of them a lock succeeds for everybody, and two writers then destroy the file. The folder
    need not exist yet. ``mounts`` is a mount table as in Linux's /proc/self/mountinfo, by default
    this system's.
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


def refuse_full_disk(path: Path, needed: int, what: str) -> None:
    """Refuse to begin what cannot fit on the disk.

    Parameters
    ----------
    path : path
        Where it would be written; need not exist yet.
    needed : int
        Bytes.
    what : str
        For the message, such as ``"checkpoints in FOLDER"``.

    Raises
    ------
    DiskFullError
        Names both numbers of bytes.
    """
    free = shutil.disk_usage(existing_parent(path)).free
    if free < needed:
        raise DiskFullError(
            f"{what} need up to {needed:,} bytes; {free:,} are free",
            hint="free some space there, or choose another place with --out",
        )


def read_regular(
    path: Path | str, limit: int, first: int | None = None, *, follow: bool = True
) -> bytes:
    """Read a regular file as it is, without ever blocking on a FIFO or a device.

    Parameters
    ----------
    path : path
        File to read.
    limit : int
        Most bytes that the file may have; compared before anything is read.
    first : int, optional
        Read only so many bytes from the start; ``limit`` does not count then.
    follow : bool
        Whether the last part of the path may be a link.

    Raises
    ------
    OSError
        As the system says; ``EFBIG`` where it is too large, ``EINVAL`` where it is not a regular
        file, or a link that is not to be followed.
    """
    if not follow and Path(path).is_symlink():
        raise OSError(errno.EINVAL, "not a regular file")
    # The flag too: between the two calls somebody may have put a link there.
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

    Raises
    ------
    InputError
        Where it is missing, too large, not a regular file or unreadable; the ``OSError`` is its
        cause.
    """
    try:
        return read_regular(path, limit)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
