"""What every log implements, and what several of them need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: One row an epoch, as in history.csv.
History = list[dict[str, Any]]
PICTURES = ("curves.png", "confusion.png")


class Log(Protocol):
    """Where records of a training go; what a method raises becomes a warning.

    An entry of ``regraft.runs.logs.registry.LOGS`` makes one from the settings (dict), the run
    folder, the folder for files until the run is complete, and the reporter.
    """

    def begin(self, history: History) -> None:
        """Start; or continue a training that was stopped, whose first epochs are given."""

    def send(self, history: History) -> None:
        """Send the epochs that were not sent yet."""

    def finish(self, run: Path, figures: Mapping[str, float]) -> None:
        """Send the final figures and pictures of a run folder that is being written."""

    def close(self, ended: str) -> None:
        """Release everything; ``ended`` is FINISHED, FAILED or KILLED."""


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of one epoch by name."""
    return {
        name: float(value) for name, value in row.items() if name != "epoch" and value is not None
    }


def first_line(error: Exception) -> str:
    """Return the kind of an error, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
