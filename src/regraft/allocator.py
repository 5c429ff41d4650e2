"""The memory allocator, tuned for networks on the processor; imports no torch."""

from __future__ import annotations

import ctypes
import platform
import sys


def tune_allocator() -> bool:
    """Keep glibc from giving large blocks back at every free.

    Half of a plain forward pass on the processor is page faults: every activation is a fresh
    mapping. This is a setting of the whole process, so only our own commands call it, never an
    import of the library.

    Returns
    -------
    bool
        True where that was possible: on Linux with glibc.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    return bool(libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1))
