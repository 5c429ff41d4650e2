"""Folds: stratified, with whole clusters, and the same for any order of the samples."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def assign_folds(
    labels: NDArray[np.int64],  # (N,)
    clusters: NDArray[np.int64],  # (N,), any numbers
    n_folds: int,
    seed: int,
    order_keys: Sequence[bytes],  # (N) content hashes
) -> NDArray[np.int64]:
    """Return the fold of each sample (N,): 0 to ``n_folds - 1``, or -1 for always in training.

    The clusters of each class are assigned in turn, in the order of a hash of seed and content. A
    class with fewer clusters than folds is in as many folds as it has clusters; a class with one
    cluster is in none, so that each fold leaves every class in training.

    Kohavi, A study of cross-validation and bootstrap for accuracy estimation and model selection,
    IJCAI 1995 (stratification).

    Examples
    --------
    >>> keys = [bytes([i]) for i in range(7)]
    >>> labels = np.array([0, 0, 0, 0, 1, 1, 2])
    >>> folds = assign_folds(labels, np.arange(7), 2, 0, keys)
    >>> np.bincount(folds[:4]).tolist(), sorted(folds[4:6].tolist()), int(folds[6])
    ([2, 2], [0, 1], -1)
    """
    if len(labels) == 0:
        return np.empty(0, dtype=np.int64)
    members = np.unique(clusters, return_inverse=True)[1]  # (N,), clusters as 0 to C - 1
    classes = cluster_classes(labels, members)  # (C,)
    salt = f"regraft fold {seed} ".encode()
    digests = [hashlib.sha256(salt + key).digest()[:8] for key in order_keys]
    ranks = np.full(len(classes), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(ranks, members, np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64))
    # Assigned in turn through all classes: the number of clusters differs by at most one between
    # folds, in each class and in all.
    folds_of_clusters = np.empty(len(classes), dtype=np.int64)
    folds_of_clusters[np.lexsort((ranks, classes))] = np.arange(len(classes)) % n_folds
    _keep_in_training(folds_of_clusters, labels, members, ranks, n_folds)
    return folds_of_clusters[members]


def cluster_classes(labels: NDArray[np.int64], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most common class of each cluster (C,); in a tie, the first by name.

    ``labels`` and ``members`` (N,) are the class of each sample and its cluster, 0 to C - 1.

    Examples
    --------
    >>> cluster_classes(np.array([1, 0, 1, 0, 1]), np.array([0, 0, 0, 1, 1])).tolist()
    [1, 0]
    """
    n_classes = int(labels.max()) + 1
    pairs, counts = np.unique(members * n_classes + labels, return_counts=True)
    cluster, label = np.divmod(pairs, n_classes)
    order = np.lexsort((label, -counts, cluster))
    first = np.unique(cluster[order], return_index=True)[1]
    classes: NDArray[np.int64] = label[order][first]
    return classes


def _keep_in_training(
    folds_of_clusters: NDArray[np.int64],
    labels: NDArray[np.int64],
    members: NDArray[np.int64],
    ranks: NDArray[np.uint64],
    n_folds: int,
) -> None:
    """Set the fold of a class's first cluster to -1 if one fold would hold out all of the class."""
    n_classes = int(labels.max()) + 1
    present = np.zeros((n_classes, n_folds), dtype=bool)
    present[labels, folds_of_clusters[members]] = True
    for label in np.flatnonzero(present.sum(axis=1) == 1):
        of_class = np.unique(members[labels == label])
        if (folds_of_clusters[of_class] >= 0).all():  # none is -1 already because of another class
            folds_of_clusters[of_class[np.argmin(ranks[of_class])]] = -1
