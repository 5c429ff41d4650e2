"""Mean and covariance of the training features, for the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.features.taps import POOLED, Block
from regraft.model import Statistics
from regraft.probe.subset import choose_by_hash

if TYPE_CHECKING:
    from regraft.data.dataset import Dataset
    from regraft.features.extract import Features

_ROWS = 20_000  # enough for the covariance of 1,280 features


def training_statistics(features: Features, dataset: Dataset) -> Statistics:
    """Return mean and covariance of the pooled features of at most 20,000 training images."""
    chosen = choose_by_hash(dataset.train, dataset.samples, _ROWS)
    x = features.matrix(chosen, (Block(POOLED),))  # (N, D)
    mean = x.mean(0, dtype=np.float64)
    x -= mean.astype(np.float32)
    covariance = x.T @ x / max(len(x) - 1, 1)
    return Statistics(mean.astype(np.float32), covariance.astype(np.float32), len(x))
