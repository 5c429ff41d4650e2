"""The validation part, scored on the very path that the predictor takes."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.errors import ImageError
from regraft.features.taps import TapReader, padded, read_features
from regraft.finetune.batches import lost_image_error
from regraft.finetune.frozen.cut_reader import CutReader
from regraft.finetune.processes.group import SINGLE_PROCESS
from regraft.heads.temperature import log_losses
from regraft.images.ahead import render_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray

    from regraft.data.samples import Samples
    from regraft.features.compute import Compute
    from regraft.finetune.frozen.prefix import FrozenPrefix
    from regraft.finetune.processes.group import ProcessGroup
    from regraft.images.render import Preprocess
    from regraft.model import Model

_ROWS_AT_ONCE = 8192  # as ``probe.score``: the same products of matrices, so the same bits


@dataclass(frozen=True)
class ValidationScores:
    """What a model makes of the validation part: logits (n, K), and two figures of them."""

    logits: NDArray[np.float32]
    log_loss: float
    accuracy: float


class Validation:
    """Images that choose the epoch and fit the temperature, and reach no gradient.

    Parameters
    ----------
    samples : Samples
        Where they lie.
    indices : array of shape (n,), int64
        The validation part; ascending.
    preprocess : Preprocess
        The backbone's.
    compute : Compute
        As for extraction: with the same one, epoch 0 has the probe's own bits.
    max_pixels, workers : int
        As for extraction.
    group : ProcessGroup
        Each process scores its share of the images, and no image is scored twice.

    Attributes
    ----------
    prefix : FrozenPrefix or None
        Where there is one, frozen stages run once an image; the scores are the same.
    """

    def __init__(
        self,
        samples: Samples,
        indices: NDArray[np.int64],
        preprocess: Preprocess,
        compute: Compute,
        *,
        max_pixels: int,
        workers: int,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.indices = indices
        self.prefix: FrozenPrefix | None = None
        self.labels = samples.labels[indices]
        self.preprocess = preprocess
        self._samples = samples
        self._compute = compute
        self._max_pixels = max_pixels
        self._workers = workers
        self._group = group

    def score(self, model: Model, ask: Callable[[], None] | None = None) -> ValidationScores:
        """Score a model: folded norms, padded batches, features rounded as the store rounds them.

        Parameters
        ----------
        model : Model
            Copied for the pass, not changed.
        ask : callable, optional
            Called after each batch; may raise.

        Returns
        -------
        ValidationScores
            Of its logits before any temperature.

        Raises
        ------
        DataError
            Where an image can no longer be read.
        """
        logits: list[NDArray[np.float32]] = []
        rows: list[NDArray[np.float32]] = []
        order: list[int] = []  # a compressed tar's images come in the order of its members
        own = self._group.share(len(self.indices))
        with closing(self._features(model, self.indices[own])) as pieces:
            for indices, features in pieces:
                order.extend(indices)
                rows.extend(features)
                if len(rows) >= _ROWS_AT_ONCE:
                    logits.append(model.logits(np.stack(rows[:_ROWS_AT_ONCE])))
                    rows = rows[_ROWS_AT_ONCE:]
                if ask is not None:
                    ask()
        if rows:
            logits.append(model.logits(np.stack(rows)))
        found = np.zeros((len(self.indices), len(model.classes)), np.float32)
        found[own] = np.concatenate([found[:0], *logits])[np.argsort(order)]
        self._group.add([torch.from_numpy(found)])  # the others' rows are 0 here
        right = found.argmax(1) == self.labels
        return ValidationScores(
            found, float(log_losses(found, self.labels).mean()), float(right.mean())
        )

    def _features(
        self, model: Model, wanted: NDArray[np.int64]
    ) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        """Yield samples and their features (n, D), a batch at a time; none where rows are made."""
        size, prefix = self._compute.batch_size, self.prefix
        if prefix is None:
            reader = TapReader(model.backbone, model.blocks, self._compute)
            for indices, images in self._images(wanted):
                yield indices, read_features(reader, padded(images, size))[: len(indices)]
            return
        halves = CutReader(model, self._compute, prefix.network)
        prefix.front = halves.front
        with prefix.opened():
            missing = [index for index in wanted.tolist() if prefix.find(index, 0) is None]
            for indices, images in self._images(missing):
                prefix.complete(indices, 0, images)
                yield [], np.empty((0, 0), np.float32)
            for start in range(0, len(wanted), size):
                indices = wanted[start : start + size].tolist()
                kept = prefix.padded(indices, 0, size)
                yield indices, halves.features(kept)[: len(indices)]

    def _images(
        self, wanted: Sequence[int] | NDArray[np.int64]
    ) -> Generator[tuple[list[int], list[torch.Tensor]]]:
        """Yield samples and their renderings, as many as one forward pass takes."""
        rendered = render_ahead(
            self._samples.stream(wanted), self.preprocess, self._workers, self._max_pixels,
            self._samples.hashes,
        )  # fmt: skip
        with closing(rendered):
            while batch := list(itertools.islice(rendered, self._compute.batch_size)):
                images = [self._image(index, image) for index, image in batch]
                yield [index for index, _ in batch], images

    def _image(self, index: int, image: torch.Tensor | ImageError) -> torch.Tensor:
        if isinstance(image, ImageError):
            raise lost_image_error(self._samples.ids[index], str(image))
        return image
