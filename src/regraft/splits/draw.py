"""Draw a share of each class by hash, in whole clusters, within limits for small classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.splits.folds import cluster_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.data.samples import Samples
    from regraft.splits.clusters import Clusters


def draw(
    samples: Samples,
    clusters: Clusters,
    eligible: NDArray[np.bool_],
    fraction: float,
    salt: str,
) -> NDArray[np.bool_]:
    """Return a mask (N,) of about ``fraction`` of each class, of eligible samples by clusters."""
    drawn = np.zeros(len(samples), dtype=bool)  # (N,)
    if not eligible.any():
        return drawn
    # n eligible samples are in c clusters: numbers (c,), cluster of each (n,), sizes (c,).
    cluster, members, sizes = np.unique(
        clusters.members[eligible], return_inverse=True, return_counts=True
    )
    labels = samples.labels[eligible]  # (n,)
    numbers = clusters.numbers(salt)[cluster]  # (c,)
    classes = cluster_classes(labels, members)  # (c,)
    order = np.lexsort((numbers, classes))
    chosen = np.zeros(len(cluster), dtype=bool)  # (c,)
    for ranked in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        chosen[_within_limits(ranked, numbers, sizes, fraction)] = True
    # A class may be only in clusters of other classes: put one of them back into training.
    for label in np.setdiff1d(labels, labels[~chosen[members]]):
        holders = np.unique(members[labels == label])
        if chosen[holders].all():  # none was put back for another class
            chosen[holders[np.argmax(numbers[holders])]] = False
    drawn[eligible] = chosen[members]
    return drawn


def _within_limits(
    ranked: NDArray[np.int64],
    numbers: NDArray[np.float64],
    sizes: NDArray[np.int64],
    fraction: float,
) -> NDArray[np.int64]:
    """Return the clusters of one class to hold out, of clusters in the order of their numbers."""
    quota = fraction * sizes[ranked].sum()
    most_images = max(2 * quota, sizes[ranked].min())
    candidates = ranked[sizes[ranked] <= most_images]  # a larger cluster stays in training
    images = np.cumsum(sizes[candidates])
    least = int(np.searchsorted(images, quota / 4)) + 1
    most = int(np.searchsorted(images, most_images, side="right"))
    count = int((numbers[candidates] < fraction).sum())
    within: NDArray[np.int64] = candidates[: min(max(count, least), most, len(ranked) - 1)]
    return within
