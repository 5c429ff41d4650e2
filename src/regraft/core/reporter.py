"""Progress of long work: messages, steps done, and seconds by phase."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Advance(Protocol):
    """Function that counts steps of a task.

    Examples
    --------
    >>> with Reporter().track("fit", total=2) as advance:
    ...     advance(1)
    ...     advance(1, "loss 0.31")
    """

    def __call__(self, steps: int, note: str = "", /) -> None:
        """Report that ``steps`` more steps are done.

        Parameters
        ----------
        steps : int
            Since the last call, at least 0.
        note : str
            Shown after the progress bar.
        """


class Reporter:
    """Follows the work of a function, and shows nothing: override its methods to show it.

    The command line has one that prints to stderr, ``regraft.cli.progress.ConsoleReporter``.

    Examples
    --------
    >>> class Printing(Reporter):
    ...     def say(self, line):
    ...         print(line)
    >>> reporter = Printing()
    >>> reporter.say("6 images of 2 classes")
    6 images of 2 classes
    >>> with reporter.track("extract", total=10) as advance:
    ...     advance(10)
    """

    def say(self, line: str) -> None:
        """Report one line.

        Parameters
        ----------
        line : str
            A choice with its reason, or a note about the data; without a line break at the end.
        """

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """Follow a task of several steps.

        Parameters
        ----------
        label : str
            Name of the task, such as "extract".
        total : int
            Number of steps, at least 0.

        Yields
        ------
        Advance
            Function to call with the number of steps that are done since its last call.
        """

        def advance(steps: int, note: str = "", /) -> None:
            pass

        yield advance


#: The default of functions that take a reporter.
SILENT = Reporter()


class Stopwatch:
    """Measures the seconds of each phase of a training, and of all of it."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._phases: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """End a phase; it has lasted since the end of the last one."""
        now = time.perf_counter()
        self._phases[phase], self._last = now - self._last, now

    def add(self, phases: Mapping[str, float]) -> None:
        """Add phases that were measured by another module since the last one ended."""
        self._phases |= phases
        self._last = time.perf_counter()

    @property
    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase."""
        return dict(self._phases)

    def so_far(self) -> dict[str, float]:
        """Return the seconds of each phase that has ended, and of all of it as "total"."""
        total = time.perf_counter() - self._start
        return {name: round(value, 3) for name, value in {**self._phases, "total": total}.items()}
