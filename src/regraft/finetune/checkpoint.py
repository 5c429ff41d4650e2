"""Checkpoints: everything that a step changes, complete or not at all; the last two are kept.

A checkpoint is ``N.safetensors`` and ``N.json``. The JSON is written last; it has sha256 and length
of the tensors, and a sha256 of its own content. Neither file can execute code. Where the two do not
fit together, the checkpoint before them is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import safetensors
import safetensors.torch

from regraft.core.files import read_bounded, refuse_full_disk, write_atomic
from regraft.errors import DiskFullError, InputError, RunError
from regraft.finetune.paths import NAME, checkpoint_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

#: Raised where the rest of a training would not be as its start. 1: other batches and losses; 2:
#: class tokens and learnt positions decayed.
SCHEMA_VERSION = 3
_KEPT = 2  # checkpoints
_MAX_JSON = 64 * 2**20  # a history of 100,000 epochs
_MAX_TENSORS = 2**40


class _TensorsRecord(msgspec.Struct):
    """What a checkpoint's tensors must be."""

    sha256: str
    bytes: Annotated[int, msgspec.Meta(ge=0, le=_MAX_TENSORS)]


class _Record(msgspec.Struct):
    """The JSON of a checkpoint."""

    schema_version: int
    fingerprint: dict[str, Any]
    state: dict[str, Any]
    tensors: _TensorsRecord


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint: tensors by name, and a JSON-ready state."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


@dataclass
class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    folder: Path  # made by the first ``save``; other people's files in it are left alone
    fingerprint: Mapping[str, Any]  # settings, data, weights: other runs' checkpoints are refused
    #: Numbers of the checkpoints that ``save`` does not remove: written by it, or loaded.
    _kept_numbers: list[int] = field(default_factory=list, init=False)

    def load(self) -> tuple[Saved | None, list[str]]:
        """Return the newest whole checkpoint, and why newer ones were left out; None if none is.

        Raises RunError where all are damaged, or the newest whole one is of another run.
        """
        notes: list[str] = []
        with io_errors_as_run_errors(self.folder):
            numbers = checkpoint_numbers(self.folder)
        for number in reversed(numbers):
            try:
                record, saved = self._read(number)
            except InputError as error:
                notes.append(f"checkpoint {number} is passed over: {error.message}")
                continue
            self._refuse_other_run(record.fingerprint)
            self._kept_numbers = [number]
            return saved, notes
        if notes:
            raise RunError(
                f"{self.folder} holds no whole checkpoint: {'; '.join(notes)}",
                hint="`overwrite=True` starts from the beginning",
            )
        return None, notes

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Write a new checkpoint, then remove all but the last two.

        Tensors may be on any device. No two tensors may share memory. Raises DiskFullError, with
        path and bytes, or RunError where the folder cannot be written to; earlier checkpoints stay.
        """
        number = self._next_number()
        data = _tensors_as_bytes(tensors)
        self._write(number, data, self._record(data, state))
        self._kept_numbers = [*self._kept_numbers, number][-_KEPT:]
        with io_errors_as_run_errors(self.folder):
            self._remove_others()

    def remove(self) -> None:
        """Remove our files, and the folder where nothing else is in it."""
        self._kept_numbers = []
        with io_errors_as_run_errors(self.folder):
            self._remove_others()
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def require_space(self, needed: int) -> None:
        """Raise DiskFullError where checkpoints of ``needed`` bytes each cannot fit."""
        most = needed * (_KEPT + 1)  # the third is written before the first is removed
        with io_errors_as_run_errors(self.folder):
            refuse_full_disk(self.folder, most, f"checkpoints in {self.folder}")

    def _next_number(self) -> int:
        """Return the number of the next checkpoint; make the folder where there is none."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.folder} cannot be made: {error.strerror or error}") from error
        with io_errors_as_run_errors(self.folder):
            return max(checkpoint_numbers(self.folder), default=0) + 1

    def _record(self, data: bytes, state: Mapping[str, Any]) -> _Record:
        tensors = _TensorsRecord(hashlib.sha256(data).hexdigest(), len(data))
        return _Record(SCHEMA_VERSION, dict(self.fingerprint), dict(state), tensors)

    def _write(self, number: int, data: bytes, record: _Record) -> None:
        try:
            write_atomic(self._path(number, "safetensors"), data)
            # Last: tensors without it are no checkpoint.
            write_atomic(self._path(number, "json"), _sealed(record))
        except DiskFullError as error:
            with suppress(OSError):
                self._path(number, "safetensors").unlink(missing_ok=True)  # of no use alone
            hint = "free some space there; `resume=True` with the same settings then goes on"
            raise DiskFullError(error.message, hint=hint) from error
        except InputError as error:
            raise RunError(error.message) from error

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:08}.{suffix}"

    def _read(self, number: int) -> tuple[_Record, Saved]:
        record = _unsealed(read_bounded(self._path(number, "json"), _MAX_JSON))
        expected = record.tensors
        data = read_bounded(self._path(number, "safetensors"), expected.bytes)
        if (len(data), hashlib.sha256(data).hexdigest()) != (expected.bytes, expected.sha256):
            raise InputError("its tensors are not those that were saved (bytes or sha256 differ)")
        try:
            tensors = safetensors.torch.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"its tensors cannot be read: {error}") from error
        return record, Saved(tensors, record.state)

    def _refuse_other_run(self, found: Mapping[str, Any]) -> None:
        expected = json.loads(json.dumps(dict(self.fingerprint)))
        differing = [
            f"{name[:80]} was {str(found.get(name))[:80]} and is {str(expected.get(name))[:80]}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        if differing:
            raise RunError(
                f"{self.folder} belongs to another run: {'; '.join(differing)}",
                hint="`resume=True` with the same settings continues it; "
                "`overwrite=True` starts from the beginning",
            )

    def _remove_others(self) -> None:
        """Remove all checkpoints but those to keep, and files that a kill left half-written."""
        if not self.folder.is_dir():
            return
        # JSON first: a kill in between leaves tensors alone, and not a damaged checkpoint.
        for path in sorted(self.folder.iterdir(), key=lambda path: path.suffix != ".json"):
            match = NAME.fullmatch(path.name)
            half = re.fullmatch(r"\.\d{8}\.(json|safetensors)\.[0-9a-f]+\.tmp", path.name)
            if half or (match and int(match[1]) not in self._kept_numbers):
                path.unlink(missing_ok=True)


class NoCheckpoints(Checkpoints):
    """Saves nothing: for all processes but the first, which has the same state."""

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Do nothing."""

    def require_space(self, needed: int) -> None:
        """Do nothing."""


@contextmanager
def io_errors_as_run_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into one RunError with what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder} cannot be used: {error.strerror or error}",
            hint="what was saved stays there: `resume=True` with the same settings goes on from it",
        ) from error


def _tensors_as_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )


def _sealed(record: _Record) -> bytes:
    content = msgspec.structs.asdict(record) | {"tensors": msgspec.structs.asdict(record.tensors)}
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)  # rows keep their columns' order
    seal = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"sha256": seal, "content": text}).encode()


def _unsealed(data: bytes) -> _Record:
    """Return the content of a JSON file, unchanged since it was written; else raise InputError."""
    try:
        outer = json.loads(data)
        text = outer["content"]
        if hashlib.sha256(text.encode()).hexdigest() != outer["sha256"]:
            raise InputError("its state is not what was saved (sha256 differs)")
        content = json.loads(text)
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"it has schema version {str(version)[:80]}; this regraft reads {SCHEMA_VERSION}"
            )
        return msgspec.convert(content, _Record)
    # msgspec's errors are ValueErrors.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"its state cannot be read: {error}") from error
