"""Work in the background: what is slow to import hides behind reading and hashing files."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

#: First part of the names of the threads: they have nothing to lose.
BACKGROUND = "regraft-background"
_HEAD_START = 0.1  # seconds in which a scan fails where the path is wrong


@contextmanager
def in_background(function: Callable[..., Any], *arguments: Any) -> Iterator[Future[Any]]:
    """Run something slow in a thread beside the block; torch's import hides behind hashing.

    It starts a moment later: most mistakes are found by then, and end without an import.

    Parameters
    ----------
    function, *arguments
        What to call; where the block fails before it has begun, it is not.

    Yields
    ------
    Future
        Of what it returns.
    """
    failed = threading.Event()

    def run() -> Any:
        return None if failed.wait(_HEAD_START) else function(*arguments)

    pool = ThreadPoolExecutor(1, thread_name_prefix=BACKGROUND)
    future = pool.submit(run)
    try:
        yield future
    except Exception:
        failed.set()
        pool.shutdown()  # no thread goes on importing behind the caller's back
        raise
    except BaseException:  # an interrupt: nobody is to wait
        failed.set()
        pool.shutdown(wait=False)
        raise
    pool.shutdown(wait=False)
