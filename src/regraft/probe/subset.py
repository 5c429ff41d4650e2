"""Choose some of the images by their content, whatever their order in the data."""

from __future__ import annotations

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
