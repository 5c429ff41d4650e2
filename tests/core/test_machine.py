"""Processors and memory: a container's limits count, in both versions of control groups."""

from types import SimpleNamespace

import pytest

from regraft.core import machine
from regraft.errors import InputError

GIB = 2**30


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Make a machine of 8 processors and 64 GiB whose control groups the test writes."""
    groups = tmp_path / "groups"
    groups.mkdir()
    monkeypatch.setattr(machine, "_GROUPS", groups)
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(8), raising=False)
    memory = SimpleNamespace(available=64 * GIB)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: memory)

    def write(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = groups / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def limits(host, own, files):
    host(
        own, **{name.replace("/", "__").replace(".", "_dot_"): text for name, text in files.items()}
    )
    return machine.n_processors(), machine.free_memory()


def test_without_control_groups_the_machine_counts(host):
    assert (machine.n_processors(), machine.free_memory()) == (8, 64 * GIB)


def test_a_container_of_version_2(host):
    files = {
        "cpu.max": "150000 100000\n",
        "memory.max": f"{4 * GIB}\n",
        "memory.current": f"{GIB}\n",
    }
    assert limits(host, "0::/\n", files) == (2, 3 * GIB)


def test_a_container_of_version_1(host):
    files = {
        "cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000",
        "memory/job/memory.limit_in_bytes": str(2 * GIB),
        "memory/job/memory.usage_in_bytes": str(GIB),
    }  # fmt: skip
    assert limits(host, "4:cpu,cpuacct:/job\n7:memory:/job\n", files) == (3, GIB)


def test_the_tightest_group_above_counts(host):
    files = {
        "slice/cpu.max": "max 100000", "cpu.max": "max 100000", "slice/memory.max": str(2 * GIB),
        "slice/memory.current": "0", "slice/job/memory.max": "max", "slice/job/memory.current": "0",
        "slice/job/cpu.max": "400000 100000",
    }  # fmt: skip
    assert limits(host, "0::/slice/job\n", files) == (4, 2 * GIB)


def test_files_that_were_read_make_room(host):
    files = {
        "memory.max": str(4 * GIB), "memory.current": str(4 * GIB),
        "memory.stat": f"anon {GIB}\ninactive_file {3 * GIB}\n",
    }  # fmt: skip
    assert limits(host, "0::/\n", files)[1] == 3 * GIB


def test_no_limit_and_paths_of_another_namespace(host):
    files = {"cpu.max": "max 100000", "memory.max": "max", "memory.current": "5"}
    assert limits(host, "0::/../../elsewhere\n", files) == (8, 64 * GIB)


def test_a_tenth_of_a_processor_is_one(host):
    assert limits(host, "0::/\n", {"cpu.max": "10000 100000"})[0] == 1


def test_automatic_memory_is_half_of_what_the_container_has_free(host):
    limits(host, "0::/\n", {"memory.max": str(GIB), "memory.current": "0"})
    assert machine.memory_limit("auto") == GIB // 2


@pytest.mark.parametrize("memory", ["-1", "much", "nan", "inf", ""])
def test_memory_that_is_no_number_is_refused(memory):
    with pytest.raises(InputError) as caught:
        machine.memory_limit(memory)
    assert caught.value.message == f"memory is {memory!r}; it must be auto or a number of GiB"


def test_threads_are_those_asked_for_or_the_processors_shared_by_processes(host):
    assert [machine.n_threads(5), machine.n_threads(0), machine.n_threads(0, 3)] == [5, 8, 2]
    assert machine.n_threads(0, 100) == 1
