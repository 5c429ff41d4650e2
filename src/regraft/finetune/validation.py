"""The validation part, scored by the code that the predictor uses."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.features.taps import TapReader, padded, read_features
from regraft.finetune.frozen.cut_reader import CutReader
from regraft.finetune.processes.group import SINGLE_PROCESS, ProcessGroup
from regraft.heads.fit import sample_weights
from regraft.heads.fitted import differ
from regraft.heads.temperature import log_losses

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray

    from regraft.config.train_config import ClassWeight
    from regraft.features.compute import Compute
    from regraft.finetune.frozen.prefix import FrozenPrefix
    from regraft.finetune.reader import ImageReader
    from regraft.model import Model

_ROWS_AT_ONCE = 8192  # as ``probe.score``: the same products of matrices, so the same bits


@dataclass(frozen=True)
class ValidationScores:
    """A model's scores on the validation part, before any temperature."""

    logits: NDArray[np.float32]  # (n, K)
    log_loss: float
    accuracy: float
    #: The same where each class counts the same; None where each image does.
    balanced_log_loss: float | None = None
    balanced_accuracy: float | None = None

    def columns(self) -> dict[str, float]:
        """Return the columns of a row of history.csv."""
        found = {
            "val_loss": self.log_loss,
            "val_accuracy": self.accuracy,
            "val_balanced_loss": self.balanced_log_loss,
            "val_balanced_accuracy": self.balanced_accuracy,
        }
        return {name: value for name, value in found.items() if value is not None}


class Validation:
    """Images that choose the epoch and fit the temperature; no gradient depends on them.

    With the same ``compute`` as the probe's features, epoch 0 has the probe's own bits.
    """

    def __init__(
        self,
        reader: ImageReader,
        indices: NDArray[np.int64],  # (n,) the validation part, ascending
        compute: Compute,
        *,
        class_weight: ClassWeight = "none",
        group: ProcessGroup = SINGLE_PROCESS,  # each process scores its share of the images
        prefix: FrozenPrefix | None = None,  # runs frozen stages once an image; same scores
    ) -> None:
        self.indices = indices
        self.labels = reader.samples.labels[indices]
        #: (n,) the weight of each image in choices; None where all count the same
        self.weights: NDArray[np.float64] | None = None
        weights = sample_weights(self.labels, len(reader.samples.classes), class_weight)
        if differ(weights):
            self.weights = weights
        self._reader = reader
        self._compute = compute
        self._group = group
        self._prefix = prefix

    def score(
        self, model: Model, after_batch: Callable[[], None] = lambda: None
    ) -> ValidationScores:
        """Score a copy of a model: norms folded, batches padded, features rounded as when stored.

        ``after_batch`` is called after each batch and may raise. Raises DataError where an image
        can no longer be read.
        """
        own = self._group.share(len(self.indices))
        with closing(self._features(model, self.indices[own])) as batches:
            order, logits = _logits(model, batches, after_batch)
        found = np.zeros((len(self.indices), len(model.classes)), np.float32)
        found[own] = np.concatenate([found[:0], *logits])[np.argsort(order)]
        self._group.add([torch.from_numpy(found)])  # the rows of other processes are 0 here
        right, losses = found.argmax(1) == self.labels, log_losses(found, self.labels)
        scores = ValidationScores(found, float(losses.mean()), float(right.mean()))
        if self.weights is None:
            return scores
        return dataclasses.replace(
            scores,
            balanced_log_loss=float(np.average(losses, weights=self.weights)),
            balanced_accuracy=float(np.average(right, weights=self.weights)),
        )

    def _features(
        self, model: Model, wanted: NDArray[np.int64]
    ) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        """Yield samples and their features (n, D), a batch at a time."""
        if self._prefix is not None:
            yield from self._features_of_rows(model, wanted, self._prefix)
            return
        size = self._compute.batch_size
        network = TapReader(model.backbone, model.blocks, self._compute)
        for indices, images in self._reader.batches(wanted, size):
            yield indices, read_features(network, padded(images, size))[: len(indices)]

    def _features_of_rows(
        self, model: Model, wanted: NDArray[np.int64], prefix: FrozenPrefix
    ) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        """Make the rows that are missing, then yield features from rows; nothing while making."""
        size = self._compute.batch_size
        network = CutReader(model, self._compute, prefix.network)
        with prefix.opened():
            missing = [index for index in wanted.tolist() if prefix.find(index, 0) is None]
            for indices, images in self._reader.batches(missing, size):
                prefix.complete(indices, 0, images, network.front)
                yield [], np.empty((0, 0), np.float32)
            for start in range(0, len(wanted), size):
                indices = wanted[start : start + size].tolist()
                kept = prefix.padded(indices, 0, size)
                yield indices, network.features(kept)[: len(indices)]


def _logits(
    model: Model,
    batches: Iterable[tuple[list[int], NDArray[np.float32]]],
    after_batch: Callable[[], None],
) -> tuple[list[int], list[NDArray[np.float32]]]:
    """Return samples in the order in which they came, and their logits (n, K) in pieces."""
    order: list[int] = []  # images of a compressed tar come in the order of its members
    logits: list[NDArray[np.float32]] = []
    rows: list[NDArray[np.float32]] = []
    for indices, features in batches:
        order.extend(indices)
        rows.extend(features)
        if len(rows) >= _ROWS_AT_ONCE:
            logits.append(model.logits(np.stack(rows[:_ROWS_AT_ONCE])))
            rows = rows[_ROWS_AT_ONCE:]
        after_batch()
    if rows:
        logits.append(model.logits(np.stack(rows)))
    return order, logits
