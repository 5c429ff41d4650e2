"""Ask the bundle and exported files about the same images, these in a process of their own."""

from __future__ import annotations

import hashlib
import io
import itertools
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import metadata
from importlib.resources import as_file, files
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from regraft.errors import ExportError, ImageError
from regraft.images.augment import render_views
from regraft.images.decode import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from regraft.bundle.predictor import Predictor
    from regraft.decision.policy import Rules

_BATCH = 16  # images that are asked about at once

Outputs: TypeAlias = "dict[str, NDArray[Any]]"


class Proof(NamedTuple):
    """An image of the proof: its name, its encoded bytes, and its true class if that is known."""

    id: str
    data: bytes
    label: int | None


@dataclass
class Compared:
    """What the bundle and the exported files answered about the same images."""

    ids: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)  # -1 where it is not known
    ours: list[Outputs] = field(default_factory=list)  # batch after batch
    theirs: list[Outputs] = field(default_factory=list)
    pixels_differ: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # by the exported files alone
    runtime: str = ""

    def both(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return one output (n, ...) of the bundle, and of the exported files."""
        ours, theirs = ([each[name] for each in some] for some in (self.ours, self.theirs))
        return np.concatenate(ours), np.concatenate(theirs)

    def has(self, name: str) -> bool:
        """Return whether both have an output of some name."""
        return name in self.ours[0] and name in self.theirs[0]


def compare(
    folder: Path,
    predictor: Predictor,
    rules: Rules | None,
    images: Iterable[Proof],
    advance: Callable[[int], None],
) -> Compared:
    """Ask the bundle, in float32, and the exported files in a folder about the same images."""
    found, each = Compared(runtime=f"onnxruntime {onnxruntime_version()}"), iter(images)
    with _Answering(folder) as other:
        while batch := list(itertools.islice(each, _BATCH)):
            other.ask([image.data for image in batch])  # both compute at the same time
            rendered = [_rendered(predictor, image.data) for image in batch]
            ours = _answers(predictor, rules, rendered)
            _record(found, batch, ours, other.answer())
            advance(len(batch))
    return found


def onnxruntime_version() -> str:
    """Return the version of the runtime that answers."""
    return metadata.version("onnxruntime")


def _rendered(predictor: Predictor, data: bytes) -> list[torch.Tensor] | None:
    """Return an image as the input of each network; None if the bundle refuses it."""
    try:
        pixels = decode(data, predictor.max_pixels)
    except ImageError:
        return None
    networks = predictor.model.networks
    return [render_views(pixels, each.preprocess).contiguous() for each in networks]


def _answers(
    predictor: Predictor, rules: Rules | None, rendered: Sequence[list[torch.Tensor] | None]
) -> Outputs:
    """Return the bundle's outputs for the images that it reads, by the names of the graph's."""
    kept = np.array([each is not None for each in rendered])
    some = [each for each in rendered if each is not None]
    if not some:
        return {"kept": kept}
    features, pooled = predictor.read([torch.stack(each) for each in zip(*some, strict=True)])
    logits = predictor.model.logits(features)
    answers: Outputs = {
        "kept": kept,
        "pixels": np.array([[_hash(each) for each in one] for one in some]),
        "features": features,
        "logits": logits,
        "probabilities": predictor.model.calibrated(logits),
    }
    if rules is not None:
        decided = rules.decide(answers["probabilities"], pooled, logits)
        named = {
            "decision": decided.actions, "set": decided.sets, "typicality": decided.p_values,
            "unknown": decided.unknown, "abstained": decided.abstained,
        }  # fmt: skip
        answers |= {name: rows for name, rows in named.items() if rows is not None}
    return answers


def _hash(square: torch.Tensor) -> str:
    return hashlib.sha256(square.numpy().tobytes()).hexdigest()


def _record(found: Compared, batch: Sequence[Proof], ours: Outputs, theirs: Outputs) -> None:
    """Take over the answers for images that both can read, and that have finite features."""
    errors: list[str] = theirs.pop("errors").tolist()
    read_by_us: NDArray[np.bool_] = ours.pop("kept")
    read_by_them: NDArray[np.bool_] = np.array([not error for error in errors])
    for image, one, error in zip(batch, read_by_us, errors, strict=True):
        if one and error:
            found.refused[image.id] = str(error)
    both: NDArray[np.bool_] = read_by_us & read_by_them
    if not both.any():
        return
    ours = {name: rows[both[read_by_us]] for name, rows in ours.items()}
    theirs = {name: rows[both[read_by_them]] for name, rows in theirs.items()}
    numbers = np.hstack([ours["features"], ours["logits"]])
    finite = np.array([bool(np.isfinite(row).all()) for row in numbers])
    images = [image for image, one in zip(batch, both, strict=True) if one]
    images = [image for image, one in zip(images, finite, strict=True) if one]
    if not images:
        return
    found.ours.append({name: rows[finite] for name, rows in ours.items()})
    found.theirs.append({name: rows[finite] for name, rows in theirs.items()})
    differ = (found.ours[-1]["pixels"] != found.theirs[-1]["pixels"]).any(1)
    found.pixels_differ += [each.id for each, one in zip(images, differ, strict=True) if one]
    found.ids += [image.id for image in images]
    found.labels += [-1 if image.label is None else image.label for image in images]


class _Answering:
    """A process that imports nothing but the exported files, and answers for images in turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        source = files("regraft.standalone") / "answer_frames.py"
        script = self._stack.enter_context(as_file(source))
        # Messages go into a file: a pipe that nobody empties would stop the process.
        self._errors = self._stack.enter_context(tempfile.TemporaryFile())
        command = [sys.executable, "-IB", str(script), str(self._folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 - our own script and the folder just written
            command, stdin=pipe, stdout=pipe, stderr=self._errors
        )
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if kind is not None:
            self._process.kill()
        with suppress(OSError):  # it has ended, and an image was on its way
            self._process.communicate()
        self._stack.close()

    def ask(self, images: Sequence[bytes]) -> None:
        """Send encoded images; the answers must be taken before the next are sent."""
        sizes = [len(images), *map(len, images)]
        number, *each = (size.to_bytes(8, "little") for size in sizes)
        try:
            self._stream("stdin").write(number)
            for size, data in zip(each, images, strict=True):
                self._stream("stdin").write(size + data)
            self._stream("stdin").flush()
        except OSError:
            raise self._failed() from None

    def answer(self) -> Outputs:
        """Return the outputs for the images that were sent last."""
        head = self._stream("stdout").read(8)
        content = self._stream("stdout").read(int.from_bytes(head, "little"))
        if len(head) < 8 or not content:
            raise self._failed()
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return dict(found)

    def _stream(self, name: Literal["stdin", "stdout"]) -> IO[bytes]:
        stream: IO[bytes] = getattr(self._process, name)
        return stream

    def _failed(self) -> ExportError:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        last = self._errors.read(100_000).decode(errors="replace").strip().rpartition("\n")[2]
        return ExportError(f"the exported files do not run: {last[:300] or 'no message'}")
