"""Some of the images, chosen so that their order in the data does not matter."""

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
    """Return at most so many of the samples, ascending: those with the smallest content hashes."""
    return np.sort(sorted_by_hash(indices, samples)[:most])
