"""What a training returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.runs.summary import summarise

if TYPE_CHECKING:
    from pathlib import Path

    from regraft.model import Model


@dataclass(frozen=True)
class Run:
    """What a training returns.

    Attributes
    ----------
    folder : Path
        The run folder.
    metrics : dict
        As in its metrics.json.
    model : Model
        As in its bundle.
    """

    folder: Path
    metrics: dict[str, Any]
    model: Model

    def __repr__(self) -> str:
        accuracy = self.metrics["test"]["accuracy"]["value"]
        n = self.metrics["test"]["n"]
        return f"Run({str(self.folder)!r}, test accuracy {accuracy:.3f}, n = {n:,})"

    def summary(self) -> str:
        """Return the result, what to compare it with, and what to type next."""
        return summarise(self.folder, self.metrics)
