"""Checkpoints: two generations of everything that a step leaves behind, whole or not at all.

A generation is ``N.safetensors`` and ``N.json``; the JSON is written last and holds sha256 and
length of the tensors, and a sha256 of what it says itself. Nothing in either can execute anything.
What does not fit together does not count, and the generation before it is taken.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from regraft.core.files import read_bounded, write_atomic
from regraft.errors import DiskFullError, InputError, RunError
from regraft.finetune.paths import NAME, generations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

SCHEMA_VERSION = 1
_KEPT = 2  # generations
_MAX_JSON = 64 * 2**20  # a history of 100,000 epochs
_MAX_TENSORS = 2**40


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: tensors by name, and a JSON-ready state."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


@dataclass
class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Parameters
    ----------
    folder : Path
        Made when the first checkpoint is saved; of other files in it nothing is touched.
    fingerprint : mapping of str to JSON value
        What the run is: settings, data, weights. A checkpoint of another run is refused.
    """

    folder: Path
    fingerprint: Mapping[str, Any]
    _whole: list[int] = field(default_factory=list)  # generations that were written or read whole

    def load(self) -> tuple[Saved | None, list[str]]:
        """Return the newest whole checkpoint, and why newer ones were passed over.

        Returns
        -------
        tuple of Saved or None, and list of str
            None where there is none at all.

        Raises
        ------
        RunError
            Where all are damaged, or the newest whole one is of another run.
        """
        notes: list[str] = []
        with io_errors_as_run_errors(self.folder):
            found = generations(self.folder)
        for number in reversed(found):
            try:
                record, saved = self._read(number)
            except InputError as error:
                notes.append(f"checkpoint {number} is passed over: {error.message}")
                continue
            self._refuse_others(record["fingerprint"])
            self._whole = [number]
            return saved, notes
        if notes:
            raise RunError(
                f"{self.folder} holds no whole checkpoint: {'; '.join(notes)}",
                hint="--overwrite starts anew",
            )
        return None, notes

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Write a new generation, then remove all but the last two.

        Parameters
        ----------
        tensors : mapping of str to tensor
            On any device; no two may share memory.
        state : mapping
            JSON-ready.

        Raises
        ------
        DiskFullError
            Names path and bytes; what was saved before stays.
        RunError
            Where the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.folder} cannot be made: {error.strerror or error}") from error
        with io_errors_as_run_errors(self.folder):
            number = max(generations(self.folder), default=0) + 1
        data = safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )
        content = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": dict(self.fingerprint),
            "state": dict(state),
            "tensors": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        }
        try:
            write_atomic(self._path(number, "safetensors"), data)
            # Last: without it the tensors are of no generation.
            write_atomic(self._path(number, "json"), _sealed(content))
        except DiskFullError as error:
            with suppress(OSError):
                self._path(number, "safetensors").unlink(missing_ok=True)  # of no use alone
            hint = "free some space there, and run the same command with --resume"
            raise DiskFullError(error.message, hint=hint) from error
        except InputError as error:
            raise RunError(error.message) from error
        self._whole = [*self._whole, number][-_KEPT:]
        with io_errors_as_run_errors(self.folder):
            self._remove_others()

    def remove(self) -> None:
        """Remove the folder with everything that is ours in it."""
        self._whole = []
        with io_errors_as_run_errors(self.folder):
            self._remove_others()
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def refuse_full_disk(self, needed: int) -> None:
        """Refuse to start where the checkpoints cannot fit.

        Parameters
        ----------
        needed : int
            Bytes of one generation; two are kept while the third is written.

        Raises
        ------
        DiskFullError
            Names path and bytes.
        """
        with io_errors_as_run_errors(self.folder):
            place = next(place for place in (self.folder, *self.folder.parents) if place.exists())
            free = shutil.disk_usage(place).free
        if free < needed * (_KEPT + 1):
            raise DiskFullError(
                f"checkpoints in {self.folder} need up to {needed * (_KEPT + 1):,} bytes; "
                f"{free:,} are free",
                hint="free some space there, or choose another place with --out",
            )

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:08}.{suffix}"

    def _read(self, number: int) -> tuple[dict[str, Any], Saved]:
        record = _unsealed(read_bounded(self._path(number, "json"), _MAX_JSON))
        told = record["tensors"]
        data = read_bounded(
            self._path(number, "safetensors"), min(int(told["bytes"]), _MAX_TENSORS)
        )
        if len(data) != told["bytes"] or hashlib.sha256(data).hexdigest() != told["sha256"]:
            raise InputError("its tensors are not those that were saved (bytes or sha256 differ)")
        try:
            tensors = safetensors.torch.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"its tensors cannot be read: {error}") from error
        return record, Saved(tensors, record["state"])

    def _refuse_others(self, found: Mapping[str, Any]) -> None:
        expected = json.loads(json.dumps(dict(self.fingerprint)))
        differing = [
            f"{name} was {found.get(name)} and is {expected.get(name)}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        if differing:
            raise RunError(
                f"{self.folder} belongs to another run: {'; '.join(differing)}",
                hint="the same command with --resume continues it; --overwrite starts anew",
            )

    def _remove_others(self) -> None:
        """Remove every generation but the whole ones, and what a kill left half-written."""
        if not self.folder.is_dir():
            return
        # JSON first: killed in between, what is left is no generation, and not a damaged one.
        for path in sorted(self.folder.iterdir(), key=lambda path: path.suffix != ".json"):
            match = NAME.fullmatch(path.name)
            half = re.fullmatch(r"\.\d{8}\.(json|safetensors)\.[0-9a-f]+\.tmp", path.name)
            if half or (match and int(match[1]) not in self._whole):
                path.unlink(missing_ok=True)


@contextmanager
def io_errors_as_run_errors(folder: Path) -> Iterator[None]:
    """Tell in one line what a file system says that fails, or went away in the middle."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder} cannot be used: {error.strerror or error}",
            hint="what was saved stays there: the same command with --resume goes on from it",
        ) from error


class NoCheckpoints(Checkpoints):
    """Of a process whose state is another one's, which saves it."""

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Leave it to the first process."""

    def refuse_full_disk(self, needed: int) -> None:
        """Leave it to the first process."""


def _sealed(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)  # rows keep their columns' order
    seal = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"sha256": seal, "content": text}).encode()


def _unsealed(data: bytes) -> dict[str, Any]:
    """Return the content of a JSON that is as it was written; InputError otherwise."""
    try:
        outer = json.loads(data)
        text = outer["content"]
        if hashlib.sha256(text.encode()).hexdigest() != outer["sha256"]:
            raise InputError("its state is not what was saved (sha256 differs)")
        content: dict[str, Any] = json.loads(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"its state cannot be read: {error}") from error
    if content.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"it has schema version {content.get('schema_version')}; this regraft reads "
            f"{SCHEMA_VERSION}"
        )
    return content
