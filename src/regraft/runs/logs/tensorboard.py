"""A training's records as TensorBoard's event file."""

# ruff: noqa: PLC0415 - an optional package, which takes seconds to import

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regraft.runs.logs.base import PICTURES, History, numbers_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from regraft.core.reporter import Reporter


class TensorBoardLog:
    """Event files, written again from the history at each start: no epoch is in them twice."""

    def __init__(
        self, settings: dict[str, Any], run: Path, unfinished: Path, reporter: Reporter
    ) -> None:
        del run
        self._settings, self._reporter = settings, reporter
        self._folder = (unfinished / "tensorboard").absolute()
        self._writer: Any = None
        self._sent = 0

    def begin(self, history: History) -> None:
        """Start, or continue a training whose first epochs are given."""
        from torch.utils.tensorboard import SummaryWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer, self._sent = SummaryWriter(str(self._folder)), 0
        text = "\n".join(f"    {name}: {value}" for name, value in self._settings.items())
        self._writer.add_text("settings", text)
        self._reporter.say(f"to watch it: tensorboard --logdir {self._folder.parent.parent}")
        self.send(history)

    def send(self, history: History) -> None:
        """Send the epochs that were not sent yet."""
        for row in history[self._sent :]:
            for name, value in numbers_of(row).items():
                self._writer.add_scalar(name, value, row["epoch"])
            self._sent += 1
        self._writer.flush()

    def finish(self, run: Path, figures: Mapping[str, float]) -> None:
        """Send the final figures and pictures."""
        import numpy as np
        from PIL import Image

        for name in PICTURES:
            if (run / name).is_file():
                with Image.open(run / name) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                self._writer.add_image(name, pixels, dataformats="HWC")
        settings = {name: "" if value is None else value for name, value in self._settings.items()}
        self._writer.add_hparams(settings, dict(figures), run_name=".")
        self.close("FINISHED")
        self._folder.replace(run / "tensorboard")

    def close(self, ended: str) -> None:
        """Release everything."""
        del ended
        if self._writer is not None:
            self._writer.close()
            self._writer = None
