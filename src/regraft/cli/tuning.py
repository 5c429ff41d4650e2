"""Settings of the whole process that make networks fast on the processor; imports no torch.

Only our own commands make them, never an import of the library.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys


def tune_process() -> bool:
    """Tune the allocator and the waiting of threads; to be called before torch is imported.

    Half of a plain forward pass on the processor is page faults, since glibc gives large blocks
    back at every free: every activation is a fresh mapping. And OpenMP's threads spin while they
    wait for each other: with any other busy process on the machine, that makes the forward pass
    ten times slower, where sleeping costs nearly nothing (docs/design/decisions.md).

    Returns
    -------
    bool
        True where the allocator could be tuned: on Linux with glibc.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when the OpenMP library is loaded
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    return bool(libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1))
