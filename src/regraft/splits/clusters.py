"""Clusters: the samples that must stay in one part and in one fold.

A cluster is a group (patient, burst, camera) or a set of byte-identical images; groups that share
an image are one cluster.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples


def clusters_of(samples: Samples) -> NDArray[np.int64]:
    """Return the cluster of each sample (N,), numbered from 0 in the order of the samples."""
    contents = _numbered(samples.hashes)
    grouped = [index for index, group in enumerate(samples.groups) if group is not None]
    if not grouped:
        return contents
    from scipy.sparse import coo_array  # noqa: PLC0415 - slow to import, needed for groups only
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    # A graph of contents and groups, with one edge for each sample that has a group.
    n_contents = int(contents.max()) + 1
    groups = n_contents + _numbered([samples.groups[index] for index in grouped])
    size = int(groups.max()) + 1
    edges = coo_array((np.ones(len(grouped)), (contents[grouped], groups)), shape=(size, size))
    components = connected_components(edges, directed=False)[1]
    return _numbered(components[contents].tolist())


def units_in(dataset: Dataset) -> NDArray[np.int64]:
    """Return the unit of each sample (N,): its cluster, joined with those of its near copies."""
    return clusters_of(dataset.samples) if dataset.units is None else dataset.units


def joined(
    clusters: NDArray[np.int64], pairs: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:  # (N,)
    """Return clusters (N,) in which the two samples of each pair are in one.

    Examples
    --------
    >>> joined(np.array([0, 1, 1, 2]), [(0, 3)]).tolist()
    [0, 1, 1, 0]
    """
    if not pairs:
        return clusters
    from scipy.sparse import coo_array  # noqa: PLC0415 - slow to import, needed for pairs only
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    size = int(clusters.max()) + 1
    one, other = clusters[np.asarray(pairs).T]
    edges = coo_array((np.ones(len(pairs)), (one, other)), shape=(size, size))
    return _numbered(connected_components(edges, directed=False)[1][clusters].tolist())


class Clusters(NamedTuple):
    """C clusters, and the keys that decide their parts."""

    members: NDArray[np.int64]  # (N,), cluster of each sample
    keys: list[bytes]  # C: the smallest group name or content hash in it

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """Return the clusters of some samples with their keys."""
        members = clusters_of(samples)
        keys: dict[int, bytes] = {}
        each = zip(members.tolist(), samples.groups, samples.hashes, strict=True)
        for cluster, group, digest in each:
            key = b"image " + digest if group is None else b"group " + group.encode()
            keys[cluster] = min(key, keys.get(cluster, key))
        return cls(members, list(keys.values()))  # numbered in the order in which they appear

    def numbers(self, salt: str) -> NDArray[np.float64]:
        """Return a number in [0, 1) for each cluster, from its key alone."""
        prefix = f"regraft {salt} ".encode()
        digests = b"".join(hashlib.sha256(prefix + key).digest()[:8] for key in self.keys)
        whole = np.frombuffer(digests, dtype=">u8").astype(np.uint64)
        return (whole >> 11).astype(np.float64) * 2.0**-53  # the 53 bits that a float holds


def _numbered(values: Sequence[object]) -> NDArray[np.int64]:
    """Return numbers of values, in the order in which they first appear."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
