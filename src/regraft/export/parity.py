"""The proof that exported files answer as the bundle does: on images, in a process of its own."""

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

from regraft.core.version import __version__
from regraft.errors import ExportError, ImageError
from regraft.evaluation.paired import compare_pairs
from regraft.images.augment import render_views
from regraft.images.decode import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from regraft.bundle.predictor import Predictor
    from regraft.decision.policy import Rules
    from regraft.export.options import Weights

#: Largest difference of a probability that is allowed, by how the weights are stored.
TOLERANCE: dict[Weights, float] = {"float32": 5e-4, "float16": 0.02, "int8": 1.0}
#: The same for a graph that resizes in other integers, which moves a square by up to 2 of 255.
RESIZED_TOLERANCE = 0.02
#: Least share of images with the same label.
SAME_LABELS: dict[Weights, float] = {"float32": 1.0, "float16": 0.999, "int8": 0.99}
#: Most accuracy that smaller weights may cost, where so much can be told from nothing.
MOST_LOST = 0.01
_BATCH = 16  # images that are asked about at once
_NAMED = 20  # images in the record
_DECIDED = ("decision", "set", "unknown", "abstained")


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


def judge(found: Compared, rules: Rules | None, weights: Weights) -> dict[str, Any]:
    """Return the record of a comparison, ready for JSON; ``fault`` says why it is no proof."""
    n = len(found.ids)
    record: dict[str, Any] = {
        "schema_version": 1,
        "regraft": __version__,
        "torch": str(torch.__version__),
        "runtime": found.runtime,
        "compared_with": "the bundle in float32",
        "weights": weights,
        "n": n,
        "refused": dict(list(found.refused.items())[:_NAMED]),
        "n_refused": len(found.refused),
        "pixels_differ": found.pixels_differ[:_NAMED],
        "n_pixels_differ": len(found.pixels_differ),
        "tolerance": TOLERANCE[weights],
    }
    if not n:
        return record | {"fault": "no image could be compared"}
    ours, theirs = found.both("probabilities")
    differences = np.abs(ours - theirs).max(1)  # (n,)
    record |= {"largest": float(differences.max()), "mean": float(np.abs(ours - theirs).mean())}
    two = np.sort(ours, axis=1)[:, -2:]
    margins = two[:, 1] - two[:, 0]  # (n,)
    other = ours.argmax(1) != theirs.argmax(1)
    tied = margins <= 2 * TOLERANCE["float32"]
    record["labels"] = {
        "differ": int(other.sum()),
        "outside_ties": int((other & ~tied).sum()),
        "images": [
            {"id": found.ids[k], "margin": float(margins[k])}
            for k in np.flatnonzero(other)[:_NAMED]
        ],
    }
    record["decisions"] = _decisions(found, rules)
    record["accuracy"] = _accuracy(found, ours, theirs)
    record["with_resize"] = _resized(found, theirs)
    record["stages"] = _stages(found)
    record["fault"] = _fault(record, weights)
    return record


def _decisions(found: Compared, rules: Rules | None) -> dict[str, Any] | None:
    """Return how many decisions differ, and how many of these are no close calls."""
    if rules is None:
        return None
    differ = np.zeros(len(found.ids), bool)
    counts = {}
    for name in _DECIDED:
        if found.has(name):
            both = found.both(name)
            unequal = (both[0] != both[1]).reshape(len(differ), -1).any(1)
            counts[name] = int(unequal.sum())
            differ |= unequal
    close = _close_calls(found, rules)
    record = {"differ": counts, "outside_ties": int((differ & ~close).sum())}
    if found.has("typicality"):
        ours, theirs = found.both("typicality")
        record["typicality_largest"] = float(np.abs(ours - theirs).max())
    return record


def _close_calls(found: Compared, rules: Rules) -> NDArray[np.bool_]:
    """Return which images (n,) are so near a threshold that rounding decides."""
    allowed = TOLERANCE["float32"]
    ours, _ = found.both("probabilities")
    two = np.sort(ours, axis=1)[:, -2:]
    nearest = np.abs(ours - rules.sets.thresholds).min(1)
    close: NDArray[np.bool_] = nearest <= allowed
    close |= two[:, 1] - two[:, 0] <= 2 * allowed
    if rules.level is not None and rules.typicality is not None:
        near = 2 / (len(rules.typicality.scores) + 1)
        close |= np.abs(found.both("typicality")[0] - rules.level) <= near
    if rules.promise is not None and rules.promise.threshold is not None:
        close |= np.abs(rules.confidence(ours) - rules.promise.threshold) <= allowed
    if rules.costs is not None:
        expected = np.sort(rules.expected_costs(ours), axis=1)
        most = float(rules.costs.table.max())
        close |= expected[:, 1] - expected[:, 0] <= 2 * allowed * max(most, 1e-12) * ours.shape[1]
    return close


def _resized(found: Compared, theirs: NDArray[np.float32]) -> dict[str, Any] | None:
    """Return how the file that resizes by itself differs from the one that is given squares."""
    if "resized" not in found.theirs[0]:
        return None
    resized = np.concatenate([each["resized"] for each in found.theirs])
    return {
        "largest": float(np.abs(resized - theirs).max()),
        "labels_differ": int((resized.argmax(1) != theirs.argmax(1)).sum()),
        "tolerance": RESIZED_TOLERANCE,
    }


def _accuracy(
    found: Compared, ours: NDArray[np.float32], theirs: NDArray[np.float32]
) -> dict[str, Any] | None:
    """Return both accuracies and their paired difference, where labels are known."""
    labels = np.array(found.labels)
    known = labels >= 0
    if not known.any():
        return None
    right = np.stack([rows.argmax(1)[known] == labels[known] for rows in (theirs, ours)])
    (pair,) = compare_pairs(right)
    return {
        "n": int(known.sum()),
        "bundle": float(right[1].mean()),
        "exported": float(right[0].mean()),
        "difference": pair.value,
        "low": pair.low,
        "high": pair.high,
    }


def _stages(found: Compared) -> dict[str, float | int]:
    """Return the largest difference after each stage, the first ones first."""
    stages: dict[str, float | int] = {"pixels": len(found.pixels_differ)}
    for name in ("features", "logits", "probabilities"):
        ours, theirs = found.both(name)
        stages[name] = float(np.abs(ours - theirs).max())
    return stages


def _fault(record: dict[str, Any], weights: Weights) -> str | None:
    """Return why the exported files do not answer as the bundle does; None if they do."""
    checks = (_fault_of_probabilities, _fault_of_labels, _fault_of_accuracy)
    return next((fault for check in checks if (fault := check(record, weights))), None)


def _fault_of_probabilities(record: dict[str, Any], weights: Weights) -> str | None:
    largest, resized = record["largest"], record["with_resize"]
    if not largest <= TOLERANCE[weights]:
        return f"a probability differs by {largest:.2g}; {TOLERANCE[weights]:g} is allowed"
    if resized and not resized["largest"] <= RESIZED_TOLERANCE:
        return (
            f"with resizing in the graph a probability differs by {resized['largest']:.2g}; "
            f"{RESIZED_TOLERANCE:g} is allowed"
        )
    return None


def _fault_of_labels(record: dict[str, Any], weights: Weights) -> str | None:
    n, labels, decisions = record["n"], record["labels"], record["decisions"]
    same = 1 - labels["outside_ties" if weights == "float32" else "differ"] / n
    # Of few images, one other label may be more than the share that is allowed.
    if labels["differ"] > 1 and same < SAME_LABELS[weights]:
        share = f"{SAME_LABELS[weights]:.1%}"
        return f"{labels['differ']:,} of {n:,} labels differ; {share} must be the same"
    if weights == "float32" and labels["outside_ties"]:
        return f"{labels['outside_ties']:,} of {n:,} labels differ, and are no ties"
    if weights == "float32" and decisions and decisions["outside_ties"]:
        return f"decisions about {decisions['outside_ties']:,} of {n:,} images differ"
    return None


def _fault_of_accuracy(record: dict[str, Any], _weights: Weights) -> str | None:
    accuracy = record["accuracy"]
    if not accuracy or -accuracy["difference"] <= MOST_LOST or accuracy["high"] >= 0:
        return None
    lost = [-accuracy[name] for name in ("difference", "high", "low")]
    return (
        "the accuracy is {:.3f} lower (95 %: {:.3f} to {:.3f}); ".format(*lost)
        + f"{MOST_LOST:g} is allowed"
    )


def where(record: dict[str, Any]) -> str:
    """Return in words at which stage a difference arises."""
    stages = record.get("stages")
    if not stages:
        return "nothing could be compared"
    if stages["pixels"]:
        return (
            f"it arises in the pixels: {stages['pixels']:,} images are decoded or resized otherwise"
        )
    if stages["features"] > 0.05:
        return f"it arises in the features, which differ by up to {stages['features']:.2g}"
    if stages["logits"] > 0.01:
        return f"it arises in the head, whose logits differ by up to {stages['logits']:.2g}"
    return "it arises in the decisions: pixels, features and logits are the same"
