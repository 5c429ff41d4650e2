"""The predictor of exported files: onnxruntime computes, and torch is never imported."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

import msgspec
import numpy as np
from msgspec import Meta

from regraft.backbones.sums import MOST_NETWORKS
from regraft.bundle.answering import Answering
from regraft.core.files import read_bounded
from regraft.core.text import counted, listed
from regraft.decision.costs import ABSTAINED, IS_UNKNOWN
from regraft.errors import BundleError, ConfigError, ImageError, MissingExtraError, RegraftError
from regraft.images.ahead import ahead, read_checked
from regraft.images.decode import decode, inspect_header
from regraft.images.losses import losses_of
from regraft.standalone.preprocess import render_views
from regraft.task import MOST_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from regraft.bundle.prediction import Prediction
    from regraft.data.samples import Source
    from regraft.decision.levels import LevelChoices
    from regraft.decision.policy import Rules

META = "meta.json"
SCHEMA_VERSION = 1
_MOST_META = 64 * 2**20
_MOST_MODEL = 8 * 2**30


class _Version(msgspec.Struct):
    schema_version: int


class _Input(msgspec.Struct):
    """How an image becomes the input of one network, for ``standalone.preprocess``."""

    name: str
    image_size: Annotated[int, Meta(ge=1, le=4096)]
    resize_size: Annotated[int, Meta(ge=1, le=40_960)]
    interpolation: Literal["bilinear", "bicubic"]
    draws: Annotated[list[dict[str, list[float]] | None], Meta(max_length=16)]


class _Model(msgspec.Struct):
    file: Annotated[str, Meta(pattern=r"^[a-z\-]{1,40}\.onnx\Z")]
    sha256: str
    weights: Literal["float32", "float16", "int8"]


class _Golden(msgspec.Struct):
    file: Annotated[str, Meta(pattern=r"^golden/[a-z0-9\-]{1,40}\.(png|jpg)\Z")]
    probabilities: list[float]


class _Network(msgspec.Struct):
    name: str


class _Decisions(msgspec.Struct):
    costs: list[str] | None


class _Meta(msgspec.Struct):
    """The fields of meta.json that are used; it has others, for programs and for people."""

    classes: Annotated[list[str], Meta(min_length=1, max_length=MOST_CLASSES)]
    model: _Model
    inputs: Annotated[list[_Input], Meta(min_length=1, max_length=MOST_NETWORKS)]
    max_pixels: Annotated[int, Meta(ge=1, le=2**31)]
    networks: list[_Network]
    decisions: _Decisions | None
    golden: Annotated[list[_Golden], Meta(min_length=1, max_length=16)]
    golden_tolerance: Annotated[float, Meta(ge=0, le=0.1)]


class ExportedPredictor(Answering):
    """A classifier that ``regraft export`` wrote, ready to run; ``load`` returns one.

    It answers as ``Predictor`` does. Its levels are those of the export: they are in the graph.

    Attributes
    ----------
    classes : tuple of str
        In the order of ``Prediction.probabilities``.
    meta : dict
        What meta.json says.

    Examples
    --------
    ::

        predictor = ExportedPredictor.load("regraft-runs/flowers")
        predictor.predict("photo.jpg").label
    """

    def __init__(self, meta: dict[str, Any], session: Any, batch_size: int = 16) -> None:
        self.meta = meta
        self.classes = tuple(meta["classes"])
        self.decisions = None  # they are inside the graph
        self._session = session
        self._batch_size = batch_size
        self._outputs = [each.name for each in session.get_outputs()]

    def __repr__(self) -> str:
        names = " + ".join(each["name"] for each in self.meta["networks"])
        classes = f"{counted(len(self.classes), 'class', 'classes')}: {listed(self.classes, 5)}"
        return f"ExportedPredictor({classes}; {names}, {self.meta['model']['weights']} weights)"

    @classmethod
    def load(cls, path: str | Path, *, batch_size: int = 16, threads: int = 0) -> ExportedPredictor:
        """Load exported files, and check that they answer for a golden image as they should.

        Parameters
        ----------
        path : str or Path
            The exported folder, or the run folder in which it is, as export/onnx.
        batch_size : int
            Images in one pass, at least 1.
        threads : int
            Threads of the runtime; 0 is one per core.

        Returns
        -------
        ExportedPredictor

        Raises
        ------
        BundleError
            There is no export, it is damaged, or it gives other answers here.
        MissingExtraError
            onnxruntime is not installed.
        """
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size} cannot be used", hint="at least 1 image")
        folder = _folder(Path(path))
        meta = _read_meta(folder)
        found = cls(meta, _session(folder, meta, threads), batch_size)
        try:
            found._check_golden(folder)
        except RegraftError:
            raise
        except Exception as error:  # those of onnxruntime have no class in common
            what = f"{folder}: {META} and the model do not belong together: {str(error)[:200]}"
            raise BundleError(what) from error
        return found

    @property
    def max_pixels(self) -> int:
        """Return the largest height times width of an image."""
        return int(self.meta["max_pixels"])

    def limit_pixels(self, max_pixels: int) -> None:
        """Refuse larger images from now on, whatever the training refused."""
        self.meta = {**self.meta, "max_pixels": max_pixels}

    def rules(self, **levels: Unpack[LevelChoices]) -> Rules | None:
        """Return None: the thresholds are inside the exported file.

        Raises
        ------
        ConfigError
            Another level is asked for.
        """
        if levels:
            name = next(iter(levels))
            raise ConfigError(
                f"{name} is fixed in an exported file",
                hint="export again with the level that you want, or use engine torch",
            )
        return None

    def _squares(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
        return tuple(render_views(pixels, each) for each in self.meta["inputs"])

    def _render_ahead(
        self, source: Source, workers: int, losses: dict[int, tuple[str, ...]]
    ) -> Iterator[tuple[int, tuple[NDArray[np.uint8], ...] | ImageError]]:
        def render_one(item: tuple[int, Any]) -> tuple[int, Any]:
            index, load = item
            try:
                payload = read_checked(load, None)
                pixels = decode(payload, self.max_pixels)
                losses[index] = losses_of(inspect_header(payload, self.max_pixels), pixels)
                return index, self._squares(pixels)
            except ImageError as error:
                return index, error.with_traceback(None)

        stream = source.stream(range(len(source.entries)))
        return ahead(render_one, stream, workers, 2 * workers + 32)

    def _predictions(
        self, images: Sequence[tuple[NDArray[np.uint8], ...]], top_k: int, rules: Rules | None
    ) -> Iterator[Prediction | None]:
        """Yield the answer for each image, without its id; None if it is not finite."""
        del rules  # they are inside the graph
        found = self._run([np.stack(each) for each in zip(*images, strict=True)])
        for k, p in enumerate(found["probabilities"]):
            row = {name: rows[k] for name, rows in found.items()}
            if not all(np.isfinite(row[name]).all() for name in ("features", "logits")):
                yield None
            else:
                yield self._described(self._prediction(p, top_k), row)

    def _run(self, inputs: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
        names = [each["name"] for each in self.meta["inputs"]]
        outputs = self._session.run(None, dict(zip(names, inputs, strict=True)))
        return dict(zip(self._outputs, outputs, strict=True))

    def _described(self, found: Prediction, row: dict[str, NDArray[Any]]) -> Prediction:
        """Return an answer with what the graph has decided."""
        if "decision" not in row:
            return found
        inside = [k for k in np.argsort(-found.probabilities, kind="stable") if row["set"][k]]
        action = int(row["decision"])
        others = {ABSTAINED: "abstain", IS_UNKNOWN: "unknown"}
        levels = self.meta["decisions"] or {}
        decided = {
            name: row[name].item() for name in ("typicality", "unknown", "abstained") if name in row
        }
        return dataclasses.replace(
            found,
            **decided,
            set=tuple(self.classes[k] for k in inside),
            decision=others[action] if action < 0 else self.classes[action],
            by_costs=levels.get("costs") is not None,
        )

    def _check_golden(self, folder: Path) -> None:
        """Check that this machine answers for the first golden image as the exporting one did."""
        golden = self.meta["golden"][0]
        data = read_bounded(folder / golden["file"], 4 * 2**20)
        squares = self._squares(decode(data, 10**6))
        expected = np.array(golden["probabilities"], np.float32)
        here = self._run([each[None] for each in squares])["probabilities"][0]
        difference = float(np.abs(here - expected).max()) if here.shape == expected.shape else 1.0
        if not difference <= self.meta["golden_tolerance"]:
            raise BundleError(
                f"{folder / golden['file']}: a probability differs by {difference:.2g} when it is "
                f"computed here; {self.meta['golden_tolerance']:g} is allowed",
                hint="export again on this machine, or use engine torch",
            )


def _folder(path: Path) -> Path:
    """Return the folder with the exported files: the given one, or the usual one in a run."""
    inside = path / "export" / "onnx"
    folder = path if (path / META).is_file() else inside
    if not (folder / META).is_file():
        raise BundleError(
            f"{path} has no exported files", hint=f"regraft export {path} writes them"
        )
    return folder


def _read_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json, and check each field that is used."""
    data = read_bounded(folder / META, _MOST_META)
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{folder / META} has schema version {version}; this regraft reads "
                f"{SCHEMA_VERSION}",
                hint="export the run again",
            )
        msgspec.json.decode(data, type=_Meta)
        meta: dict[str, Any] = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{folder / META}: {str(error)[:200]}") from error
    return meta


def _session(folder: Path, meta: dict[str, Any], threads: int) -> Any:
    """Return a session of onnxruntime for a file whose hash is as it should be."""
    path = folder / meta["model"]["file"]
    data = read_bounded(path, _MOST_MODEL)
    if hashlib.sha256(data).hexdigest() != meta["model"]["sha256"]:
        raise BundleError(f"{path} is damaged or altered: its hash is not that of {META}")
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; what it warns of is its own optimisation
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise BundleError(f"{path}: onnxruntime cannot read it: {reason}") from error


@functools.cache
def _onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx", "engine onnx") from None
    return onnxruntime
