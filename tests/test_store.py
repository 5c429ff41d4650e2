"""The store: content keys, checksums, crash safety, the bound, and places it refuses."""

import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from regraft.errors import StoreError
from regraft.features import store as store_module
from regraft.features.rows import decode_row, encode_row, fingerprint_of, row_key
from regraft.features.store import (
    FeatureStore,
    clear_store,
    close_store,
    open_store,
    temporary_store,
)


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
    return [r and {name: values.copy() for name, values in r.items()} for r in found]


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


def test_a_flipped_byte_in_the_file_loses_that_row_only(tmp_path):
    filled(tmp_path, 20).close()
    target = row(7)["pooled@1"].tobytes()
    data = bytearray((tmp_path / "data.mdb").read_bytes())
    position = data.find(target)
    assert position > 0
    data[position + 5] ^= 1
    (tmp_path / "data.mdb").write_bytes(data)
    store = FeatureStore(tmp_path)
    found = read(store, range(20))
    assert [n for n in range(20) if found[n] is None] == [7]
    store.close()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_file_is_made_anew_and_kills_nobody(tmp_path, share):
    filled(tmp_path, 500, width=2000).close()
    file = tmp_path / "data.mdb"
    os.truncate(file, int(file.stat().st_size * share))
    script = f"""
        from pathlib import Path
        from regraft.features.store import FeatureStore
        store = FeatureStore(Path({str(tmp_path)!r}))
        print(store.info().rows, len(store.take_notes()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    # A share of nothing is a new, empty store: nothing was lost that could be told.
    assert (done.returncode, done.stdout) == (0, "0 1\n" if share else "0 0\n"), done.stderr


def test_a_file_that_is_no_store_is_made_anew_with_a_note(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"this is not LMDB" * 4096)
    store = FeatureStore(tmp_path)
    assert store.info().rows == 0
    assert "it was made anew" in store.take_notes()[0]
    assert store.take_notes() == []
    store.close()


def test_the_map_grows_beyond_its_first_size(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_FIRST_MAP", 256 * 1024)
    store = filled(tmp_path, 300, width=4000)
    assert store.info().rows == 300
    assert same(read(store, range(299, 300))[0], row(299, 4000))
    store.close()


def test_another_process_may_grow_the_map_under_a_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_FIRST_MAP", 256 * 1024)
    store = filled(tmp_path, 5)
    script = f"""
        from pathlib import Path
        import numpy as np
        from regraft.features.rows import encode_row
        from regraft.features.store import FeatureStore
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


def test_least_recently_used_rows_leave(tmp_path):
    store = filled(tmp_path, 200, width=2000)
    store.limit = store.info().bytes // 2
    store.stamp(key(n) for n in range(40))
    store.evict()
    found = read(store, range(200))
    assert store.info().bytes <= store.limit
    assert all(found[n] is not None for n in range(40))
    assert sum(r is None for r in found) >= 100
    store.close()


def test_nothing_leaves_below_the_limit(tmp_path):
    store = filled(tmp_path, 50)
    store.evict()
    assert store.info().rows == 50
    store.close()


def test_one_process_has_one_store_a_folder_and_clear_empties_it(tmp_path):
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    store = open_store(tmp_path)
    assert open_store(tmp_path) is store
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


def test_a_file_in_the_folders_place_is_an_error_that_says_what_to_do(tmp_path):
    place = tmp_path / "file"
    place.write_text("", encoding="utf-8")
    with pytest.raises(StoreError, match=r"file cannot be used: .*\nhint: .*REGRAFT_CACHE"):
        FeatureStore(place)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the mount table of Linux")
def test_network_file_systems_are_refused(tmp_path, monkeypatch):
    # No network file system can be mounted here: the local one's name is declared to be one.
    line = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    names = {part.partition(" - ")[2].split()[0] for part in line.splitlines()}
    monkeypatch.setattr(store_module, "_NETWORK_FILE_SYSTEMS", tuple(names))
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
