"""What a lack of memory looks like: each library reports it in its own way."""

from __future__ import annotations

import errno
import re

#: Of torch's allocator, of C++ and of the system: a RuntimeError, an ImportError or an OSError.
#: That of libjpeg is a ValueError.
_WORDS = re.compile(
    r"can't allocate memory|cannot allocate memory(?! in static)|not enough memory|out of memory"
    r"|insufficient memory|bad_alloc|failed to map segment|can't start new thread"
    r"|unable to allocate",
    re.IGNORECASE,
)


def lacks_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, means that there is not enough memory.

    Examples
    --------
    >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("std::bad_alloc"))
    (True, True)
    >>> lacks_memory(RuntimeError("wrong shape"))
    False
    """
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError | ImportError | OSError | ValueError) and _WORDS.search(
            str(error)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
