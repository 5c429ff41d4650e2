"""The store of features: LMDB, one checksummed row per image, view and way of computing.

A cache never changes a result: rows are found by a hash of contents, checked when read, and made
anew where the check fails. What LMDB gives is crash safety and sharing between processes; ours are
the checksum, the bound, the refusal of places where its lock is not real, and the messages.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import lmdb
import platformdirs

from regraft.errors import DiskFullError, StoreError
from regraft.features.rows import decode_row

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

DEFAULT_LIMIT = 20 * 2**30  # bytes; two million images with all stages of the default backbone
_FIRST_MAP = 64 * 2**20  # the map grows by doubling: on Windows the file is as large as the map
_NETWORK_FILE_SYSTEMS = (
    *("9p", "afp", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "gpfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs"),
    *("fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
)

Transaction: TypeAlias = Any  # lmdb's stubs tell bytes from memoryview by a literal argument


def default_folder() -> Path:
    """Return the store's folder: ``$REGRAFT_CACHE``, else the platform's cache folder."""
    given = os.environ.get("REGRAFT_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("regraft", appauthor=False))


@dataclass(frozen=True)
class StoreInfo:
    """What ``regraft cache`` shows."""

    folder: Path
    rows: int
    bytes: int
    limit: int


class FeatureStore:
    """Rows of features under content keys, in one LMDB folder.

    Several processes may have the same folder open; within one process ``open_store`` hands out the
    same object. Readers never write: the time of use is stamped once a run.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    limit : int
        Bytes of rows; beyond it the least recently used leave.

    Raises
    ------
    StoreError
        Where the place is unusable: read-only, on a network file system, no permission.
    DiskFullError
        Where there is no space left.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit = limit
        self._notes: list[str] = []
        self._resizing = threading.Lock()
        kind = network_file_system(folder)
        if kind is not None:
            raise StoreError(
                f"{folder} is on a network file system ({kind}), where locks may not be real",
                hint="put it on a local disk: --cache-dir FOLDER or REGRAFT_CACHE",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._environment = self._open()
        except (OSError, lmdb.Error) as error:
            raise _store_error(folder, error) from error

    def _open(self) -> lmdb.Environment:
        """Open the environment; a file that is no store, or is cut off, is made anew."""
        for attempt in range(2):
            try:
                environment = lmdb.open(
                    str(self.folder), map_size=_FIRST_MAP, max_dbs=2, max_readers=512,
                    meminit=False, readahead=True,
                )  # fmt: skip
                # Only the two meta pages have been touched so far. Pages that the file does not
                # have would kill the process with SIGBUS when read: look before anything is read.
                pages = environment.info()["last_pgno"] + 1
                length = (self.folder / "data.mdb").stat().st_size
                if length >= pages * environment.stat()["psize"]:
                    self._rows = environment.open_db(b"rows")
                    self._stamps = environment.open_db(b"stamps", integerkey=False)
                    return environment
                environment.close()
                reason = "is cut off"
            except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
                reason = f"is no store ({error})"
            if attempt == 0:
                self._notes.append(f"{self.folder / 'data.mdb'} {reason}; it was made anew")
                for name in ("data.mdb", "lock.mdb"):
                    (self.folder / name).unlink(missing_ok=True)
        raise StoreError(f"{self.folder} cannot be made anew", hint="remove that folder")

    def take_notes(self) -> list[str]:
        """Return what had to be made anew when the store was opened; each note once."""
        notes, self._notes = self._notes, []
        return notes

    def close(self) -> None:
        """Close the environment; the object must not be used afterwards."""
        self._environment.close()

    def read(self, keys: Sequence[bytes]) -> Generator[dict[str, NDArray[Any]] | None]:
        """Yield each key's row, None where there is none or its checksum is wrong.

        Parameters
        ----------
        keys : sequence of bytes
            From ``row_key``.

        Yields
        ------
        dict of str to array, or None
            Valid until the next one is asked for: copy what you keep.
        """
        with self._transaction(write=False) as transaction:
            for key in keys:
                data = transaction.get(key, db=self._rows)
                yield None if data is None else decode_row(key, data)

    def write(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write encoded rows in one transaction: all of them are there afterwards, or none.

        Raises
        ------
        DiskFullError, StoreError
            The store is as it was before.
        """
        pairs = list(rows)

        def put(transaction: Transaction) -> None:
            now = _timestamp()
            for key, data in pairs:
                transaction.put(key, data, db=self._rows)
                transaction.put(key, now, db=self._stamps)

        self._change(put, needed=sum(len(data) for _, data in pairs))

    def stamp(self, keys: Iterable[bytes]) -> None:
        """Mark rows as used now: once a run, so that readers stay readers."""
        used = sorted(set(keys))

        def mark(transaction: Transaction) -> None:
            now = _timestamp()
            for key in used:
                if transaction.get(key, db=self._stamps) is not None:
                    transaction.put(key, now, db=self._stamps)

        self._change(mark)

    def evict(self) -> None:
        """Let the least recently used rows leave where the limit is passed."""
        if self.info().bytes > self.limit:
            self._change(self._evict)

    def _change(self, action: Callable[[Transaction], None], needed: int = 0) -> None:
        """Run an action in one write transaction; again, where the map was too small for it."""
        while True:
            try:
                with self._transaction(write=True) as transaction:
                    action(transaction)
                    return
            except lmdb.MapFullError:
                self._grow()
            except (lmdb.Error, OSError) as error:
                raise _store_error(self.folder, error, needed) from error

    def _evict(self, transaction: Transaction) -> None:
        by_age = sorted(
            (bytes(stamp), bytes(key)) for key, stamp in transaction.cursor(db=self._stamps)
        )
        # A tenth more than needed leaves, so that a full store does not evict at every run.
        surplus = self._bytes(transaction) - self.limit * 9 // 10
        for _, key in by_age:
            if surplus <= 0:
                return
            row = transaction.get(key, db=self._rows)
            surplus -= 0 if row is None else len(row)
            transaction.delete(key, db=self._rows)
            transaction.delete(key, db=self._stamps)

    def _bytes(self, transaction: Transaction) -> int:
        page = transaction.stat(self._rows)
        pages = page["branch_pages"] + page["leaf_pages"] + page["overflow_pages"]
        return int(pages * page["psize"])

    def info(self) -> StoreInfo:
        """Return the number of rows and the bytes that they take."""
        with self._transaction(write=False) as transaction:
            rows = transaction.stat(self._rows)["entries"]
            return StoreInfo(self.folder, rows, self._bytes(transaction), self.limit)

    @contextlib.contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Transaction]:
        begin: Callable[[], Transaction] = functools.partial(
            self._environment.begin, write=write, buffers=not write
        )
        try:
            transaction = begin()
        except lmdb.MapResizedError:  # another process has grown the map: take its size over
            with self._resizing:
                self._environment.set_mapsize(0)
            transaction = begin()
        with transaction:
            yield transaction

    def _grow(self) -> None:
        with self._resizing:
            size = self._environment.info()["map_size"]
            self._environment.set_mapsize(size * 2)


_open_stores: dict[Path, FeatureStore] = {}
_opening = threading.Lock()


def open_store(folder: Path | None = None, limit: int | None = None) -> FeatureStore:
    """Return the store of a folder; LMDB allows one environment a file and process.

    Parameters
    ----------
    folder : Path, optional
        Else ``default_folder()``.
    limit : int, optional
        Bytes; else ``$REGRAFT_CACHE_LIMIT`` in GiB, else 20 GiB.

    Returns
    -------
    FeatureStore
        The same object for the same folder.

    Raises
    ------
    StoreError, DiskFullError
        Where the place is unusable.
    """
    folder = (folder or default_folder()).expanduser().absolute()
    with _opening:
        store = _open_stores.get(folder)
        if store is None:
            store = _open_stores[folder] = FeatureStore(folder, limit or _limit_from_environment())
        return store


def close_store(folder: Path | None = None) -> None:
    """Close a folder's store in this process, so that it can be removed or opened elsewhere."""
    folder = (folder or default_folder()).expanduser().absolute()
    with _opening:
        store = _open_stores.pop(folder, None)
    if store is not None:
        store.close()


@contextlib.contextmanager
def temporary_store() -> Iterator[FeatureStore]:
    """Open a store that is gone afterwards: what a run uses when it keeps nothing.

    The rows are on disk and not in memory: 300,000 images with all stages are 3 GB and more.
    """
    with tempfile.TemporaryDirectory(prefix="regraft-", ignore_cleanup_errors=True) as folder:
        store = FeatureStore(Path(folder), limit=2**62)
        try:
            yield store
        finally:
            store.close()


def clear_store(folder: Path | None = None) -> StoreInfo:
    """Remove all rows and give the space back; return what there was.

    Raises
    ------
    StoreError
        Where the files cannot be removed.
    """
    folder = (folder or default_folder()).expanduser().absolute()
    info = open_store(folder).info()
    close_store(folder)
    try:
        for name in ("data.mdb", "lock.mdb"):  # nothing else in that folder is ours
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise _store_error(folder, error) from error
    return info


def _limit_from_environment() -> int:
    given = os.environ.get("REGRAFT_CACHE_LIMIT", "")
    try:
        return int(float(given) * 2**30) if given else DEFAULT_LIMIT
    except (ValueError, OverflowError) as error:
        raise StoreError(f"REGRAFT_CACHE_LIMIT is {given!r}; it must be a number of GiB") from error


def network_file_system(folder: Path) -> str | None:
    """Return the name of the network file system that a folder is on, else None.

    On some of them a lock succeeds for everybody, and two writers then destroy the file.
    """
    folder = folder.absolute()
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - only here

        remote = 4  # DRIVE_REMOTE of GetDriveTypeW
        kind = ctypes.windll.kernel32.GetDriveTypeW(folder.anchor)
        return "network drive" if kind == remote or folder.drive.startswith("\\\\") else None
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return None
    with contextlib.suppress(OSError):
        folder = folder.resolve()
    best, name = -1, ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        # Spaces in a mount point are written as octal escapes.
        point = Path(left.split()[4].replace("\\040", " "))
        if (folder == point or point in folder.parents) and len(point.parts) >= best:
            best, name = len(point.parts), right.split()[0]
    return name if name in _NETWORK_FILE_SYSTEMS else None


def _timestamp() -> bytes:
    return struct.pack(">Q", time.time_ns())


def _store_error(folder: Path, error: Exception, needed: int = 0) -> StoreError | DiskFullError:
    """Say in one line why a store cannot be used."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or os.strerror(errno.ENOSPC) in str(error):
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        return DiskFullError(
            f"no space left for features in {folder}: {needed:,} bytes needed, {free:,} free",
            hint="make room, or put the store elsewhere: --cache-dir FOLDER or REGRAFT_CACHE",
        )
    return StoreError(
        f"the feature store {folder} cannot be used: {error}",
        hint="choose a folder that you can write to: --cache-dir FOLDER or REGRAFT_CACHE",
    )
