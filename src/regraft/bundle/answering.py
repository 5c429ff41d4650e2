"""What every predictor does, whatever computes: images in, predictions out."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import numpy as np

from regraft.bundle.prediction import Prediction
from regraft.data.sources.given import images_of, is_one_image, payload_of
from regraft.decision.costs import ABSTAINED, IS_UNKNOWN
from regraft.errors import NOT_FINITE, ImageError, InputError, LevelWarning
from regraft.images.decode import decode, inspect_header
from regraft.images.losses import losses_of
from regraft.images.pixels import is_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from regraft.data.samples import Source
    from regraft.data.sources.given import ImageLike
    from regraft.decision.levels import LevelChoices
    from regraft.decision.policy import Decided, Decisions, Rules

#: An image's id, its square for each network or an error, and what decoding left out.
_Rendered: TypeAlias = "tuple[str, tuple[Any, ...] | ImageError, tuple[str, ...]]"


class Answering(abc.ABC):
    """Answers for images; ``Predictor`` computes with torch, ``ExportedPredictor`` without.

    Attributes
    ----------
    classes : tuple of str
        In the order of ``Prediction.probabilities``.
    max_pixels : int
        Largest height times width of an image; a larger one is refused.
    """

    classes: tuple[str, ...]
    decisions: Decisions | None
    _batch_size: int  # images in one pass

    @property
    @abc.abstractmethod
    def max_pixels(self) -> int:
        """Return the largest height times width of an image."""

    @abc.abstractmethod
    def limit_pixels(self, max_pixels: int) -> None:
        """Refuse larger images from now on, whatever the training refused."""

    @abc.abstractmethod
    def rules(self, **levels: Unpack[LevelChoices]) -> Rules | None:
        """Return the thresholds that are used; None if nothing is decided, or inside the file."""

    @abc.abstractmethod
    def _squares(self, pixels: NDArray[np.uint8]) -> tuple[Any, ...]:
        """Return a decoded image (H, W, 3) as the input of each network."""

    @abc.abstractmethod
    def _render_ahead(
        self, source: Source, workers: int, losses: dict[int, tuple[str, ...]]
    ) -> Iterator[tuple[int, tuple[Any, ...] | ImageError]]:
        """Yield the images of a source as from ``_squares``, with their indices."""

    @abc.abstractmethod
    def _predictions(
        self, images: Sequence[tuple[Any, ...]], top_k: int, rules: Rules | None
    ) -> Iterator[Prediction | None]:
        """Yield the answer for each image, without its id; None if it is not finite."""

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
        losses: dict[int, tuple[str, ...]] = {}
        rendered = self._render_ahead(source, workers, losses)
        named = (
            (source.entries[index].id, image, losses.pop(index, ())) for index, image in rendered
        )
        yield from self._answer(named, top_k, self.rules(**levels), keep_pooled=keep_pooled)

    def _render(self, image: ImageLike) -> tuple[tuple[Any, ...] | ImageError, tuple[str, ...]]:
        try:
            payload = payload_of(image, self.max_pixels)
            pixels = decode(payload, self.max_pixels)
            notes = losses_of(inspect_header(payload, self.max_pixels), pixels)
            return self._squares(pixels), notes
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
        while batch := list(itertools.islice(rendered, self._batch_size)):
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
