"""The reporter of the command line: lines and progress bars on stderr."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from regraft.cli.spelling import spelled
from regraft.cli.streams import is_terminal, tell
from regraft.core.reporter import Reporter
from regraft.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from regraft.core.reporter import Advance


_FIRST_LINE, _MOST_BETWEEN = 10.0, 600.0  # seconds, where there are no bars


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


class ConsoleReporter(Reporter):
    """Prints lines and draws progress bars on stderr; in a file or pipe a task is a line.

    That line comes at its end; a task of minutes has lines on the way, at growing distances.

    Bars obey NO_COLOR and TERM=dumb, and use ASCII characters if the encoding has no others.
    """

    def __init__(self) -> None:
        self._bars = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
        self._progress: Progress | None = None

    def say(self, line: str) -> None:
        """Print one line, above a bar that is being drawn."""
        tell(one_line(spelled(line)))

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        """Show the progress of ``total`` steps; the yielded function advances it."""
        drawn = self._bar(label, total) if self._bars else self._lines(label, total)
        with drawn as advance:
            yield advance

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Advance]:
        outer = self._progress
        progress = outer or Progress(
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            # Otherwise Rich sends results to the console of the bar, which is stderr.
            redirect_stdout=is_terminal(sys.stdout),
        )
        self._progress = progress
        if outer is None:
            progress.start()
        task = progress.add_task(one_line(label), total=total)

        def advance(steps: int, note: str = "", /) -> None:
            text = one_line(f"{label} {note}" if note else label)
            progress.update(task, advance=steps, description=text)

        try:
            yield advance
        finally:
            if outer is None:
                progress.stop()
                self._progress = None

    @contextmanager
    def _lines(self, label: str, total: int) -> Iterator[Advance]:
        done, wait = 0, _FIRST_LINE
        started = time.perf_counter()

        def so_far() -> str:
            seconds = max(time.perf_counter() - started, 1e-3)
            return f"{done:,} in {seconds:,.1f} s ({done / seconds:,.0f}/s)"

        def advance(steps: int, note: str = "", /) -> None:
            nonlocal done, wait
            done += steps
            if time.perf_counter() - started >= wait:
                wait += min(wait, _MOST_BETWEEN)
                self.say(f"{label} {note}".rstrip() + f": {so_far()}, of {total:,}")

        yield advance
        self.say(f"{label}: {so_far()}")
