"""What a training returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.core.notebook import html_table
from regraft.runs.summary import summarise, summary_rows

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

    def _repr_html_(self) -> str:
        reason = self.metrics["backbone"].get("no_bundle")
        note = f"regraft.Predictor.load({str(self.folder)!r})" if reason is None else (
            f"no bundle: {reason}"
        )  # fmt: skip
        return html_table(f"regraft.Run: {self.folder}", summary_rows(self.metrics), note)

    def summary(self) -> str:
        """Return the result, what to compare it with, and what to type next."""
        return summarise(self.folder, self.metrics)
