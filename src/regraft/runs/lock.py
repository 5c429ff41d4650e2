"""The hidden folder in which one process writes a run, and the lock that keeps others away.

While a run is computed, the folder ``.NAME.part`` next to its path holds the file ``regraft.lock``,
which the process keeps locked, ``new`` with the files that are written so far, and for a moment
``old`` with the run that is replaced. The operating system releases the lock when the process ends,
for any reason: a folder whose lock is free is not in use any more, and is removed. What cannot be
removed, such as a run with a folder that is read-only, is moved beside the run and named.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from typing import TYPE_CHECKING

from regraft.core.files import can_be_path, existing_parent, is_full, network_file_system
from regraft.errors import DiskFullError, RunError, RunWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK = "regraft.lock"
_ATTEMPTS = 1000


@contextlib.contextmanager
def workspace(path: Path) -> Iterator[Path | None]:
    """Yield the hidden folder where the run at ``path`` is written; None if another run has it."""
    folder = workspace_path(path)
    with write_errors_as_run_errors(path):
        parent = existing_parent(path.parent)
        missing = [each for each in path.parents if not each.exists()]
        if not parent.is_dir():
            raise RunError(f"{path} cannot be made: {parent} is a file")
    descriptor = None
    try:
        with write_errors_as_run_errors(path):
            descriptor = _take(folder)
        if descriptor is not None:
            _clear(folder, path)
            _remove_leftovers(path.parent)
        yield None if descriptor is None else folder
    finally:
        if descriptor is not None:
            _remove(folder, path, descriptor)
        for made in missing:  # those that are still empty, innermost first
            with contextlib.suppress(OSError):
                made.rmdir()


def workspace_path(path: Path) -> Path:
    """Return the hidden folder that belongs to a run's path."""
    return path.with_name(f".{path.name}.part")


@contextlib.contextmanager
def write_errors_as_run_errors(path: Path) -> Iterator[None]:
    """Raise what a file system reports as one of our errors, in one line; refuse a non-path."""
    if not can_be_path(path):
        raise RunError(f"{path} is not a path that this system can have")
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DiskFullError(f"no space left for {path}") from error
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def is_free(path: Path) -> bool:
    """Return whether a path does not exist, or is an empty folder."""
    if path.is_symlink() or not path.is_dir():
        return not os.path.lexists(path)
    return not any(path.iterdir())


def numbered(path: Path) -> Path:
    """Return the first of ``NAME-2``, ``NAME-3`` and so on that does not exist."""
    names = (path.with_name(f"{path.name}-{n}") for n in range(2, 1_000_000))
    return next(each for each in names if not os.path.lexists(each))


def _take(folder: Path) -> int | None:
    """Make or take over a workspace; return the descriptor of its lock, None if it is in use."""
    for attempt in range(1, _ATTEMPTS + 1):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = True
        try:
            folder.mkdir()
        except FileExistsError:
            if not _is_leftover(folder):
                return None
            made = False
        except FileNotFoundError:  # another run has removed the empty parent again
            if attempt == _ATTEMPTS:  # or no folder can be made here at all, as in /proc
                raise
            continue
        try:
            descriptor = _lock(folder, made=made)
        except BaseException:  # such as no inode for the lock: an empty folder must not stay
            if made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        if descriptor is not None or folder.exists():
            return descriptor
    return None


def _is_leftover(folder: Path) -> bool:
    """Return whether a folder may be an unused workspace of regraft, where locks work."""
    try:
        ours = (folder / _LOCK).is_file() or is_free(folder)
    except FileNotFoundError:  # removed at this moment; the next step notices it
        return True
    return ours and not folder.is_symlink() and network_file_system(folder) is None


def _lock(folder: Path, *, made: bool) -> int | None:
    """Lock a workspace; return the open descriptor, None if another process has it.

    ``made`` says that this process made the folder: on a file system without locks that is enough.
    """
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:  # the other process has removed it at this moment
        return None
    from filelock import lock_descriptor  # noqa: PLC0415 - 0.1 s, only where a run is written

    try:
        # A lock on a file that was removed between opening and locking has no effect.
        locked = lock_descriptor(descriptor, blocking=False)
        if locked and os.path.samestat(os.fstat(descriptor), (folder / _LOCK).stat()):
            return descriptor
    except FileNotFoundError:
        pass
    except OSError:  # a file system without locks
        if made:
            return descriptor
    os.close(descriptor)
    return None


def _clear(folder: Path, path: Path) -> None:
    """Move back the run that was being replaced at a kill; remove all but the lock."""
    old, new = folder / "old", folder / "new"
    if old.exists() and (new.exists() or not path.exists()):
        old.replace(numbered(path) if path.exists() else path)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
        if os.path.lexists(leftover):
            _move_beside(leftover, path)


def _move_beside(leftover: Path, path: Path) -> None:
    """Give what cannot be removed a name beside the run: here it would be in the way for ever."""
    kept = path.with_name(f"{path.name}-old")
    kept = numbered(kept) if os.path.lexists(kept) else kept
    try:
        leftover.replace(kept)
    except OSError as error:
        raise RunError(
            f"{leftover}, left by an earlier run, cannot be removed: {error.strerror}",
            hint="remove it; `out` names another folder",
        ) from error
    warnings.warn(
        f"an earlier run could not be removed; what is left of it is at {kept}",
        RunWarning,
        stacklevel=2,
    )


def _remove(folder: Path, path: Path, descriptor: int) -> None:
    """Remove a workspace; the lock last, and on Windows after it is closed.

    With anything else left in it the lock stays too: free, it says that nobody uses the folder.
    """
    with contextlib.suppress(OSError, RunError):
        _clear(folder, path)
    if sys.platform == "win32":
        _close(descriptor)
    with contextlib.suppress(OSError):
        if [each.name for each in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            folder.rmdir()
    if sys.platform != "win32":
        _close(descriptor)
    with contextlib.suppress(OSError):  # NFS and sshfs keep an open file under another name
        folder.rmdir()


def _close(descriptor: int) -> None:
    """Close a lock; if its file system is gone, the error that ended the run is reported."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    """Remove the workspaces of other runs that were killed."""
    for folder in parent.glob(".*.part"):
        if (folder / _LOCK).is_file() and _is_leftover(folder):
            with contextlib.suppress(OSError):
                descriptor = _lock(folder, made=False)
                if descriptor is not None:
                    path = folder.with_name(folder.name[1:].removesuffix(".part"))
                    _remove(folder, path, descriptor)
