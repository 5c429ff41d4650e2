"""The predictor: answers for images from a bundle alone, computed as in training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, overload

import numpy as np
import torch

from regraft.bundle.answering import Answering
from regraft.bundle.exported import ExportedPredictor
from regraft.bundle.format import read_bundle
from regraft.bundle.golden import check_golden
from regraft.core.notebook import html_table
from regraft.core.text import counted, listed
from regraft.decision.levels import LevelChoices, levels_with
from regraft.errors import BundleError, ConfigError, ImageError
from regraft.features.compute import choose_compute, images_at_once
from regraft.features.reader import FeatureReader
from regraft.images.ahead import render_all_ahead
from regraft.images.augment import render_views

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from regraft.bundle.prediction import Prediction
    from regraft.config.train_config import Precision
    from regraft.data.samples import Source
    from regraft.decision.policy import Decisions, Levels, Rules
    from regraft.features.compute import Compute
    from regraft.model import Model


class Predictor(Answering):
    """A trained classifier that is ready to run; ``Predictor.load`` returns one.

    Attributes
    ----------
    classes : tuple of str
        In the order of ``Prediction.probabilities``.
    model : Model
        Networks, head and temperature, as in the bundle.
    compute : Compute
        Device and precision of the forward pass.
    decisions : Decisions, optional
        What the bundle keeps to decide at any level; None if it has nothing of this.

    Examples
    --------
    ::

        predictor = regraft.Predictor.load("regraft-runs/flowers")
        predictor.predict("photo.jpg").label
    """

    def __init__(
        self, model: Model, reader: FeatureReader, decisions: Decisions | None = None
    ) -> None:
        self.model = model
        self.decisions = decisions
        self.classes = model.classes
        self.compute = reader.compute
        self._reader = reader
        self._batch_size = reader.compute.batch_size
        self._rules: dict[Levels, Rules] = {}

    @classmethod
    def of(cls, model: Model, compute: Compute, decisions: Decisions | None = None) -> Predictor:
        """Return the predictor of a model in memory."""
        return cls(model, FeatureReader(model.networks, model.blocks, compute), decisions)

    def __repr__(self) -> str:
        classes = f"{counted(len(self.classes), 'class', 'classes')}: {listed(self.classes, 5)}"
        networks = [f"{each.name} at {each.preprocess.image_size}" for each in self.model.networks]
        return f"Predictor({classes}; {' + '.join(networks)} pixels)"

    def _repr_html_(self) -> str:
        model, compute = self.model, self.compute
        blocks = listed([str(block) for block in model.blocks], 8)
        rows = [
            (counted(len(self.classes), "class", "classes"), listed(self.classes, 20)),
            *(("network", f"{each.name}, weights {each.weights}") for each in model.networks),
            *(("image size", f"{each.preprocess.image_size} pixels") for each in model.networks),
            ("features", blocks),
            ("head", f"{model.head.kind}, temperature {model.temperature:.3g}"),
            ("computes on", f"{compute.device} in {compute.precision}"),
        ]
        return html_table("regraft.Predictor", rows, "predict(image), predict_many(images)")

    @overload
    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 16,
        engine: Literal["torch"] = "torch",
    ) -> Predictor: ...

    @overload
    @classmethod
    def load(
        cls, path: str | Path, *, batch_size: int = 16, engine: Literal["onnx"]
    ) -> ExportedPredictor: ...

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 16,
        engine: Literal["torch", "onnx"] = "torch",
    ) -> Predictor | ExportedPredictor:
        """Load a bundle, and check by its golden images that its answers are the same here.

        Parameters
        ----------
        path : str or Path
            The run folder, or the bundle in it.
        device : str
            "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision : str
            "auto" (as in training, if this machine can), "bfloat16" or "float32".
        batch_size : int
            Images in one forward pass, at least 1.
        engine : "torch" or "onnx"
            What computes: torch, or onnxruntime from the files that ``regraft export`` has written
            into the run; these compute on the processor, and their levels are fixed.

        Returns
        -------
        Predictor
            ``ExportedPredictor`` for engine "onnx"; it answers in the same way.

        Raises
        ------
        BundleError
            The bundle is damaged or incomplete, or this machine gives other answers.
        ConfigError
            The device is not in this machine, or another setting cannot be used.
        """
        if engine == "onnx":
            return ExportedPredictor.load(path, batch_size=batch_size)
        if engine != "torch":
            raise ConfigError(f"engine is {engine!r}; it must be torch or onnx")
        if batch_size < 1 or precision not in {"auto", "bfloat16", "float32"}:
            raise ConfigError(
                f"batch size {batch_size} and precision {precision} cannot be used",
                hint="a batch has at least 1 image; a precision is auto, bfloat16 or float32",
            )
        bundle = read_bundle(Path(path))
        model = bundle.model
        if precision == "auto" and bundle.manifest.compute.get("precision") == "float32":
            precision = "float32"  # as in training, though bfloat16 may be faster here
        largest = max(network.preprocess.image_size for network in model.networks)
        compute = choose_compute(device, precision, images_at_once(batch_size, largest))
        reader = FeatureReader(model.networks, model.blocks, compute)
        try:
            check_golden(bundle, reader)
        except (ValueError, IndexError, RuntimeError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            what = f"{path}: the network does not run on the golden images: {reason}"
            raise BundleError(what) from error
        return cls(model, reader, bundle.decisions)

    def rules(self, **levels: Unpack[LevelChoices]) -> Rules | None:
        """Return the thresholds that are used; None if the bundle tells nothing of this.

        Parameters
        ----------
        **levels
            As for ``predict``.

        Returns
        -------
        Rules or None
            With ``notes``: what could not be had, and why.
        """
        if self.decisions is None:
            if levels:
                raise ConfigError(
                    f"{next(iter(levels))} needs a bundle that keeps decisions, and this has none",
                    hint="train again: bundles of this version keep them",
                )
            return None
        asked = levels_with(self.decisions.levels, self.classes, levels)
        rules = self._rules.get(asked)  # another thread may replace them meanwhile
        if rules is None:
            rules = self.decisions.rules(len(self.classes), asked)
            self._rules = {asked: rules}  # the last alone
        return rules

    @property
    def max_pixels(self) -> int:
        """Return the largest height times width of an image."""
        return self.model.max_pixels

    def limit_pixels(self, max_pixels: int) -> None:
        """Refuse larger images from now on, whatever the training refused."""
        self.model = dataclasses.replace(self.model, max_pixels=max_pixels)

    def read(
        self, rendered: Sequence[torch.Tensor]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the features that the head reads (N, D), and the pooled ones of the first network.

        ``rendered`` has the same N images for each network, as ``render_views`` makes them.
        """
        return self._reader(rendered)

    def _squares(self, pixels: NDArray[np.uint8]) -> tuple[torch.Tensor, ...]:
        return tuple(render_views(pixels, each.preprocess) for each in self.model.networks)

    def _render_ahead(
        self, source: Source, workers: int, losses: dict[int, tuple[str, ...]]
    ) -> Iterator[tuple[int, tuple[torch.Tensor, ...] | ImageError]]:
        return render_all_ahead(
            source.stream(range(len(source.entries))),
            [network.preprocess for network in self.model.networks],
            workers,
            self.max_pixels,
            losses=losses,
        )

    def _predictions(
        self, images: Sequence[tuple[torch.Tensor, ...]], top_k: int, rules: Rules | None
    ) -> Iterator[Prediction | None]:
        """Yield the answer for each image, without its id; None if it is not finite."""
        features, pooled = self._reader([torch.stack(each) for each in zip(*images, strict=True)])
        logits = self.model.logits(features)  # (N, K)
        probabilities = self.model.calibrated(logits)
        numbers = np.hstack([features, probabilities, pooled, logits])
        finite = np.array([bool(np.isfinite(row).all()) for row in numbers])  # (N,)
        decided = None
        if rules is not None:
            usable = [np.where(finite[:, None], x, 0) for x in (probabilities, pooled, logits)]
            decided = rules.decide(*usable)
        for k, p in enumerate(probabilities):
            if not finite[k]:
                yield None
                continue
            found = dataclasses.replace(self._prediction(p, top_k), pooled=pooled[k])
            if rules is None or decided is None:
                yield found
            else:
                by_costs = rules.costs is not None
                yield dataclasses.replace(self._decided(found, decided, k), by_costs=by_costs)
