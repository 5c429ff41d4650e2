"""Settings of the whole process that make networks fast on the processor; imports no torch.

Only our own commands change them, never an import of the library.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys


def tune_process() -> bool:
    """Tune the allocator and waiting threads; return whether the allocator could be tuned.

    It must be called before torch is imported. Half of a forward pass on the processor is page
    faults, because glibc returns large blocks to the system at every free: each activation is a new
    mapping. OpenMP's threads spin while they wait for each other: beside another busy process this
    makes the forward pass ten times slower; sleeping costs nearly nothing
    (docs/design/decisions.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when the OpenMP library is loaded
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    return bool(libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1))
