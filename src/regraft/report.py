"""How long work tells of itself: silent in Python, lines and bars on the command line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Reporter:
    """Says nothing; the command line brings one that prints to stderr (``regraft.cli``).

    Examples
    --------
    >>> with Reporter().track("extract", total=10) as advance:
    ...     advance(10)
    """

    def say(self, line: str) -> None:
        """Tell one line: a choice with its reason, a note about the data."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        """Follow ``total`` steps; the yielded function advances by a number of steps."""

        def advance(steps: int) -> None:
            pass

        yield advance
