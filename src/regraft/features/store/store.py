"""The store of features: one checksummed row per image, view and way of computing, in SQLite.

A cache never changes a result: rows are found by a hash of contents, checked when read, and made
anew where the check fails. What becomes of a damaged file is in ``database.py``; here are the rows,
the bound, and the refusal of places where locks are not real.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from regraft.core.files import network_file_system
from regraft.errors import RegraftError, StoreError, StoreWarning
from regraft.features.store.database import Database, transaction, used_bytes
from regraft.features.store.rows import SCHEMA_VERSION, decode_row, decode_values

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

DEFAULT_LIMIT = 20 * 2**30  # bytes; two million images with all stages of the default backbone
_ROWS_AT_ONCE = 128  # in one query: the lock is held for a millisecond or two
_EVICTED_AT_ONCE = 2048  # rows in one transaction: what its journal needs stays small
# A row's time of use stands apart from it: to stamp one must not rewrite the other.
_KEYS = """CREATE TABLE keys (
    id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, used INTEGER NOT NULL, bytes INTEGER NOT NULL
)"""
_ROWS = "CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB NOT NULL)"


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
    """Rows of features under content keys, in one SQLite file.

    Processes and threads share it freely: a process has one connection, whose lock each call holds
    for one short query or transaction, so that nothing stays open in between. Readers never write:
    the time of use is stamped once a run.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    limit : int
        Bytes of rows; beyond it the least recently used leave.

    Attributes
    ----------
    generation : int
        Raised whenever the file was begun anew: rows that were there before have left.

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
        kind = network_file_system(folder)
        if kind is not None:
            raise StoreError(
                f"{folder} is on a network file system ({kind}), where locks may not be real",
                hint="put it on a local disk: --cache-dir FOLDER or REGRAFT_CACHE",
            )
        self._database = Database(folder / f"features-v{SCHEMA_VERSION}.sqlite", (_KEYS, _ROWS))
        self._database.run(used_bytes)  # what is wrong with the place is told now

    @property
    def generation(self) -> int:
        """Raised whenever the file was begun anew: rows that were there before have left."""
        return self._database.generation

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self._database.close()

    def clear(self) -> None:
        """Remove all rows and give the space back.

        Raises
        ------
        StoreError
            Where the file cannot be removed.
        """
        self._database.remove()

    def read(self, keys: Sequence[bytes]) -> Generator[dict[str, NDArray[Any]] | None]:
        """Yield each key's row, None where there is none or its checksum is wrong.

        Nothing is open while the caller works on a row: it may take its time, write, or never come
        back.

        Parameters
        ----------
        keys : sequence of bytes
            From ``row_key``.

        Yields
        ------
        dict of str to array, or None
            Read-only.
        """
        for key, data in self._found(keys):
            yield decode_row(key, data)

    def read_values(
        self, keys: Sequence[bytes], names: tuple[str, ...]
    ) -> Generator[list[NDArray[Any]] | None]:
        """Yield some blocks of each key's row side by side, in as few arrays as they lie in.

        Parameters
        ----------
        keys : sequence of bytes
            As for ``read``, but faster.
        names : tuple of str
            The blocks.
        """
        for key, data in self._found(keys):
            yield decode_values(key, data, names)

    def _found(self, keys: Sequence[bytes]) -> Generator[tuple[bytes, object]]:
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            part = keys[start : start + _ROWS_AT_ONCE]
            found = self._database.run(functools.partial(_find, keys=part))
            yield from ((key, found.get(key)) for key in part)

    def write(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write encoded rows in one transaction: all of them are there afterwards, or none.

        Raises
        ------
        DiskFullError, StoreError
            The store is as it was before.
        """
        wanted = dict(rows)

        def put(connection: sqlite3.Connection) -> None:
            now = time.time_ns()
            with transaction(connection):
                for key, data in wanted.items():
                    (identifier,) = connection.execute(
                        "INSERT INTO keys (key, used, bytes) VALUES (?, ?, ?) ON CONFLICT (key) DO "
                        "UPDATE SET used = excluded.used, bytes = excluded.bytes RETURNING id",
                        (key, now, len(data)),
                    ).fetchone()
                    connection.execute(
                        "INSERT OR REPLACE INTO rows (id, data) VALUES (?, ?)", (identifier, data)
                    )
                # A page whose cells lost their order takes a row, and does not find it again.
                if _find(connection, list(wanted)) != wanted:
                    raise sqlite3.DatabaseError("a row that was written is not found")

        self._database.run(put, needed=sum(map(len, wanted.values())))

    def stamp(self, keys: Iterable[bytes]) -> None:
        """Mark rows as used now: once a run, so that readers stay readers."""
        used = sorted(set(keys))

        def mark(connection: sqlite3.Connection) -> None:
            now = time.time_ns()
            with transaction(connection):
                connection.executemany(
                    "UPDATE keys SET used = ? WHERE key = ?", ((now, key) for key in used)
                )

        self._database.run(mark)

    def evict(self) -> None:
        """Let the least recently used rows leave where the limit is passed.

        Their space is used again; the file does not shrink. A run whose rows leave while it reads
        them extracts them again.
        """
        if self._database.run(used_bytes) <= self.limit:
            return
        while oldest := self._database.run(self._oldest):
            for start in range(0, len(oldest), _EVICTED_AT_ONCE):
                part = oldest[start : start + _EVICTED_AT_ONCE]
                self._database.run(functools.partial(_delete, rows=part))

    def _oldest(self, connection: sqlite3.Connection) -> list[tuple[int, int]]:
        """Return id and stamp of the rows that must leave."""
        # A tenth more than needed leaves, so that a full store does not evict at every run.
        surplus = used_bytes(connection) - self.limit * 9 // 10
        by_age = connection.execute("SELECT id, used, bytes FROM keys ORDER BY used, id")
        oldest = []
        with contextlib.closing(by_age):
            for identifier, used, size in by_age:
                if surplus <= 0:
                    break
                oldest.append((identifier, used))
                surplus -= size
        return oldest

    def trim(self) -> None:
        """Evict after a run: what fails here is a warning, since the run's work is done."""
        try:
            self.evict()
        except RegraftError as error:
            warnings.warn(
                f"{error.message}; the store stays larger than its limit",
                StoreWarning,
                stacklevel=2,
            )

    def info(self) -> StoreInfo:
        """Return the number of rows and the bytes that they take."""

        def ask(connection: sqlite3.Connection) -> StoreInfo:
            (rows,) = connection.execute("SELECT count(*) FROM keys").fetchone()
            return StoreInfo(self.folder, rows, used_bytes(connection), self.limit)

        return self._database.run(ask)


def _find(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, object]:
    marks = ",".join("?" * len(keys))
    query = f"SELECT key, data FROM keys JOIN rows USING (id) WHERE key IN ({marks})"  # noqa: S608
    return dict(connection.execute(query, keys).fetchall())


def _delete(connection: sqlite3.Connection, rows: Sequence[tuple[int, int]]) -> None:
    """Remove rows by id and stamp: one that another run has stamped since stays."""
    with transaction(connection):
        for identifier, used in rows:
            gone = connection.execute(
                "DELETE FROM keys WHERE id = ? AND used = ?", (identifier, used)
            )
            if gone.rowcount:
                connection.execute("DELETE FROM rows WHERE id = ?", (identifier,))


_open_stores: dict[Path, FeatureStore] = {}
_opening = threading.Lock()


def open_store(folder: Path | None = None, limit: int | None = None) -> FeatureStore:
    """Return the store of a folder, the same object whatever name the folder goes by.

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
    folder = (folder or default_folder()).expanduser().resolve()
    with _opening:
        store = _open_stores.get(folder)
        if store is None:
            store = _open_stores[folder] = FeatureStore(folder, limit or _limit_from_environment())
        return store


def close_store(folder: Path | None = None) -> None:
    """Close a folder's store in this process, so that it can be removed or opened elsewhere."""
    folder = (folder or default_folder()).expanduser().resolve()
    with _opening:
        store = _open_stores.pop(folder, None)
    if store is not None:
        store.close()


@contextlib.contextmanager
def temporary_store() -> Iterator[FeatureStore]:
    """Open a store that is gone afterwards: what a run uses when it keeps nothing.

    The rows are on disk and not in memory: 300,000 images with all stages are 10 GB.

    Raises
    ------
    StoreError
        Where no temporary folder can be made.
    """
    try:
        place = tempfile.TemporaryDirectory(prefix="regraft-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(
            f"no temporary folder for features can be made: {error}",
            hint="name a folder that you can write to in TMPDIR",
        ) from error
    with place as folder:
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
    store = open_store(folder)
    info = store.info()
    store.clear()
    return info


def _limit_from_environment() -> int:
    given = os.environ.get("REGRAFT_CACHE_LIMIT", "")
    try:
        return int(float(given) * 2**30) if given else DEFAULT_LIMIT
    except (ValueError, OverflowError) as error:
        raise StoreError(f"REGRAFT_CACHE_LIMIT is {given!r}; it must be a number of GiB") from error
