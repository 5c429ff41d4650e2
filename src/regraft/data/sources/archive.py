"""Limits and errors that zip and tar archives have in common.

Archives are read member by member and never extracted. CPython's own extraction filter was bypassed
several times, and a file that is never written cannot leave its folder. Bytes are counted as they
are read: the sizes that a header declares are not trusted.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib

try:
    from compression.zstd import ZstdError  # type: ignore[import-not-found]
except ImportError:  # before Python 3.14
    ZstdError = EOFError

#: Everything that the standard library raises on damaged archives.
DAMAGE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    ZstdError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # an unknown password; also RecursionError: headers of headers
    NotImplementedError,  # an unknown compression
    OverflowError,
)


#: Most members that are listed: a few megabytes of gzip can hold any number of empty ones.
MOST_MEMBERS = 20_000_000


def damage_reason(error: Exception) -> str:
    """Return an error's message in one line, or the name of its class."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(text.split()) or type(error).__name__
