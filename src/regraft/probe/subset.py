"""Choose some of the images by their content, whatever their order in the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.data.samples import Samples


def sorted_by_hash(indices: NDArray[np.int64], samples: Samples) -> NDArray[np.int64]:
    """Return samples in the order of their content hashes."""
    by_hash = sorted(indices, key=lambda index: samples.hashes[index])
    return np.asarray(by_hash, dtype=np.int64)


def choose_by_hash(indices: NDArray[np.int64], samples: Samples, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` of the samples, ascending: those with the smallest hashes."""
    return np.sort(sorted_by_hash(indices, samples)[:most])


def share_of_each_class(
    indices: NDArray[np.int64], samples: Samples, share: float
) -> NDArray[np.int64]:
    """Return a share of the samples of each class, ascending: those with the smallest hashes.

    At least two of each class are returned, if it has them. A smaller share is part of a larger.
    """
    chosen = []
    ordered = sorted_by_hash(indices, samples)
    labels = samples.labels[ordered]
    for label in np.unique(labels):
        own = ordered[labels == label]
        chosen.append(own[: max(2, math.ceil(len(own) * share))])
    return np.sort(np.concatenate(chosen))
