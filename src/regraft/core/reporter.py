"""How long work tells of itself, and how long it took."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Advance(Protocol):
    """Moves a task on by a number of steps; a bar shows the note beside it."""

    def __call__(self, steps: int, note: str = "", /) -> None:
        """Tell that so many more steps are done."""


class Reporter:
    """Says nothing; the command line brings one that prints to stderr (``regraft.cli.main``).

    Examples
    --------
    >>> with Reporter().track("extract", total=10) as advance:
    ...     advance(10)
    """

    def say(self, line: str) -> None:
        """Tell one line: a choice with its reason, a note about the data."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """Follow ``total`` steps; the yielded function advances by a number of steps."""

        def advance(steps: int, note: str = "", /) -> None:
            pass

        yield advance


#: What a function takes where nobody follows its work.
SILENT = Reporter()


class Stopwatch:
    """Seconds of each phase of a training, and of everything since it was made."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._phases: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """End a phase: what has passed since the phase before it."""
        now = time.perf_counter()
        self._phases[phase], self._last = now - self._last, now

    def add(self, phases: Mapping[str, float]) -> None:
        """Take over phases that were measured elsewhere since the last one ended."""
        self._phases |= phases
        self._last = time.perf_counter()

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase."""
        return dict(self._phases)

    def so_far(self) -> dict[str, float]:
        """Return the seconds of the phases that are over, and "total"."""
        total = time.perf_counter() - self._start
        return {name: round(value, 3) for name, value in {**self._phases, "total": total}.items()}
