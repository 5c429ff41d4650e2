"""The feature store: one row with a checksum for each image, view and way of computing, in SQLite.

A cache never changes a result: the key of a row is a hash of all that its bits depend on, and a row
with a wrong checksum is extracted again. This module has the rows, the limit, and the check for
network file systems; ``database.py`` has the file, which may be damaged.
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

from regraft.core.files import can_be_path, network_file_system
from regraft.errors import RegraftError, StoreError, StoreWarning
from regraft.features.store.database import Database, transaction, used_bytes
from regraft.features.store.rows import SCHEMA_VERSION, decode_row, decode_values

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from regraft.features.store.rows import Layout

DEFAULT_LIMIT = 20 * 2**30  # bytes; two million images with all stages of the default backbone
_ROWS_AT_ONCE = 128  # in one query, which keeps the lock for one or two milliseconds
_EVICTED_AT_ONCE = 2048  # rows in one transaction, so that its journal stays small
# The time of use is in another table than the row: to change it must not rewrite the row.
_KEYS = """CREATE TABLE keys (
    id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, used INTEGER NOT NULL, bytes INTEGER NOT NULL
)"""
_LARGEST_INTEGER = 2**63 - 1  # of SQLite
_ROWS = "CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB NOT NULL)"


def default_folder() -> Path:
    """Return the folder of the store: ``$REGRAFT_CACHE``, or the cache folder of this system."""
    given = os.environ.get("REGRAFT_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("regraft", appauthor=False))


@dataclass(frozen=True)
class StoreInfo:
    """The size of a store, as ``regraft cache`` shows it."""

    folder: Path
    rows: int
    bytes: int
    limit: int  # bytes


class FeatureStore:
    """Rows of features by key, in one SQLite file.

    Processes and threads may share it. A process has one connection, with a lock that each call
    keeps for one short query or transaction, so nothing stays open between calls. Readers do not
    write: the time of use is written once for each run. ``limit`` is in bytes; above it the least
    recently used rows are removed. An unusable folder is a StoreError, a full disk a DiskFullError.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit = limit
        self._latest: int | None = None  # time of the last use that is known
        kind = network_file_system(folder)
        if kind is not None:
            raise StoreError(
                f"{folder} is on a network file system ({kind}), where locks may not work",
                hint="name a folder on a local disk by `cache_dir` or REGRAFT_CACHE",
            )
        self._database = Database(folder / f"features-v{SCHEMA_VERSION}.sqlite", (_KEYS, _ROWS))
        self._database.run(used_bytes)  # an unusable folder is an error now, not later

    @property
    def generation(self) -> int:
        """Return a number that increases when the file is created again: earlier rows are lost."""
        return self._database.generation

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self._database.close()

    def clear(self) -> None:
        """Remove all rows and free their space."""
        self._database.remove()

    def read(
        self, keys: Sequence[bytes], layout: Layout | None = None
    ) -> Generator[dict[str, NDArray[Any]] | None]:
        """Yield the row of each key, read-only; None if there is none.

        A row with a wrong checksum, or with other blocks than ``layout``, is none. Nothing is open
        between two rows: the caller may take long, write, or stop reading.
        """
        for key, data in self._found(keys):
            yield decode_row(key, data, layout)

    def read_values(
        self, keys: Sequence[bytes], names: tuple[str, ...], layout: Layout | None = None
    ) -> Generator[list[NDArray[Any]] | None]:
        """Yield some blocks of each row side by side, adjacent blocks in one array."""
        for key, data in self._found(keys):
            yield decode_values(key, data, names, layout)

    def _found(self, keys: Sequence[bytes]) -> Generator[tuple[bytes, object]]:
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            part = keys[start : start + _ROWS_AT_ONCE]
            found = self._database.run(functools.partial(_find, keys=part))
            yield from ((key, found.get(key)) for key in part)

    def write(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write encoded rows by key in one transaction: if it fails, the store is as before."""
        wanted = dict(rows)

        def put(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                now = self._now(connection)
                for key, data in wanted.items():
                    (identifier,) = connection.execute(
                        "INSERT INTO keys (key, used, bytes) VALUES (?, ?, ?) ON CONFLICT (key) DO "
                        "UPDATE SET used = excluded.used, bytes = excluded.bytes RETURNING id",
                        (key, now, len(data)),
                    ).fetchone()
                    connection.execute(
                        "INSERT OR REPLACE INTO rows (id, data) VALUES (?, ?)", (identifier, data)
                    )
                # A page with cells in a wrong order accepts a row and does not find it again.
                if _find(connection, list(wanted)) != wanted:
                    raise sqlite3.DatabaseError("a written row is not found")

        self._database.run(put, needed=sum(map(len, wanted.values())))

    def stamp(self, keys: Iterable[bytes]) -> None:
        """Write the time of use of some rows: once for each run, so that readers do not write."""
        used = sorted(set(keys))

        def mark(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                now = self._now(connection)
                connection.executemany(
                    "UPDATE keys SET used = ? WHERE key = ?", ((now, key) for key in used)
                )

        self._database.run(mark)

    def _now(self, connection: sqlite3.Connection) -> int:
        """Return the time of a use, which is later than every time before, as the rows show.

        A clock may be set back, or have been wrong: rows would be removed in a wrong order, those
        of this run first.
        """
        if self._latest is None:
            (latest,) = connection.execute("SELECT max(used) FROM keys").fetchone()
            self._latest = latest if isinstance(latest, int) else 0
        self._latest = min(max(time.time_ns(), self._latest + 1), _LARGEST_INTEGER)
        return self._latest

    def evict(self) -> None:
        """Remove the least recently used rows if the store is larger than its limit.

        New rows use their space; the file does not shrink. A run that still reads these rows
        extracts them again.
        """
        if self._database.run(used_bytes) <= self.limit:
            return
        while oldest := self._database.run(self._oldest):
            for start in range(0, len(oldest), _EVICTED_AT_ONCE):
                part = oldest[start : start + _EVICTED_AT_ONCE]
                self._database.run(functools.partial(_delete, rows=part))

    def _oldest(self, connection: sqlite3.Connection) -> list[tuple[int, int]]:
        """Return id and time of use of the rows that have to be removed."""
        # A tenth of the limit more is removed, so that a full store does not evict in each run.
        surplus = used_bytes(connection) - self.limit * 9 // 10
        by_age = connection.execute("SELECT id, used, bytes FROM keys ORDER BY used, id")
        oldest = []
        with contextlib.closing(by_age):
            for identifier, used, size in by_age:
                if surplus <= 0:
                    break
                if not (isinstance(used, int) and isinstance(size, int)):
                    raise sqlite3.DatabaseError("a time or a size is no number")
                oldest.append((identifier, used))
                surplus -= size
        return oldest

    def trim(self) -> None:
        """Evict after a run; a failure is a warning, because the run is complete."""
        try:
            self.evict()
        except RegraftError as error:
            warnings.warn(
                f"{error.message}; the store stays larger than its limit",
                StoreWarning,
                stacklevel=2,
            )

    def info(self) -> StoreInfo:
        """Return the number of rows and their bytes."""

        def count(connection: sqlite3.Connection) -> StoreInfo:
            (rows,) = connection.execute("SELECT count(*) FROM keys").fetchone()
            return StoreInfo(self.folder, rows, used_bytes(connection), self.limit)

        return self._database.run(count)


def _find(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, object]:
    marks = ",".join("?" * len(keys))
    query = f"SELECT key, data FROM keys JOIN rows USING (id) WHERE key IN ({marks})"  # noqa: S608
    return dict(connection.execute(query, keys).fetchall())


def _delete(connection: sqlite3.Connection, rows: Sequence[tuple[int, int]]) -> None:
    """Remove rows by id and time of use: a row that another run has used since then stays."""
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
    """Return the store of a folder, the same object for all paths of this folder.

    The folder is ``default_folder()`` if none is given; the limit in bytes is that of
    ``$REGRAFT_CACHE_LIMIT`` (in GiB), or 20 GiB.
    """
    folder = folder or default_folder()
    if not can_be_path(folder):
        raise StoreError(f"{folder} is not a path that this system can have")
    folder = folder.expanduser().resolve()
    with _opening:
        store = _open_stores.get(folder)
        if store is None:
            store = _open_stores[folder] = FeatureStore(folder, limit or _limit_from_environment())
        return store


def close_store(folder: Path | None = None) -> None:
    """Close the store of a folder in this process, so that the folder can be removed."""
    folder = (folder or default_folder()).expanduser().resolve()
    with _opening:
        store = _open_stores.pop(folder, None)
    if store is not None:
        store.close()


@contextlib.contextmanager
def temporary_store() -> Iterator[FeatureStore]:
    """Open a store that is removed at the end, for a run that keeps no features.

    Its rows are on disk and not in memory: those of 300,000 images with all stages are 10 GB.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="regraft-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(
            f"no temporary folder for features can be created: {error}",
            hint="set TMPDIR to a folder that you can write to",
        ) from error
    with temporary as folder:
        store = FeatureStore(Path(folder), limit=2**62)
        try:
            yield store
        finally:
            store.close()


def clear_store(folder: Path | None = None) -> StoreInfo:
    """Remove all rows of a store and free their space; return its size before."""
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
