"""One SQLite file of regraft: a damaged one is created again, a file of the user is never changed.

SQLite gives crash safety, sharing between processes, and an error if the file is damaged. Nothing
is mapped into memory: a mapped file that is truncated, or is on a failing or full disk, kills the
process (SIGBUS), and so does a flipped bit in a format that trusts its own structure.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
import warnings
from typing import TYPE_CHECKING, TypeVar

from regraft.core.files import is_full
from regraft.errors import DiskFullError, StoreError, StoreWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_MARK = 0x52475246  # "RGRF", SQLite's application_id: only a file with it may be removed
_PAGE = 32 * 2**10  # bytes; a row of the default backbone takes a little more, other rows less
_PATIENCE = 60.0  # seconds to wait for another process's commit, which takes some milliseconds
_TRIES = 3  # to create a damaged file again
_PAUSE = 0.005  # seconds before the next try
_MOVED = sqlite3.SQLITE_READONLY_DBMOVED
_READ_FAULTS = {  # extended codes of SQLITE_IOERR that mean a damaged file
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
    sqlite3.SQLITE_IOERR_DATA,
}
_OTHER_FAULTS = {  # primary codes: permissions, locks or the disk; all others mean damage
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}

T = TypeVar("T")


class Database:
    """One file, one connection, one lock: each call is one short query or transaction.

    Threads take turns, and so do processes (by the locks of SQLite). Nothing stays open between two
    calls, whatever the caller does. The folder is created if it is missing.
    """

    def __init__(self, file: Path, tables: tuple[str, ...]) -> None:
        self.file = file
        self.generation = 0  # increases when the file is created again: its earlier rows are lost
        self._tables = tables  # the statements that create them
        self._identity: tuple[int, int] | None = None  # device and inode of the open file
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()  # rolls back an open transaction

    def run(self, action: Callable[[sqlite3.Connection], T], needed: int = 0) -> T:
        """Run one query or transaction; again, on a new file, if the file is damaged or missing.

        ``action`` gets the connection and may be called several times. ``needed`` is the number of
        bytes that it writes, for the message if the disk is full.

        Raises
        ------
        StoreError
            The folder cannot be used.
        DiskFullError
            There is no space left; the file is as it was before.
        """
        with self._lock:
            damaged, until = 0, time.monotonic() + _PATIENCE
            while damaged < _TRIES and time.monotonic() < until:
                try:
                    return action(self._connected())
                except (sqlite3.Error, UnicodeDecodeError) as error:
                    # UnicodeDecodeError: SQLite's message quotes a name in a damaged schema.
                    self.close()
                    if self._moved(error):
                        # Another process has removed the file: the error of SQLite (an I/O error,
                        # a missing table) does not mean damage.
                        time.sleep(_PAUSE)
                        continue
                    if not _is_damage(error):
                        raise self.failure(error, needed) from error
                    damaged += 1
                    self._create_again(error)
                except OSError as error:
                    raise self.failure(error, needed) from error
                except BaseException:
                    self.close()  # an interrupt may come during a transaction
                    raise
        raise StoreError(
            f"the feature store {self.file.parent} was damaged several times",
            hint="is the disk failing? `cache_dir` or REGRAFT_CACHE names another folder",
        )

    def _moved(self, error: Exception) -> bool:
        """Return whether the file is no longer the one that was opened."""
        if getattr(error, "sqlite_errorcode", None) == _MOVED:
            return True
        return self._identity is not None and _identity(self.file) != self._identity

    def remove(self) -> None:
        """Remove the file and those of other versions in its folder, even if they are in use."""
        with self._lock:
            self.close()
            try:
                for file in self.file.parent.glob("features-v*.sqlite"):
                    if _state_of(file) in ("ours", "damaged"):
                        _remove(file)
            except OSError as error:
                raise self.failure(error) from error
            self.generation += 1

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and _identity(self.file) != self._identity:
            self.close()  # another process has removed it or created it again
            self.generation += 1
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.file.parent, self.file):  # SQLite would open it only for reading
            if path.exists() and not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, "it is not writable", str(path))
        state = _state_of(self.file)
        if state == "foreign":
            self._rename_foreign()
        self._identity = _identity(self.file)
        if state == "damaged":
            raise sqlite3.DatabaseError("its header is damaged")
        before = self._identity
        connection = sqlite3.connect(
            self.file, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, self._tables)
        except BaseException:
            connection.close()
            raise
        self._identity = _identity(self.file)
        if before not in (None, self._identity):
            connection.close()  # it may be of the file that another process has removed
            error = sqlite3.OperationalError("the file was removed while it was opened")
            error.sqlite_errorcode = _MOVED
            raise error
        return connection

    def _rename_foreign(self) -> None:
        kept = self.file.with_name(f"{self.file.name}.{secrets.token_hex(4)}.not-ours")
        self.file.rename(kept)  # a random name: no file has it
        with contextlib.suppress(FileNotFoundError):  # SQLite would apply it to the new file
            _journal(self.file).rename(_journal(kept))
        _warn(f"{self.file} is not a feature store; it was renamed to {kept.name}")

    def _create_again(self, error: Exception) -> None:
        """Remove the damaged file, unless another process has done so; the next try creates it."""
        self.generation += 1
        try:
            if self._identity is not None and _identity(self.file) == self._identity:
                _remove(self.file)
        except OSError as failed:
            raise self.failure(failed) from error
        _warn(f"{self.file} was damaged ({error}); it was created again")

    def failure(self, error: Exception, needed: int = 0) -> StoreError | DiskFullError:
        """Return an error that says in one line why the folder cannot be used."""
        folder, reason = self.file.parent, error
        if isinstance(error, sqlite3.Error) and _primary(error) == sqlite3.SQLITE_IOERR:
            # SQLite does not report errno; a write of our own shows a quota or a failing disk.
            reason = _why_not_written(folder, needed) or error
        if is_full(reason) or _primary(error) == sqlite3.SQLITE_FULL:
            free = shutil.disk_usage(folder).free if folder.exists() else 0
            return DiskFullError(
                f"no space left for features in {folder}: {needed:,} bytes needed, {free:,} free",
                hint="free some space, or name another folder by `cache_dir` or REGRAFT_CACHE",
            )
        return StoreError(
            f"the feature store {folder} cannot be used: {reason}",
            hint="name a folder that you can write to by `cache_dir` or REGRAFT_CACHE",
        )


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all or nothing: after an exception ``Database.run`` closes, which rolls back."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the bytes of all pages in use."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _prepare(connection: sqlite3.Connection, tables: tuple[str, ...]) -> None:
    """Configure a connection, and create the tables if they are missing."""
    connection.text_factory = bytes  # text in a damaged file may be no valid UTF-8
    for setting in (
        "mmap_size = 0",  # a mapped file that is truncated kills the process
        f"page_size = {_PAGE}",  # of a new file
        "cache_size = -16384",  # KiB; the system's own cache has the rest
        "journal_mode = truncate",  # WAL would map its index
        "trusted_schema = off",
        "cell_size_check = on",
    ):
        connection.execute(f"PRAGMA {setting}").fetchall()
    if not _tables(connection):
        with transaction(connection):
            if not _tables(connection):  # else another process was faster
                for statement in tables:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_MARK}")
    if _tables(connection) != tables:
        raise sqlite3.DatabaseError("its tables are not those of a feature store")


def _tables(connection: sqlite3.Connection) -> tuple[str, ...]:
    found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
    return tuple(bytes(sql or b"").decode(errors="replace") for (sql,) in found.fetchall())


def _primary(error: Exception) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)  # errors of Python itself have none
    return None if code is None else code & 0xFF


def _is_damage(error: Exception) -> bool:
    fault = getattr(error, "sqlite_errorcode", None) in _READ_FAULTS
    return fault or _primary(error) not in _OTHER_FAULTS


def _state_of(file: Path) -> str:
    """Return from its header what a file is: "new" (none), "ours", "damaged" or "foreign".

    This is read before SQLite opens the file, which could write to a database of the user.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "foreign"
    except FileNotFoundError:
        return "new"
    with file.open("rb") as stream:
        header = stream.read(100)
    if not any(header) and (len(header) < 100 or _journal(file).exists()):
        return "new"  # or a power failure at its creation: the journal undoes it
    if not header.startswith(b"SQLite format 3\0") or header[68:72] != _MARK.to_bytes(4, "big"):
        return "foreign"
    rollback_journal = b"\x01\x01"  # the format versions for writing and reading
    return "ours" if header[18:20] == rollback_journal else "damaged"


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _journal(file: Path) -> Path:
    return file.with_name(f"{file.name}-journal")


def _remove(file: Path) -> None:
    _journal(file).unlink(missing_ok=True)  # first: SQLite would apply it to the next file
    file.unlink(missing_ok=True)


def _why_not_written(folder: Path, needed: int) -> OSError | None:
    """Write as many bytes in the same folder, to get the error of the operating system."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(max(needed, _PAGE)))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error
    return None


def _warn(text: str) -> None:
    warnings.warn(text, StoreWarning, stacklevel=2)
