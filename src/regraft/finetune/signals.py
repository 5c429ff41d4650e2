"""Catch SIGINT and SIGTERM between steps, so that the loop can save before the process ends."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_TERMINATED = 143  # the exit code of regraft.cli.console after SIGTERM


class Stop:
    """A signal's request to stop; ``number`` is the signal, 0 before one came."""

    def __init__(self) -> None:
        self.number = 0

    @property
    def asked(self) -> bool:
        """True from the first signal on."""
        return self.number != 0

    def leave(self) -> NoReturn:
        """Leave as without us: the command line exits with 130 (SIGINT) or 143 (SIGTERM)."""
        if self.number == signal.SIGTERM:
            raise SystemExit(_TERMINATED)
        raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Catch the first SIGINT or SIGTERM; the second one leaves at once.

    Python catches signals in the main thread only: in other threads nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        at_once = stop.asked
        stop.number = number
        if at_once:
            stop.leave()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
