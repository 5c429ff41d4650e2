"""The time that a race may take."""

from __future__ import annotations

import time


class Clock:
    """Says whether more work fits into some seconds from now on; everything does without a limit.

    Examples
    --------
    >>> Clock(None).allows(1e9), Clock(60.0).allows(1e9), Clock(60.0).allows(5)
    (True, False, True)
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds that are left; infinity without a limit."""
        return float("inf") if self._end is None else self._end - time.monotonic()

    def allows(self, expected: float) -> bool:
        """Return whether work of so many seconds can be begun."""
        return expected <= self.left
