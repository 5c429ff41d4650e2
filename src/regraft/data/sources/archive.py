"""What reading zip and tar archives has in common.

Archives are read member by member and never extracted: CPython's own extraction filter was bypassed
several times, and what is never written to a disk cannot leave a folder. Real bytes are counted,
not those that a header declares.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib

#: Everything that the standard library raises on damaged archives.
DAMAGE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # an unknown password; also RecursionError: headers of headers
    NotImplementedError,  # an unknown compression
    OverflowError,
)


#: Members that are listed at most: a few megabytes of gzip hold as many empty ones as they like.
MOST_MEMBERS = 20_000_000


def say(error: Exception) -> str:
    """Return what an error says in one line, or at least its kind."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(text.split()) or type(error).__name__
