"""The protocol of logs, and functions for several of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: One row an epoch, as in history.csv.
History = list[dict[str, Any]]
PICTURES = ("curves.png", "confusion.png")


class Log(Protocol):
    """A record of a training outside the run folder; its exceptions become warnings.

    An entry of ``regraft.runs.logs.registry.LOGS`` makes a log from the settings (dict), the run
    folder, a folder for files until the run is complete, and the reporter.

    Examples
    --------
    ::

        class LastLoss:
            def __init__(self, settings, run, unfinished, reporter):
                self.reporter = reporter

            def begin(self, history): ...

            def send(self, history):
                self.reporter.say(f"loss {history[-1]['train_loss']:.3f}")

            def finish(self, run, figures): ...

            def close(self, ended): ...

        LOGS["last_loss"] = LastLoss
    """

    def begin(self, history: History) -> None:
        """Begin, or continue a training that was stopped.

        Parameters
        ----------
        history : list of dict
            Earlier epochs; empty for a new training.
        """

    def send(self, history: History) -> None:
        """Send the epochs that were not sent yet.

        Parameters
        ----------
        history : list of dict
            One row for each epoch so far, with the columns of history.csv.
        """

    def finish(self, run: Path, figures: Mapping[str, float]) -> None:
        """Send the final figures and pictures.

        Parameters
        ----------
        run : Path
            The complete run folder, before it is renamed to its final path.
        figures : mapping of str to float
            Such as "test/accuracy"; see ``regraft.runs.logs.registry.final_figures``.
        """

    def close(self, ended: str) -> None:
        """Release all files and connections.

        Parameters
        ----------
        ended : {"FINISHED", "FAILED", "KILLED"}
            How the training has ended.
        """


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of one epoch by name."""
    return {
        name: float(value) for name, value in row.items() if name != "epoch" and value is not None
    }


def first_line(error: Exception) -> str:
    """Return the kind of an error, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
