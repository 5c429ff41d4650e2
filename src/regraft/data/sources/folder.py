"""Class folders on a disk, and how one image file is read from there."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.core.files import read_regular
from regraft.data.names import normalise
from regraft.data.sources.layout import source_of_folders
from regraft.data.sources.members import Members, is_hidden
from regraft.data.sources.stream import read_each
from regraft.errors import DataError, ImageError

if TYPE_CHECKING:
    from regraft.data.samples import Source
    from regraft.data.sources.options import Data, SourceOptions

#: Bytes of the largest image file that is read: a bound for hostile and mistaken files.
LARGEST_FILE = 256 << 20

_KINDS = {
    errno.ENOENT: ("missing", "there is no such file"),
    errno.ENOTDIR: ("missing", "there is no such file"),
    errno.EINVAL: ("not a regular file", "it is a folder, a pipe, a device or a socket"),
    errno.EISDIR: ("not a regular file", "it is a folder, a pipe, a device or a socket"),
    errno.ENXIO: ("not a regular file", "it is a folder, a pipe, a device or a socket"),
    errno.ELOOP: ("link loop", "its links lead back to themselves"),
}


def open_folder(data: Data, options: SourceOptions) -> Source | None:
    """Open class folders, with or without train, val and test folders; None for other data."""
    if isinstance(data, tuple) or not Path(data).is_dir():
        return None
    return source_of_folders(
        "folder",
        os.fspath(data),
        list_tree(Path(data)),
        partial(read_each, read_file),
        options,
    )


def read_file(path: str) -> bytes:
    """Read one image file; where that fails, an ImageError has the kind for the ledger."""
    try:
        return read_regular(path, LARGEST_FILE)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ImageError("too large", f"it has {error.strerror}") from error
        kind, reason = _KINDS.get(error.errno or 0, ("unreadable", error.strerror or str(error)))
        raise ImageError(kind, reason) from error


def read_head(path: str, count: int = 16) -> bytes:
    """Return a file's first bytes; none where it cannot be read."""
    try:
        return read_regular(path, 0, first=count)
    except OSError:
        return b""


def list_tree(top: Path) -> Members[str]:
    """List the images below a folder, sorted by name; each key is the path to open.

    Links to files inside the tree are followed. Other links, pipes, devices and sockets are refused
    without opening them. The folder itself may be a link.
    """
    root = os.path.realpath(top)
    files: list[tuple[str, str]] = []
    members: Members[str] = Members()
    pending = [("", root)]
    while pending:
        prefix, folder = pending.pop()
        try:
            with os.scandir(folder) as listing:
                items = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            if not prefix:
                raise DataError(f"{top} cannot be listed: {error.strerror or error}") from error
            members.record_refused(prefix, "unreadable folder", error.strerror or str(error))
            continue
        for item in items:
            name = f"{prefix}/{item.name}" if prefix else item.name
            if not is_hidden(item.name) and _is_folder(item):
                pending.append((name, item.path))
                members.folders.setdefault(normalise(name))
            else:
                path = _file_to_read(item, root, name, members)
                files += [] if path is None else [(name, path)]
    # Sorted by the normal form: the order is the same on every system.
    for name, path in sorted((normalise(name), path) for name, path in files):
        members.add(name, path, partial(read_head, path))
    members.left_out.sort(key=lambda entry: entry.path)
    return members


def _is_folder(item: os.DirEntry[str]) -> bool:
    """Return whether an item is a folder, and not a link to one."""
    return item.is_dir(follow_symlinks=False) and not _is_junction(item)


def _is_junction(item: os.DirEntry[str]) -> bool:
    """Return whether an item is the kind of link on Windows that ``is_symlink`` does not know."""
    check = getattr(item, "is_junction", None)  # Python 3.12 and newer
    return check is not None and bool(check())


def _file_to_read(
    item: os.DirEntry[str], root: str, name: str, members: Members[str]
) -> str | None:
    """Return the path to open for an item that is not a folder; else record it, return None."""
    if is_hidden(item.name):
        members.record_passed_over(normalise(name), "hidden file", "hidden files are not read")
    elif item.is_symlink() or _is_junction(item):
        return _follow(item.path, root, name, members)
    elif item.is_file(follow_symlinks=False):
        return item.path
    else:
        members.record_refused(name, *_KINDS[errno.EINVAL])
    return None


def _follow(path: str, root: str, name: str, members: Members[str]) -> str | None:
    """Return a link's target if it is a regular file in the tree; else record it, return None."""
    target = os.path.realpath(path)
    try:
        status = Path(path).stat()
    except OSError as error:
        broken = ("broken link", "it leads to nothing that can be read")
        members.record_refused(
            name, *(_KINDS[errno.ELOOP] if error.errno == errno.ELOOP else broken)
        )
        return None
    if stat.S_ISDIR(status.st_mode):
        members.folders.setdefault(normalise(name))
    if not is_inside(target, root):
        members.record_refused(name, "link out of the tree", f"it leads to {target}")
    elif stat.S_ISDIR(status.st_mode):
        members.record_refused(name, "link to a folder", "the images below it would be met twice")
    elif not stat.S_ISREG(status.st_mode):
        members.record_refused(name, *_KINDS[errno.EINVAL])
    else:
        return target
    return None


def is_inside(path: str, root: str) -> bool:
    """Return whether a real path is the other real path or below it."""
    try:
        return os.path.commonpath([path, root]) == root
    except ValueError:  # another drive
        return False
