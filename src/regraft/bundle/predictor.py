"""The predictor: answers for images from a bundle alone, computed as in training."""

from __future__ import annotations

import dataclasses
import itertools
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import numpy as np
import torch

from regraft.bundle.format import read_bundle
from regraft.bundle.golden import check_golden
from regraft.bundle.prediction import Prediction
from regraft.core.notebook import html_table
from regraft.core.text import counted, listed
from regraft.data.sources.given import images_of, is_one_image, payload_of
from regraft.decision.levels import LevelChoices, levels_with
from regraft.decision.policy import ABSTAINED, IS_UNKNOWN
from regraft.errors import BundleError, ConfigError, ImageError, InputError, LevelWarning
from regraft.features.compute import choose_compute, images_at_once
from regraft.features.extract import NOT_FINITE
from regraft.features.reader import FeatureReader
from regraft.images.ahead import render_all_ahead
from regraft.images.augment import render_views
from regraft.images.decode import decode, inspect_header
from regraft.images.losses import losses_of
from regraft.images.pixels import is_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from regraft.config.train_config import Precision
    from regraft.data.samples import Source
    from regraft.data.sources.given import ImageLike
    from regraft.decision.policy import Decided, Decisions, Levels, Rules
    from regraft.features.compute import Compute
    from regraft.model import Model


#: An image's id, its tensor for each network or an error, and what decoding left out.
_Rendered: TypeAlias = tuple[str, tuple[torch.Tensor, ...] | ImageError, tuple[str, ...]]


class Predictor:
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

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 16,
    ) -> Predictor:
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

        Returns
        -------
        Predictor

        Raises
        ------
        BundleError
            The bundle is damaged or incomplete, or this machine gives other answers.
        ConfigError
            The device is not in this machine, or another setting cannot be used.
        """
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

    def predict(
        self, image: ImageLike, top_k: int = 5, **levels: Unpack[LevelChoices]
    ) -> Prediction:
        """Return the answer for one image.

        Parameters
        ----------
        image : bytes, str, Path, file, PIL image, array or tensor
            Encoded bytes, a path, a file opened in binary mode (also ``BytesIO``), or pixels: an
            array (H, W) or (H, W, C), with C of 1, 3 or 4 (RGBA, composited on white), in uint8 or
            from 0 to 1 in floating point. A tensor may also be (C, H, W).
        top_k : int
            Number of classes in ``top``, at least 1.
        **levels
            ``unknown_level``, ``coverage``, ``coverage_by``, ``min_precision`` and ``costs``, as in
            docs/settings.md, instead of those of the training; None switches a precision or costs
            off, and ``costs`` may also be an array of shape (K, K). They need a bundle of format 3.

        Returns
        -------
        Prediction

        Raises
        ------
        ImageError
            The image cannot be read.
        ConfigError
            A level cannot be had.
        """
        (prediction,) = self.predict_many([image], top_k, **levels)
        error = prediction.error
        if error is not None and isinstance(image, str | os.PathLike):
            raise ImageError(error.kind, f"{os.fsdecode(image)}: {error.reason}") from error
        if error is not None and isinstance(image, list | tuple):
            raise ImageError(error.kind, f"{error.reason}; predict_many takes several") from error
        if error is not None:
            raise error
        return prediction

    def predict_many(
        self, images: Iterable[ImageLike], top_k: int = 5, **levels: Unpack[LevelChoices]
    ) -> list[Prediction]:
        """Return the answers for several images, each as for the image alone, within 1e-4.

        Parameters
        ----------
        images : iterable of images
            As for ``predict``, of any sizes, or an array of shape (N, H, W, C) or a tensor of N
            images. Give grey images in one array as ``list(array)``: the shape (N, H, W) may also
            be one image.
        top_k : int
            Number of classes in each ``top``, at least 1.
        **levels
            As for ``predict``.

        Returns
        -------
        list of Prediction
            In the same order, with ``id`` "0", "1", ... An image that cannot be read has ``error``,
            and None for its label.

        Raises
        ------
        InputError
            The argument is a single image, may be a single image, or contains no images.

        Warns
        -----
        LevelWarning
            A coverage or a precision that is given with the call cannot be had.
        """
        rendered = (
            (str(index), *self._render(image)) for index, image in enumerate(_several(images))
        )
        rules = self.rules(**levels)
        given = {name.removesuffix("_by") for name in levels}
        for name, reason in rules.missing.items() if rules else ():
            if name in given:
                warnings.warn(reason, LevelWarning, stacklevel=2)
        return list(self._answer(rendered, top_k, rules))

    def stream(
        self,
        source: Source,
        *,
        workers: int,
        top_k: int = 5,
        keep_pooled: bool = False,
        **levels: Unpack[LevelChoices],
    ) -> Iterator[Prediction]:
        """Yield the answers for all images of a source, in its order, with bounded memory.

        Parameters
        ----------
        source : Source
            From ``regraft.data.sources.registry.open_unlabelled`` or ``open_source``.
        workers : int
            Threads that read and decode.
        top_k : int
            Number of classes in ``top``, at least 1.
        keep_pooled : bool
            Whether answers have ``pooled``.
        **levels
            As for ``predict``.

        Yields
        ------
        Prediction
            With ``error`` if the image cannot be read.
        """
        model = self.model
        losses: dict[int, tuple[str, ...]] = {}
        rendered = render_all_ahead(
            source.stream(range(len(source.entries))),
            [network.preprocess for network in model.networks],
            workers,
            model.max_pixels,
            losses=losses,
        )
        named = (
            (source.entries[index].id, image, losses.pop(index, ())) for index, image in rendered
        )
        yield from self._answer(named, top_k, self.rules(**levels), keep_pooled=keep_pooled)

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

    def read(
        self, rendered: Sequence[torch.Tensor]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the features that the head reads (N, D), and the pooled ones of the first network.

        ``rendered`` has the same N images for each network, as ``render_views`` makes them.
        """
        return self._reader(rendered)

    def _render(
        self, image: ImageLike
    ) -> tuple[tuple[torch.Tensor, ...] | ImageError, tuple[str, ...]]:
        try:
            limit = self.model.max_pixels
            payload = payload_of(image, limit)
            pixels = decode(payload, limit)
            notes = losses_of(inspect_header(payload, limit), pixels)
            networks = self.model.networks
            return tuple(render_views(pixels, each.preprocess) for each in networks), notes
        except ImageError as error:
            return error, ()

    def _answer(
        self,
        rendered: Iterator[_Rendered],
        top_k: int,
        rules: Rules | None,
        *,
        keep_pooled: bool = False,
    ) -> Iterator[Prediction]:
        while batch := list(itertools.islice(rendered, self._reader.compute.batch_size)):
            images = [image for _, image, _ in batch if not isinstance(image, ImageError)]
            answers = iter(self._predictions(images, top_k, rules) if images else ())
            for name, image, notes in batch:
                if isinstance(image, ImageError):
                    yield Prediction(name, error=image)
                    continue
                found = next(answers)
                if found is None:  # a new error each time: a raised error keeps its traceback
                    error = ImageError(NOT_FINITE.kind, NOT_FINITE.reason)
                    yield Prediction(name, error=error)
                else:
                    pooled = found.pooled if keep_pooled else None
                    yield dataclasses.replace(found, id=name, notes=notes, pooled=pooled)

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

    def _prediction(self, p: NDArray[np.float32], top_k: int) -> Prediction:
        best = np.argsort(-p, kind="stable")[: max(top_k, 1)]  # p: (K,)
        top = tuple((self.classes[k], float(p[k])) for k in best)
        return Prediction("", top[0][0], top[0][1], top, p, decision=top[0][0])

    def _decided(self, found: Prediction, decided: Decided, k: int) -> Prediction:
        """Return an answer with what was decided about image k."""
        inside = np.flatnonzero(decided.sets[k])
        inside = inside[np.argsort(-found.probabilities[inside], kind="stable")]
        action = int(decided.actions[k])
        others = {ABSTAINED: "abstain", IS_UNKNOWN: "unknown"}
        return dataclasses.replace(
            found,
            typicality=None if decided.p_values is None else float(decided.p_values[k]),
            unknown=None if decided.unknown is None else bool(decided.unknown[k]),
            set=tuple(self.classes[each] for each in inside),
            abstained=None if decided.abstained is None else bool(decided.abstained[k]),
            decision=others[action] if action < 0 else self.classes[action],
        )


def _several(images: Any) -> Iterable[ImageLike]:
    """Return several images as they are; refuse a single image, whose rows are no images."""
    if is_one_image(images):
        raise InputError(
            f"predict_many: a single {type(images).__name__} was given",
            hint="predict(image) for one; predict_many([image, ...]) for several",
        )
    shape = tuple(getattr(images, "shape", (0,))) if is_pixels(images) else (0,)
    if len(shape) in {0, 2, 3}:
        raise InputError(
            f"predict_many: an array of shape {shape} may be one image or several",
            hint="predict(array) for one of (H, W) or (H, W, 3); predict_many(list(array)) for "
            "several; an array of several has the shape (N, H, W, 3)",
        )
    if len(shape) == 4:
        return images_of(images)
    if not isinstance(images, Iterable):
        raise InputError(f"predict_many takes a list of images, not {type(images).__name__}")
    return images
