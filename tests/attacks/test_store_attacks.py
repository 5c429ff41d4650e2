"""Attacks on the store: few in every run of the tests, many with REGRAFT_ATTACKS=full."""

import logging
import os
import subprocess
import sys

import pytest

from attacks import store
from conftest import make_photographs

LOG = logging.getLogger("attacks")  # to see numbers: pytest --log-cli-level=info
FULL = os.environ.get("REGRAFT_ATTACKS") == "full"
struck = pytest.mark.skipif(store.strike_library() is None, reason="needs Linux and a C compiler")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX")


def children(calls: list[str]) -> list[str]:
    """Run calls of ``attacks.store`` at once, each in a process; return their output."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from attacks import store; "
    running = [
        subprocess.Popen([sys.executable, "-c", code + call], stdout=subprocess.PIPE, text=True)
        for call in calls
    ]
    printed = [process.communicate(timeout=900)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(calls)
    return printed


def test_damaged_files_and_power_failures():
    count = 20_000 if FULL else 100
    report = store.run(count, seed=8)
    LOG.info(str(report))
    assert not report.findings, str(report)
    assert report.cases == count


@struck
@pytest.mark.parametrize("first", range(1, 3) if FULL else [3])
def test_killed_at_every_write(tmp_path, first):
    step = 1 if FULL else 16
    kills = int(store.struck(f"store.kill_at_every_write({str(tmp_path)!r}, {step}, {first})"))
    LOG.info("%d kills", kills)
    assert kills > 150 // step


@struck
def test_an_extraction_killed_at_every_write(tmp_path):
    """benchmarks/bench_kills.py kills a large one at random moments."""
    step = 1 if FULL else 20
    data = make_photographs(tmp_path / "data", a_class=2)
    call = f"store.kill_at_every_write({str(tmp_path)!r}, {step}, data={str(data)!r})"
    kills = int(store.struck(call))
    LOG.info("%d kills", kills)
    assert kills > 60 // step


def test_processes_write_the_same_rows(tmp_path):
    children([f"store.write_all({str(tmp_path)!r})"] * (16 if FULL else 4))
    assert store.there(store.FeatureStore(tmp_path)) == store.ROWS
    assert store.integrity(tmp_path) == "ok"


def test_processes_write_read_evict_and_clear_at_once(tmp_path):
    roles = ("write 1", "write 2", "read", "evict", "clear")
    seconds = 60 if FULL else 1
    rounds = children([f"store.disturb({str(tmp_path)!r}, {role!r}, {seconds})" for role in roles])
    LOG.info("rounds of %s: %s", roles, [int(each) for each in rounds])
    assert all(int(each) > 0 for each in rounds)
    assert store.check(tmp_path)[1] == []


def test_a_disk_that_fills_up_is_an_error_and_loses_nothing(tmp_path):
    rounds = 100 if FULL else 5
    call = f"store.fill_the_disk({str(tmp_path)!r}, {rounds})"
    full = store.on_a_small_disk(call, tmp_path, "8m")
    if full is None:
        pytest.skip("no small file system can be mounted here")
    LOG.info("%d of %d disks were full", int(full), rounds)
    assert int(full) > rounds // 2


def test_a_file_system_that_becomes_read_only(tmp_path):
    errors = store.on_a_small_disk(f"store.read_only({str(tmp_path)!r})", tmp_path, "8m")
    if errors is None:
        pytest.skip("no small file system can be mounted here")
    assert errors.count("cannot be used") == 2


@posix
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_no_permission(tmp_path, mode):
    folder = tmp_path / "store"
    store.work(folder)
    before = (folder / store.NAME).read_bytes()
    for parent in (tmp_path, *tmp_path.parents):  # another user must reach it
        if "pytest" in str(parent):
            parent.chmod(0o755)
    folder.chmod(mode)
    [error] = children([f"store.refused_without_permission({str(folder)!r})"])
    folder.chmod(0o755)
    assert error.startswith(f"the feature store {folder} cannot be used: ")
    assert (folder / store.NAME).read_bytes() == before
