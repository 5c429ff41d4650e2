"""Groups of images that are alike, by the cosine of their pooled features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.decision.scorers import Neighbours, unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from regraft.decision.typicality import Typicality

#: Images that are compared with each other; more are put to the nearest group.
MOST_COMPARED = 2_000
#: Of the distances of training images from their fifth neighbours: the mean distance within a group
#: is at most this quantile. Digits, pages and patterns then are a group each, and
#: flowers of three classes are hardly mixed (docs/design/decisions-drift.md).
_QUANTILE = 0.75
#: That distance for the default network on photographs, where the bundle has no bank.
_USUAL = 0.4
_AT_ONCE = 1024  # rows


def distance_within(typicality: Typicality) -> float:
    """Return the largest mean distance of images that are alike, one minus their cosine."""
    if isinstance(typicality.scorer, Neighbours):
        return float(np.quantile(typicality.scorer.reach, _QUANTILE))
    return _USUAL


def group_alike(rows: NDArray[np.float32], within: float) -> NDArray[np.int64]:
    """Return the group of each image (N,), numbered from 0, the largest first.

    Groups are joined as long as the mean distance of their images is at most ``within`` (average
    linkage; Sokal and Michener 1958). Of more than 2,000 images, as many random ones are compared,
    and each of the others is put to the group whose mean is nearest.

    Parameters
    ----------
    rows : array of shape (N, D), float32
        Pooled features; may be a file that is mapped into memory.
    within : float
        From ``distance_within``.

    Examples
    --------
    >>> rows = np.array([[1, 0], [0, 1], [0.1, 1], [0, 2]], np.float32)
    >>> group_alike(rows, 0.1).tolist()
    [1, 0, 0, 0]
    """
    n = len(rows)
    chosen = np.arange(n)
    if n > MOST_COMPARED:
        chosen = np.sort(np.random.default_rng(0).choice(n, MOST_COMPARED, replace=False))
    unit = unit_rows(np.asarray(rows[chosen]))
    found = _linked(unit, within)
    if n > MOST_COMPARED:
        groups = range(int(found.max()) + 1)
        means = unit_rows(np.stack([unit[found == each].mean(0) for each in groups]))
        nearest = [(part @ means.T).argmax(1) for part in _unit_parts(rows)]
        others, found = found, np.concatenate(nearest)
        found[chosen] = others
    sizes = np.bincount(found)
    first = np.unique(found, return_index=True)[1]
    place = np.empty(len(sizes), dtype=np.int64)
    place[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    result: NDArray[np.int64] = place[found]
    return result


def most_central(rows: NDArray[np.float32], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return some images, given by their rows' numbers, in the order of nearness to their mean."""
    some = members[:MOST_COMPARED]
    unit = unit_rows(np.asarray(rows[some]))
    return some[np.argsort(-(unit @ unit.mean(0)), kind="stable")]


def _linked(unit: NDArray[np.float32], within: float) -> NDArray[np.int64]:
    """Return the group of each row of unit length (n,), numbered from 0."""
    if len(unit) < 2:
        return np.zeros(len(unit), dtype=np.int64)
    from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415 - slow to import

    distances = np.maximum(1 - unit @ unit.T, 0)
    pairs = distances[np.triu_indices(len(unit), 1)].astype(np.float64)
    groups = fcluster(linkage(pairs, "average"), within, "distance")
    return np.asarray(groups, dtype=np.int64) - 1


def _unit_parts(rows: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield unit_rows(np.asarray(rows[start : start + _AT_ONCE]))
