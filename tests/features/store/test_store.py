"""The store: keys of contents, checksums, crash safety, the limit, and folders that are refused."""

import contextlib
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from regraft.errors import DiskFullError, StoreError, StoreWarning
from regraft.features.store import store as store_module
from regraft.features.store.rows import (
    decode_row,
    decode_values,
    encode_row,
    fingerprint_of,
    row_key,
)
from regraft.features.store.store import (
    FeatureStore,
    clear_store,
    close_store,
    open_store,
    temporary_store,
)

NAME = "features-v3.sqlite"


def key(number: int) -> bytes:
    return row_key(struct.pack("<32Q", *[number] * 32)[:32], 0, b"fingerprint")


def row(number: int, width: int = 50) -> dict[str, np.ndarray]:
    values = np.random.default_rng(number).normal(size=width).astype(np.float32)
    return {"layer1@1": values[:10], "pooled@1": values[10:].astype(np.float16)}


def filled(folder: Path, count: int, width: int = 50) -> FeatureStore:
    store = FeatureStore(folder)
    store.write((key(n), encode_row(key(n), row(n, width))) for n in range(count))
    return store


def read(store: FeatureStore, numbers: range) -> list[dict[str, np.ndarray] | None]:
    found = store.read([key(n) for n in numbers])
    return list(found)


def same(left: dict[str, np.ndarray] | None, right: dict[str, np.ndarray]) -> bool:
    return (
        left is not None
        and left.keys() == right.keys()
        and all(
            left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name])
            for name in right
        )
    )


def test_rows_come_back_to_the_bit_with_their_types(tmp_path):
    store = filled(tmp_path, 20)
    assert all(same(found, row(n)) for n, found in enumerate(read(store, range(20))))
    assert read(store, range(20, 21)) == [None]
    store.close()
    again = FeatureStore(tmp_path)
    assert all(same(found, row(n)) for n, found in enumerate(read(again, range(20))))
    again.close()


def test_rows_of_an_earlier_version_are_found(tmp_path):
    """The store was written by commit 900496f: the keys, the file and the rows must not change."""
    with zipfile.ZipFile(Path(__file__).parent / "written-by-900496f.zip") as archive:
        archive.extractall(tmp_path)
    fingerprint = fingerprint_of({"torch": "2", "rules": 3})
    store = FeatureStore(tmp_path)
    keys = [row_key(bytes([n]) * 32, n, fingerprint) for n in range(3)]
    for n, found in enumerate(store.read(keys)):
        expected = {
            "stage1@1": np.arange(4, dtype=np.float16) * n,
            "pooled@1": np.asarray([n, 1e6], np.float32),
        }
        assert same(found, expected)
    store.close()


def test_key_depends_on_content_view_and_fingerprint_alone():
    base = row_key(bytes(32), 0, fingerprint_of({"weights": "a", "size": 224}))
    assert base == row_key(bytes(32), 0, fingerprint_of({"size": 224, "weights": "a"}))
    assert base != row_key(bytes(32), 1, fingerprint_of({"weights": "a", "size": 224}))
    assert base != row_key(bytes(31) + b"1", 0, fingerprint_of({"weights": "a", "size": 224}))
    assert base != row_key(bytes(32), 0, fingerprint_of({"weights": "b", "size": 224}))


@pytest.mark.parametrize("position", range(0, 140, 7))
def test_every_flipped_byte_of_a_row_is_noticed(position):
    data = bytearray(encode_row(key(1), row(1)))
    data[position % len(data)] ^= 0x10
    assert decode_row(key(1), bytes(data)) is None


@pytest.mark.parametrize("length", [0, 3, 7, 50, 120])
def test_a_cut_row_is_noticed(length):
    assert decode_row(key(1), encode_row(key(1), row(1))[:length]) is None


def test_a_row_under_the_key_of_another_is_noticed():
    assert decode_row(key(2), encode_row(key(1), row(1))) is None


def sealed(body: bytes, number: int) -> bytes:
    """Return a row with a checksum that is right, as anybody can write one."""
    return body + struct.pack("<I", zlib.crc32(body, zlib.crc32(key(number))))


LAYOUT = (("layer1@1", 10), ("pooled@1", 40))
NAMES = ("layer1@1", "pooled@1")


@pytest.mark.parametrize(
    "other",
    [
        {"layer1@1": np.ones(10, np.float16)},  # one is missing
        {**row(1), "more": np.ones(1, np.float16)},
        {"pooled@1": row(1)["pooled@1"], "layer1@1": row(1)["layer1@1"]},  # another order
        {"layer1@1": np.ones(9, np.float32), "pooled@1": np.ones(41, np.float16)},
        {},
    ],
)
def test_a_row_with_other_blocks_is_none_though_its_checksum_is_right(other):
    data = encode_row(key(1), other)
    assert decode_row(key(1), data, LAYOUT) is None
    assert decode_values(key(1), data, NAMES, LAYOUT) is None
    assert decode_values(key(1), encode_row(key(1), row(1)), (*NAMES, "third")) is None
    assert same(decode_row(key(1), encode_row(key(1), row(1)), LAYOUT), row(1))


def test_what_is_written_over_a_row_is_a_row_as_asked_or_none():
    """Mutations with a right checksum: bytes of the header, and lengths; nothing else is raised."""
    random = np.random.default_rng(0)
    body = encode_row(key(1), row(1))[:-4]
    n_header = 8 + struct.unpack_from("<I", body, 4)[0]
    accepted = 0
    for _ in range(3000):
        changed = bytearray(body)
        for _ in range(random.integers(1, 4)):
            changed[random.integers(2, n_header)] = random.choice([0, 1, 0x80, 0xFF, 10, 40])
        if random.random() < 0.2:
            del changed[random.integers(0, len(changed)) :]
        if random.random() < 0.2:
            changed += bytes(random.integers(1, 9))
        data = sealed(bytes(changed), 1)
        for layout in (LAYOUT, None):
            found = decode_row(key(1), data, layout)
            values = decode_values(key(1), data, NAMES, layout)
            if found is not None:  # what is said and what is there agree to the byte
                assert sum(block.nbytes for block in found.values()) == len(changed) - (
                    8 + struct.unpack_from("<I", changed, 4)[0]
                )
            if layout is not None and found is not None:
                accepted += 1
                assert [(name, len(block)) for name, block in found.items()] == list(LAYOUT)
                assert values is not None
                assert sum(map(len, values)) == 50
    assert accepted  # such as float16 for 1: any other number than 0


@pytest.mark.parametrize(
    "damage", ["UPDATE keys SET used = 'x'", "UPDATE keys SET bytes = 'x'"], ids=["used", "bytes"]
)
def test_times_and_sizes_that_are_no_numbers_are_damage(damage, tmp_path):
    """SQLite keeps text in a column of numbers; the search for the oldest rows must end."""
    store = filled(tmp_path, 30, width=20_000)
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection, connection:
        connection.execute(damage)
    store.limit = 1
    with pytest.warns(StoreWarning, match="was damaged"):
        store.evict()
    store.write([(key(1), encode_row(key(1), row(1)))])
    assert same(read(store, range(1, 2))[0], row(1))
    store.close()


def test_a_flipped_byte_in_the_file_loses_that_row_only(tmp_path):
    filled(tmp_path, 20).close()
    target = row(7)["pooled@1"].tobytes()
    data = bytearray((tmp_path / NAME).read_bytes())
    position = data.find(target)
    assert position > 0
    data[position + 5] ^= 1
    (tmp_path / NAME).write_bytes(data)
    store = FeatureStore(tmp_path)
    found = read(store, range(20))
    assert [n for n in range(20) if found[n] is None] == [7]
    store.close()


def test_some_blocks_come_back_side_by_side_in_the_order_that_is_asked_for(tmp_path):
    store = filled(tmp_path, 3)
    whole = row(2)
    for names in (("pooled@1",), ("layer1@1", "pooled@1"), ("pooled@1", "layer1@1")):
        [found, missing] = store.read_values([key(2), key(9)], names)
        assert found is not None
        assert np.array_equal(np.concatenate(found), np.concatenate([whole[n] for n in names]))
        assert missing is None
    store.close()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_truncated_file_is_created_again(tmp_path, share):
    filled(tmp_path, 500, width=2000).close()
    file = tmp_path / NAME
    os.truncate(file, int(file.stat().st_size * share))

    def opened_and_read() -> list[dict[str, np.ndarray] | None]:
        store = FeatureStore(tmp_path)
        found = read(store, range(500))
        store.close()
        return found

    if share:
        with pytest.warns(StoreWarning, match=rf"{NAME} was damaged \(.*\); it was created again"):
            found = opened_and_read()
    else:  # nothing was lost that could be reported
        found = opened_and_read()
    assert None in found
    store = FeatureStore(tmp_path)
    store.write([(key(1), encode_row(key(1), row(1)))])
    assert same(read(store, range(1, 2))[0], row(1))
    store.close()


def test_a_file_that_is_truncated_while_it_is_open_kills_no_process(tmp_path):
    store = filled(tmp_path, 500, width=2000)
    os.truncate(tmp_path / NAME, 100_000)
    with pytest.warns(StoreWarning, match="was damaged"):
        assert None in read(store, range(500))
    assert store.generation == 1
    store.close()


def foreign_database(file):
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript("create table mine (a); vacuum")


@pytest.mark.parametrize(
    "make",
    [
        lambda file: file.write_bytes(b"my own database" * 1000),
        foreign_database,
        lambda file: file.mkdir(),
    ],
)
def test_what_is_not_ours_is_renamed_and_kept(tmp_path, make):
    make(tmp_path / NAME)
    content = (tmp_path / NAME).read_bytes() if (tmp_path / NAME).is_file() else None
    with pytest.warns(StoreWarning, match=f"{NAME} is not a feature store; it was renamed to"):
        store = FeatureStore(tmp_path)
    assert store.info().rows == 0
    store.clear()
    store.close()
    [kept] = tmp_path.glob("*.not-ours")
    assert content is None or kept.read_bytes() == content


def test_a_database_of_the_user_in_the_old_folder_is_not_touched(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"mine")
    store = filled(tmp_path, 2)
    store.clear()
    store.close()
    assert (tmp_path / "data.mdb").read_bytes() == b"mine"


def test_a_reader_that_is_left_half_way_blocks_nothing(tmp_path):
    store, other = filled(tmp_path, 300), FeatureStore(tmp_path)
    left = store.read([key(n) for n in range(300)])
    assert same(next(left), row(0))
    other.write([(key(n), encode_row(key(n), row(n + 1))) for n in range(400)])
    store.write([(key(500), encode_row(key(500), row(500)))])
    assert same(list(left)[-1], row(300))  # what was not read yet is as it is now
    other.close()
    store.close()


def test_threads_read_while_another_one_writes(tmp_path):
    """With a memory map that had to grow, this killed the process within seconds."""
    store = filled(tmp_path, 300, width=2000)
    expected = [row(n, 2000) for n in range(300)]
    wrong: list[int] = []
    done = threading.Event()

    def keep_reading() -> None:
        while not done.is_set():
            wrong.extend(
                n for n, found in enumerate(read(store, range(300))) if not same(found, expected[n])
            )

    readers = [threading.Thread(target=keep_reading) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(1000, 5000, 500):
        data = row(start, 2000)
        store.write((key(n), encode_row(key(n), data)) for n in range(start, start + 500))
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert store.info().rows == 4300
    store.close()


def test_what_another_process_writes_is_there_at_once(tmp_path):
    store = filled(tmp_path, 5)
    script = f"""
        from pathlib import Path
        import numpy as np
        from regraft.features.store.rows import encode_row
        from regraft.features.store.store import FeatureStore
        store = FeatureStore(Path({str(tmp_path)!r}))
        rows = [(bytes([n]) * 32, np.full(50_000, n, np.float32)) for n in range(30)]
        store.write((key, encode_row(key, {{"a": values}})) for key, values in rows)
        store.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    found = [r and r["a"][0] for r in store.read([bytes([n]) * 32 for n in range(30)])]
    assert found == [float(n) for n in range(30)]
    assert same(read(store, range(4, 5))[0], row(4))
    store.close()


def test_a_store_that_is_removed_while_it_is_open_is_created_again(tmp_path):
    store = filled(tmp_path, 5)
    other = FeatureStore(tmp_path)
    other.clear()
    assert read(store, range(5)) == [None] * 5
    store.write([(key(1), encode_row(key(1), row(1)))])
    assert same(read(other, range(1, 2))[0], row(1))
    store.close()
    other.close()


def test_a_full_disk_is_reported_and_nothing_is_lost(tmp_path):
    store = filled(tmp_path, 20, width=5000)
    # SQLite's own limit: the error, and the way back, are those of a full disk.
    store._database.run(lambda connection: connection.execute("PRAGMA max_page_count = 40"))
    rows = [(key(n), encode_row(key(n), row(n, 5000))) for n in range(1000, 1200)]
    needed = sum(len(data) for _, data in rows)
    message = (
        rf"no space left for features in .*: {needed:,} bytes needed, .* free\nhint: free some"
    )
    with pytest.raises(DiskFullError, match=message):
        store.write(rows)
    assert all(same(found, row(n, 5000)) for n, found in enumerate(read(store, range(20))))
    assert store.info().rows == 20
    store.close()


def test_least_recently_used_rows_are_removed(tmp_path):
    store = filled(tmp_path, 200, width=2000)
    store.limit = store.info().bytes // 2
    store.stamp(key(n) for n in range(40))
    store.evict()
    found = read(store, range(200))
    assert store.info().bytes <= store.limit
    assert all(found[n] is not None for n in range(40))
    assert sum(r is None for r in found) >= 100
    store.close()


@pytest.mark.parametrize("clock", [0, -(10**18), 1, 10**18, 2**70])
def test_a_clock_that_is_set_back_or_wrong_changes_no_order(tmp_path, monkeypatch, clock):
    """Rows are found, the store keeps its limit, and what was used last stays."""
    store = filled(tmp_path, 100, width=2000)
    store.close()
    monkeypatch.setattr(store_module.time, "time_ns", lambda: clock)
    store = FeatureStore(tmp_path)
    store.write((key(n), encode_row(key(n), row(n, 2000))) for n in range(100, 200))
    store.stamp(key(n) for n in range(20))
    store.close()
    monkeypatch.setattr(store_module.time, "time_ns", lambda: clock // 2)
    store = FeatureStore(tmp_path)
    store.stamp(key(n) for n in range(20, 30))
    assert all(same(found, row(n, 2000)) for n, found in enumerate(read(store, range(200))))
    store.limit = store.info().bytes // 2
    store.evict()
    assert store.info().bytes <= store.limit
    kept = {n for n, found in enumerate(read(store, range(200))) if found is not None}
    used_last = [*range(30, 100), *range(100, 200), *range(20), *range(20, 30)][-len(kept) :]
    if clock < 2**63:  # past the year 2262 all times are equal
        assert kept == set(used_last)
    store.close()


def test_a_row_that_another_run_uses_meanwhile_stays(tmp_path):
    store = filled(tmp_path, 200, width=2000)
    store.limit = store.info().bytes // 2
    leaving = store._database.run(store._oldest)
    store.stamp([key(0)])
    store._database.run(lambda connection: store_module._delete(connection, leaving))
    found = read(store, range(2))
    assert found[0] is not None
    assert found[1] is None
    store.close()


def test_after_an_eviction_the_store_opens_and_its_space_is_used_again(tmp_path):
    """A store that was mapped was taken for cut off after one."""
    store = filled(tmp_path, 400, width=2000)
    size = (tmp_path / NAME).stat().st_size
    store.limit = store.info().bytes // 4
    store.evict()
    store.close()
    store = FeatureStore(tmp_path)
    kept = store.info().rows
    assert 0 < kept < 150
    store.write((key(n), encode_row(key(n), row(n, 2000))) for n in range(1000, 1200))
    assert store.info().rows == kept + 200
    assert (tmp_path / NAME).stat().st_size <= size
    store.close()


def test_an_eviction_that_fails_is_a_warning(tmp_path):
    store = filled(tmp_path, 50)
    store.limit = 1
    store.close()
    tmp_path.rename(tmp_path.with_name("away"))
    tmp_path.write_bytes(b"")
    with pytest.warns(StoreWarning, match="cannot be used.*stays larger than its limit"):
        store.trim()


def test_nothing_is_removed_below_the_limit(tmp_path):
    store = filled(tmp_path, 50)
    store.evict()
    assert store.info().rows == 50
    store.close()


def test_one_process_has_one_store_a_folder_and_clear_empties_it(tmp_path):
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    store = open_store(tmp_path)
    assert open_store(tmp_path) is store
    assert open_store(tmp_path / ".." / tmp_path.name) is store
    store.write([(key(1), encode_row(key(1), row(1)))])
    assert clear_store(tmp_path).rows == 1
    assert open_store(tmp_path).info().rows == 0
    close_store(tmp_path)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "kept"


def test_a_temporary_store_leaves_nothing_behind():
    with temporary_store() as store:
        store.write([(key(1), encode_row(key(1), row(1)))])
        folder = store.folder
        assert same(read(store, range(1, 2))[0], row(1))
    assert not folder.exists()


def test_a_file_instead_of_the_folder_is_an_error_that_says_what_to_do(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("", encoding="utf-8")
    with pytest.raises(StoreError, match=r"file cannot be used: .*\nhint: .*REGRAFT_CACHE"):
        FeatureStore(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_the_folder_is_the_same_store(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real").mkdir()
    assert open_store(tmp_path / "link") is open_store(tmp_path / "real")
    close_store(tmp_path / "link")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the mount table of Linux")
def test_network_file_systems_are_refused(tmp_path, monkeypatch):
    # No network file system can be mounted here: the local one's name is declared to be one.
    line = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    names = {part.partition(" - ")[2].split()[0] for part in line.splitlines()}
    monkeypatch.setattr("regraft.core.files._NETWORK_FILE_SYSTEMS", tuple(names))
    with pytest.raises(StoreError, match="is on a network file system"):
        FeatureStore(tmp_path)


def test_processes_may_write_the_same_rows_at_once(tmp_path):
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store import filled
        store = filled(Path({str(tmp_path)!r}), 200)
        store.close()
    """
    running = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)]) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    store = FeatureStore(tmp_path)
    assert all(same(found, row(n)) for n, found in enumerate(read(store, range(200))))
    store.close()


def test_without_a_temporary_folder_there_is_a_hint_and_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    message = "no temporary folder for features can be created: .*\nhint: set TMPDIR to a folder"
    with pytest.raises(StoreError, match=message), temporary_store():
        pass
