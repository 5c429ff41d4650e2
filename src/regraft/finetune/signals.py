"""SIGINT and SIGTERM as a question that the loop asks between steps, so that it can save first."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_TERMINATED = 143  # as regraft.cli.console leaves on SIGTERM


class Stop:
    """Whether a signal asked to stop.

    Attributes
    ----------
    number : int
        Of the signal; 0 before one came.
    """

    def __init__(self) -> None:
        self.number = 0

    @property
    def asked(self) -> bool:
        """True from the first signal on."""
        return self.number != 0

    def leave(self) -> NoReturn:
        """Leave as the signal would have done without us: 130 or 143 on the command line."""
        if self.number == signal.SIGTERM:
            raise SystemExit(_TERMINATED)
        raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Catch the first SIGINT or SIGTERM; the second one leaves at once.

    Signals can be caught in the main thread only: elsewhere they do what they did before.

    Yields
    ------
    Stop
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
