"""The processors and the memory that this process may use, also in a container.

A container sees the processors and the memory of the whole machine. Its limits are in the files of
its control group (cgroup), version 2 or 1, and in those of every group above it.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from regraft.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def n_processors() -> int:
    """Return how many processors this process may use, at least 1.

    It is the least of three numbers: those of the machine, those that a batch system or ``taskset``
    permits, and the container's share of processor time, rounded up.
    """
    try:
        found = len(os.sched_getaffinity(0))  # not on macOS and Windows
    except AttributeError:
        found = os.cpu_count() or 1
    return max(min([found, *_processor_limits()]), 1)


def n_threads(asked: int, n_processes: int = 1) -> int:
    """Return how many threads read and decode: ``asked``, or one per processor if that is 0.

    The processes of a training on this machine, ``n_processes``, share its processors.
    """
    return asked or max(n_processors() // n_processes, 1)


def free_memory() -> int:
    """Return the bytes of free memory: of the machine or of the container, the smaller number."""
    return min([int(psutil.virtual_memory().available), *_free_in_groups()])


def memory_limit(memory: str) -> int:
    """Return the bytes that the setting ``memory`` allows: GiB, or "auto" for half of what is free.

    Examples
    --------
    >>> memory_limit("0.5")
    536870912
    """
    if memory == "auto":
        return free_memory() // 2
    try:
        limit = int(float(memory) * 2**30)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise InputError(f"memory is {memory!r}; it must be auto or a number of GiB")
    return limit


def _folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, from its own to the root's."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []  # not Linux
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "", "")[:3]
        if number == "0" and not controllers:
            root = _GROUPS
        elif controller in controllers.split(","):
            root = _GROUPS / controller
        else:
            continue
        inner = Path(*[part for part in path.split("/") if part not in {"", ".."}])
        # In a container the path may be the host's, and only the root is there.
        yield from (root / each for each in (inner, *inner.parents) if (root / each).is_dir())


def _numbers(path: Path) -> list[int | None]:
    """Return the numbers in a small file: None for a word such as "max"; empty without a file."""
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [int(word) if word.lstrip("-").isdecimal() else None for word in words]


def _processor_limits() -> Iterator[int]:
    for folder in _folders("cpu"):
        version_2 = _numbers(folder / "cpu.max")
        version_1 = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        for limit in (version_2, version_1):  # microseconds of processor time in a period
            quota, period = (*limit, None, None)[:2]
            if quota is not None and period is not None and quota > 0 and period > 0:
                yield math.ceil(quota / period)


def _free_in_groups() -> Iterator[int]:
    for folder in _folders("memory"):
        for most, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, held = (*_numbers(folder / most), None)[0], (*_numbers(folder / used), None)[0]
            if limit is not None and held is not None:
                # The cache of files counts as used memory, but is freed as soon as it is needed.
                yield max(limit - max(held - _counted(folder, cached), 0), 0)


def _counted(folder: Path, name: str) -> int:
    """Return one entry of a control group's memory.stat; 0 if there is none."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    entries = (line.split() for line in lines)
    return next((int(entry[1]) for entry in entries if entry[:1] == [name]), 0)
