"""Work in a thread: torch is imported while files are read and hashed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

#: First part of the names of the threads; the process may end while they run.
BACKGROUND = "regraft-background"
_HEAD_START = 0.1  # seconds; a scan with a wrong path fails earlier


@contextmanager
def in_background(function: Callable[..., Any], *arguments: Any) -> Iterator[Future[Any]]:
    """Call a slow function in a thread while the block runs; yield the future of its result.

    The call starts 0.1 s later and not at all if the block has failed by then: most mistakes of
    a user are found without importing torch.
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
        pool.shutdown()  # wait: no import goes on after the error
        raise
    except BaseException:  # an interrupt: do not wait
        failed.set()
        pool.shutdown(wait=False)
        raise
    pool.shutdown(wait=False)


def raise_failure(future: Future[Any] | None, *, wait: bool = False) -> None:
    """Raise the error of a call that has failed; do nothing while it runs, unless told to wait."""
    if future is not None and (wait or future.done()) and (error := future.exception()) is not None:
        raise error
