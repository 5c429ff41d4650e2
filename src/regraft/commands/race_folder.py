"""The folder of a race: race.json, race.png, and the finished work that it goes on with."""

# ruff: noqa: PLC0415 - imports torch

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from regraft.config.settings import harmless, read_by
from regraft.core.files import read_regular, write_atomic
from regraft.core.version import __version__
from regraft.errors import RunError
from regraft.race.kept import Kept, key_of
from regraft.runs.lock import write_errors_as_run_errors
from regraft.runs.names import DEFAULT_RUNS_FOLDER, name_after

if TYPE_CHECKING:
    from regraft.data.dataset import Dataset
    from regraft.race.rounds import Standing

SCHEMA_VERSION = 1
RECORD, PICTURE, FITS = "race.json", "race.png", "fits"
_LARGEST = 16 * 2**20


@dataclass(frozen=True)
class RaceFolder:
    """The folder of one race, of some networks on some images by some settings."""

    folder: Path
    data: Any
    asked: dict[str, Any]  # what decides on the result

    @classmethod
    def take(cls, data: Any, dataset: Dataset, config: Any, more: dict[str, Any]) -> RaceFolder:
        """Return the folder of a race: new, or that of the same race, which then goes on.

        Raises RunError if it holds another race or anything else, or is in the data.
        """
        folder = config.out or DEFAULT_RUNS_FOLDER / f"race-{name_after(data)}"
        asked = more | {
            name: getattr(config, name) for name in read_by("race") if name not in harmless()
        }
        samples = dataset.samples
        asked["images"] = key_of(*samples.hashes, *samples.classes, samples.labels.tobytes())
        asked["parts"] = key_of(*map(str, dataset.part_names()))
        plain = msgspec.json.decode(msgspec.json.encode(asked, enc_hook=str))
        made = cls(folder, data, plain)
        made._check(overwrite=config.overwrite)
        return made

    @property
    def kept(self) -> Kept:
        """Return the finished work in it."""
        return Kept(self.folder / FITS)

    def _check(self, *, overwrite: bool) -> None:
        if isinstance(self.data, str | Path) and Path(self.data).is_dir():
            source = Path(self.data).resolve()
            if self.folder.resolve().is_relative_to(source):
                raise RunError(
                    f"{self.folder} would be in the data, {self.data}: the next training would use "
                    "its picture as an image",
                    hint="`out` names another folder",
                )
        with write_errors_as_run_errors(self.folder):
            if not self.folder.exists():
                return
            if not self.folder.is_dir():
                raise RunError(f"{self.folder} is no folder", hint="`out` names another one")
            names = {path.name for path in self.folder.iterdir()}
        if names <= {FITS}:  # new, or of a race that was stopped: what is in it fits or is not used
            return
        earlier = self._read()
        if earlier is None:
            raise RunError(
                f"{self.folder} is not empty, and holds no race; it is left alone",
                hint="`out` names another folder",
            )
        differ = [key for key in self.asked if earlier.get(key) != self.asked[key]]
        if differ and not overwrite:
            raise RunError(
                f"{self.folder} holds a race with other {', '.join(differ)}",
                hint="`out` names another folder; `overwrite=True` replaces it",
            )

    def _read(self) -> dict[str, Any] | None:
        """Return what the race in the folder was asked; None if there is none."""
        try:
            data = read_regular(self.folder / RECORD, _LARGEST, follow=False)
            record = msgspec.json.decode(data, type=dict[str, Any])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        asked = record.get("asked")
        known = record.get("schema_version") == SCHEMA_VERSION
        return asked if known and isinstance(asked, dict) else None

    def _write(self, record: dict[str, Any]) -> None:
        head = {"schema_version": SCHEMA_VERSION, "regraft": __version__}
        data = msgspec.json.encode(head | record | {"asked": self.asked})
        write_atomic(self.folder / RECORD, msgspec.json.format(data, indent=2))

    def write(
        self,
        standing: Standing,
        missing: dict[str, str],
        test: dict[str, Any] | None,
        config: Any,
    ) -> tuple[str, Path, dict[str, Any]]:
        """Write race.json and race.png; return the text to print, the folder and the record."""
        import torch

        from regraft.plots.race import PlottedCandidate, draw_race
        from regraft.race.report import Found, as_record, as_text, command_for

        winner = "" if standing.winner is None else standing.winner.name
        command = command_for(self.data, config, winner)
        found = Found(
            standing=standing,
            missing=missing,
            test=test,
            command=command,
            threads=torch.get_num_threads(),
            balanced=config.class_weight == "balanced",
        )
        record = {"finished": True} | as_record(found)
        drawn = [
            PlottedCandidate(
                each["name"],
                each["accuracy"]["value"],
                each["accuracy"]["low"],
                each["accuracy"]["high"],
                each["latency"],
                each["round"] == standing.round,
                each["winner"],
            )
            for each in record["candidates"]
        ]
        draw_race(self.folder / PICTURE, drawn, self.asked["latency"])
        self._write(record)
        text, rest = as_text(record).rsplit("\nnext: ", 1)
        return f"{text}\npicture: {self.folder / PICTURE}\nnext: {rest}", self.folder, record
