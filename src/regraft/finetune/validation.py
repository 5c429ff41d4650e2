"""The validation part, scored on the very path that the predictor takes."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.errors import ImageError
from regraft.features.extract import render_ahead
from regraft.features.taps import TapReader, padded, read_features
from regraft.finetune.images import lost
from regraft.finetune.ranks import ALONE
from regraft.heads.temperature import log_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Preprocess
    from regraft.data.samples import Samples
    from regraft.features.compute import Compute
    from regraft.finetune.ranks import Ranks
    from regraft.model import Model

_ROWS_AT_ONCE = 8192  # as ``probe.score``: the same products of matrices, so the same bits


@dataclass(frozen=True)
class Scores:
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
    ranks : Ranks
        Each process scores its share of the images, and no image is scored twice.
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
        ranks: Ranks = ALONE,
    ) -> None:
        self.indices = indices
        self.labels = samples.labels[indices]
        self.preprocess = preprocess
        self._samples = samples
        self._compute = compute
        self._max_pixels = max_pixels
        self._workers = workers
        self._ranks = ranks

    def score(self, model: Model, ask: Callable[[], None] | None = None) -> Scores:
        """Score a model: folded norms, padded batches, features rounded as the store rounds them.

        Parameters
        ----------
        model : Model
            Copied for the pass, not changed.
        ask : callable, optional
            Called after each batch; may raise.

        Returns
        -------
        Scores
            Of its logits before any temperature.

        Raises
        ------
        DataError
            Where an image can no longer be read.
        """
        reader = TapReader(model.backbone, model.blocks, self._compute)
        logits: list[NDArray[np.float32]] = []
        rows: list[NDArray[np.float32]] = []
        order: list[int] = []  # a compressed tar's images come in the order of its members
        own = self._ranks.share(len(self.indices))
        rendered = render_ahead(
            self._samples.stream(self.indices[own]), self.preprocess, self._workers,
            self._max_pixels, self._samples.hashes,
        )  # fmt: skip
        size = self._compute.batch_size
        with closing(rendered):
            while batch := list(itertools.islice(rendered, size)):
                order.extend(index for index, _ in batch)
                images = [self._image(index, image) for index, image in batch]
                rows.extend(read_features(reader, padded(images, size))[: len(images)])
                if len(rows) >= _ROWS_AT_ONCE:
                    logits.append(model.logits(np.stack(rows[:_ROWS_AT_ONCE])))
                    rows = rows[_ROWS_AT_ONCE:]
                if ask is not None:
                    ask()
        if rows:
            logits.append(model.logits(np.stack(rows)))
        found = np.zeros((len(self.indices), len(model.classes)), np.float32)
        found[own] = np.concatenate([found[:0], *logits])[np.argsort(order)]
        self._ranks.add([torch.from_numpy(found)])  # the others' rows are 0 here
        right = found.argmax(1) == self.labels
        return Scores(found, float(log_losses(found, self.labels).mean()), float(right.mean()))

    def _image(self, index: int, image: torch.Tensor | ImageError) -> torch.Tensor:
        if isinstance(image, ImageError):
            raise lost(self._samples.ids[index], str(image))
        return image
