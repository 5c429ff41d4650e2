"""Attacks on the store of features: damaged files, power failures, kills at every write.

After each of them a row is what was written or is not there, there is one warning at most, and the
next run writes and reads without any repair by hand.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attacks.hunting import Report, hunt
from regraft.errors import DiskFullError, StoreError
from regraft.features.store.rows import SCHEMA_VERSION, encode_row, row_key
from regraft.features.store.store import FeatureStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAME = f"features-v{SCHEMA_VERSION}.sqlite"
PAGE = 32 * 1024
ROWS = 40
_RECORD = struct.Struct("<cB6xqq")  # as strike.c writes it


def key(number: int) -> bytes:
    return row_key(number.to_bytes(32, "little"), 0, b"attack")


@cache
def row(number: int) -> dict[str, np.ndarray]:
    """Return a row of a few kilobytes; every eighth is larger than a page of the file."""
    width = 30_000 if number % 8 == 7 else 200 + 97 * number
    values = np.random.default_rng(number).normal(size=width).astype(np.float16)
    return {"layer1@1": values[:100], "pooled@1": values[100:]}


@cache
def encoded(number: int) -> bytes:
    return encode_row(key(number), row(number))


def write(store: FeatureStore, numbers: Iterable[int]) -> None:
    store.write([(key(n), encoded(n)) for n in numbers])


def work(folder: Path) -> None:
    """Do everything that changes the file: create, fill, stamp, evict and fill it again."""
    store = FeatureStore(folder)
    write(store, range(16))
    write(store, range(16, 32))
    store.stamp([key(n) for n in range(4)])
    store.limit = store.info().bytes // 2
    store.evict()
    write(store, range(24, ROWS))
    store.close()


def there(store: FeatureStore) -> int:
    """Return the number of rows that are there; each must be the one that was written."""
    found = list(store.read([key(n) for n in range(ROWS)]))
    for number, blocks in enumerate(found):
        if blocks is not None:
            expected = row(number)
            same = list(blocks) == list(expected) and all(
                blocks[name].tobytes() == expected[name].tobytes() for name in expected
            )
            assert same, f"row {number} is not what was written"
    return sum(blocks is not None for blocks in found)


def check(folder: Path) -> tuple[int, list[str]]:
    """Use a store after an attack; return the number of rows that were left, and the warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        store = FeatureStore(folder)
        left = there(store)
        store.stamp([key(n) for n in range(ROWS)])
        for start in range(0, ROWS, 16):
            write(store, range(start, min(start + 16, ROWS)))
        store.info()
        store.limit = 10 * PAGE
        store.evict()
        there(store)
        write(store, range(ROWS))
        store.close()
    assert len(warned) <= 1, [str(each.message) for each in warned]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the store is sound again
        store = FeatureStore(folder)
        assert there(store) == ROWS
        store.close()
    return left, [str(each.message) for each in warned]


@cache
def _scratch() -> Path:
    """Return a new folder, in memory if possible: flushes cost nothing there."""
    memory = Path("/dev/shm")  # noqa: S108 - a new folder in it
    folder = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None)
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=0)
    return Path(folder)


# --- damaged files ----------------------------------------------------------------------------


@cache
def _sound() -> bytes:
    folder = _scratch() / "sound"
    work(folder)
    return (folder / NAME).read_bytes()


def _flip(data: bytearray, chance: random.Random) -> None:
    """Flip bits, most often in the head of the file, of a page, or in its list of cells."""
    for _ in range(chance.choice((1, 1, 2, 8, 32))):
        page = chance.randrange(len(data) // PAGE) * PAGE
        reach = chance.choice((16, 64, 256, PAGE))
        start = chance.choice((0, page, page, page + PAGE - reach))
        data[start + chance.randrange(reach)] ^= 1 << chance.randrange(8)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.choice((chance.randrange(len(data)), chance.randrange(200))) :]


def _overwrite(data: bytearray, chance: random.Random) -> None:
    size = chance.choice((1, 4, 512, 4096, PAGE))
    start = chance.randrange(len(data) - size) // size * size
    kind = chance.randrange(3)
    other = chance.randrange(len(data) - size) // size * size
    data[start : start + size] = (bytes(size), data[other : other + size], chance.randbytes(size))[
        kind
    ]


def _lengthen(data: bytearray, chance: random.Random) -> None:
    data += chance.randbytes(chance.choice((1, 100, PAGE)))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _flip, _flip, _cut, _overwrite, _overwrite, _lengthen),
)


def damage(seed: int, number: int) -> str:
    """Damage a sound file, or put a false journal beside it, and use the store."""
    chance = random.Random(f"{seed} {number}")
    folder = _scratch() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data = bytearray(_sound())
    if number >= 0:
        for _ in range(chance.choice((1, 1, 1, 2))):
            chance.choice(DAMAGES)(data, chance)
            if len(data) < 2 * PAGE:
                break
        if chance.random() < 0.1:
            journal = chance.choice((chance.randbytes(5000), bytes(512), _journal(chance)))
            (folder / f"{NAME}-journal").write_bytes(journal)
    (folder / NAME).write_bytes(data)
    left, warned = check(folder)
    kept = list(folder.glob("*.not-ours"))
    if kept:
        return "renamed"
    if warned:
        return "started again"
    return "all rows there" if left == _rows_of_sound() else "some rows lost"


@cache
def _rows_of_sound() -> int:
    folder = _scratch() / "counted"
    folder.mkdir()
    (folder / NAME).write_bytes(_sound())
    store = FeatureStore(folder)
    count = there(store)
    store.close()
    return count


def _journal(chance: random.Random) -> bytes:
    """Return a journal in SQLite's form with right checksums, of pages that the file may have."""
    pages, nonce = chance.randrange(1, 40), chance.getrandbits(32)
    head = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + struct.pack(">IIIII", 2, nonce, pages, 512, PAGE)
    body = head.ljust(512, b"\0")
    for _ in range(2):
        page = bytearray(chance.randbytes(PAGE))
        total = nonce
        for position in range(PAGE - 200, 0, -200):
            total = (total + page[position]) & 0xFFFFFFFF
        body += struct.pack(">I", chance.randrange(1, 40)) + page + struct.pack(">I", total)
    return body


# --- power failures ---------------------------------------------------------------------------


@cache
def strike_library() -> Path | None:
    """Compile strike.c; None without a compiler or Linux."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = _scratch() / "strike.so"
    source = Path(__file__).with_name("strike.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def struck(call: str, *, timeout: float = 600) -> str:
    """Run a call of this module in a process that strike.c watches; return what it prints."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from attacks import store; {call}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_PRELOAD": str(strike_library())},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def record_work(folder: str, record: str) -> None:
    ctypes.CDLL(None).strike_record(record.encode())
    work(Path(folder))


@cache
def _recorded() -> list[tuple[bytes, int, int, bytes]]:
    """Return the calls with which ``work`` writes: kind of call, file, offset, data."""
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    struck(f"store.record_work({str(folder / 'store')!r}, {str(folder / 'record')!r})")
    data, calls, position = (folder / "record").read_bytes(), [], 0
    while position < len(data):
        what, kind, offset, size = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        body = data[position : position + size] if what == b"w" else b""
        position += len(body)
        calls.append((what, kind, offset, body))
    assert len(calls) > 50
    return calls


def _apply(file: bytearray, what: bytes, offset: int, body: bytes) -> None:
    if what == b"t":
        file[offset:] = b""
        file.extend(bytes(offset - len(file)))
    else:
        file.extend(bytes(max(0, offset + len(body) - len(file))))
        file[offset : offset + len(body)] = body


def power_failure(seed: int, number: int) -> str:
    """Stop after some call; anything that was not flushed can be missing, wholly or in part."""
    calls, chance = _recorded(), random.Random(f"{seed} {number}")
    end = len(calls) if number < 0 else chance.randrange(1, len(calls) + 1)
    files = {1: bytearray(), 2: bytearray()}
    flushed = {
        kind: position for position, (what, kind, _, _) in enumerate(calls[:end]) if what in b"su"
    }
    for position, (what, kind, offset, body) in enumerate(calls[:end]):
        certain = position < flushed.get(kind, 0) or number < 0
        if what == b"u":
            files[kind].clear()
        elif what != b"s" and (certain or chance.random() < 0.5):
            _apply(files[kind], what, offset, body)
        elif what == b"w" and chance.random() < 0.5:  # a part of it, in sectors
            first = chance.randrange(0, len(body), 512)
            last = chance.randrange(first, len(body) + 1, 512)
            _apply(files[kind], what, offset + first, body[first:last])
    folder = _scratch() / "failed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for kind, data in files.items():
        if data or kind == 1:
            (folder / f"{NAME}{'-journal' if kind == 2 else ''}").write_bytes(data)
    left, warned = check(folder)
    if warned:
        return "started again"
    return "no rows yet" if left == 0 else "rows there"


def run(count: int, seed: int, first: int = 0, processes: int = 1) -> Report:
    """Attack with damage and power failures in turn."""
    return hunt(one, count, seed, first, processes=processes)


def one(seed: int, number: int) -> str:
    if number % 2 and strike_library() is not None:
        return f"power failure: {power_failure(seed, number)}"
    return f"damage: {damage(seed, number)}"


# --- kills at every write ---------------------------------------------------------------------


def kill_at_every_write(folder: str, step: int, first: int = 1, data: str = "") -> None:
    """Fork a process for each call that writes, which dies there; print how many died.

    It must run under ``struck``. Every second process dies in the middle of its write. With
    ``data`` an extraction of these images is killed, else ``work``.
    """
    library = ctypes.CDLL(None)
    task, compare = extraction(data) if data else (work, _check_sound)
    number = first
    while True:
        store = Path(folder) / f"at-{number}"
        if _survives(_armed, library, number, (number // step + first) % 2, task, store):
            break
        assert _survives(compare, store), f"after a kill at call {number}: see above"
        shutil.rmtree(store, ignore_errors=True)
        number += step
    print(len(range(first, number, step)))  # noqa: T201 - the result


def _armed(
    library: ctypes.CDLL, number: int, halved: int, task: Callable[[Path], object], store: Path
) -> None:
    library.strike_at(ctypes.c_long(number), halved)
    task(store)


def _check_sound(folder: Path) -> None:
    _, warned = check(folder)
    assert not warned, warned


def extraction(data: str) -> tuple[Callable[[Path], object], Callable[[Path], None]]:
    """Return a function that extracts images into a store, and one that compares its rows."""
    import torch  # noqa: PLC0415 - takes seconds

    from regraft.backbones.image_size import at_image_size  # noqa: PLC0415
    from regraft.backbones.registry import load_backbone  # noqa: PLC0415
    from regraft.config.train_config import TrainConfig  # noqa: PLC0415
    from regraft.data.scan import scan  # noqa: PLC0415
    from regraft.features import extract  # noqa: PLC0415
    from regraft.features.compute import Compute  # noqa: PLC0415

    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    backbone = at_image_size(load_backbone("embedded"), 64, crop=False)
    samples = scan(data, TrainConfig())
    extract._ROWS_A_COMMIT = 2
    compute = Compute("cpu", "float32", 2)
    reader = extract.TapReader(backbone, extract.row_blocks(backbone), compute)
    extract.TapReader = lambda *_: reader  # made once, before all forks

    def extracted(folder: Path) -> np.ndarray:
        store = FeatureStore(folder)
        network = extract.RowExtractor(samples, backbone, compute, 1)
        features = extract.extract(network, np.arange(len(samples)), store)
        rows = features.matrix(np.arange(len(samples)), extract.row_blocks(backbone))
        store.close()
        return rows

    expected = extracted(Path(tempfile.mkdtemp(dir=_scratch())))

    def compare(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(extracted(folder), expected)
        assert integrity(folder) == "ok"

    return extracted, compare


def _survives(action: Callable[..., object], *arguments: object) -> bool:
    """Run in a forked process; False where it was killed."""
    child = os.fork()
    if child == 0:
        try:
            action(*arguments)
        except BaseException:  # noqa: BLE001 - printed, and the child must not go on as the parent
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "see above"
    return True


def integrity(folder: Path) -> str:
    """Return SQLite's own check of the file."""
    connection = sqlite3.connect(folder / NAME)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


# --- disks ------------------------------------------------------------------------------------


def on_a_small_disk(call: str, folder: Path, size: str) -> str | None:
    """Run a call with a file system of that size at ``folder``; None where none can be mounted."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from attacks import store; {call}"
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" 2>/dev/null || exit 77; exec "$1" -c "$2"'
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    done = subprocess.run(
        [unshare, "--map-root-user", "--mount", "sh", "-c", script, folder, sys.executable, code],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if done.returncode == 77 or "unshare:" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout


def fill_the_disk(folder: str, rounds: int) -> None:
    """Fill the disk at many steps of the work; print how often. No row may be lost."""
    store_folder, filler = Path(folder) / "store", Path(folder) / "filler"
    full = 0
    for step in range(rounds):
        shutil.rmtree(store_folder, ignore_errors=True)
        filler.write_bytes(b"")
        free = shutil.disk_usage(folder).free
        left = (step + 1) * (40 * PAGE) // rounds  # free bytes: from none to almost enough
        filler.write_bytes(bytes(free - left))
        kept = 0
        try:
            store = FeatureStore(store_folder)
            for start in range(0, ROWS, 8):
                write(store, range(start, start + 8))
                kept = start + 8
        except DiskFullError:
            full += 1
        filler.write_bytes(b"")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store = FeatureStore(store_folder)
            assert there(store) == kept
            write(store, range(ROWS))
            assert there(store) == ROWS
            store.close()
        assert integrity(store_folder) == "ok"
    print(full)  # noqa: T201 - the result


def read_only(folder: str) -> None:
    """Use a store on a file system that has become read-only; print the errors."""
    store_folder = Path(folder) / "store"
    store = FeatureStore(store_folder)
    write(store, range(8))
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    for action in (lambda: write(store, range(8, 16)), lambda: FeatureStore(store_folder)):
        try:
            action()
        except StoreError as error:
            print(error.message)  # noqa: T201 - the result


def refused_without_permission(folder: str) -> None:
    """Open a store as a user who may read the folder but not write to it; print the error."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        FeatureStore(Path(folder))
    except StoreError as error:
        print(error.message)  # noqa: T201 - the result


# --- many processes ---------------------------------------------------------------------------


def write_all(folder: str) -> None:
    """Write all rows, some at a time; many processes do this at once."""
    store = FeatureStore(Path(folder))
    for start in range(0, ROWS, 4):
        write(store, range(start, start + 4))
    assert there(store) == ROWS
    store.close()


def disturb(folder: str, role: str, seconds: float) -> None:
    """Write, read, evict or clear for a while; rows that are read must be right."""
    store, end = FeatureStore(Path(folder)), time.monotonic() + seconds
    chance, rounds = random.Random(role), 0
    while time.monotonic() < end:
        if role.startswith("write"):
            write(store, chance.sample(range(ROWS), 8))
        elif role == "evict":
            store.limit = 20 * PAGE
            store.evict()
        elif role == "clear" and chance.random() < 0.05:
            store.clear()
        there(store)
        rounds += 1
    store.close()
    print(rounds)  # noqa: T201 - the result
