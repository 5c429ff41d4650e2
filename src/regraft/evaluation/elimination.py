"""Which of several candidates are worse than another on the same images, and which one to take.

A candidate is worse if its losses are above those of any other by more than chance explains. The
test is one-sided and paired by image, with whole clusters, and each candidate is compared with all
others at a level that is divided by their number (Bonferroni). So the candidate that is truly the
best is left out with at most the probability ``level``: of the comparisons, only those in which it
is the first can leave it out. (Sums are made of the networks that look best: which of them are
compared is not fixed before, and tests/evaluation/test_elimination.py shows by simulation that the
level holds nevertheless.) This is subset selection as in Gupta, On some multiple decision
(selection and ranking) rules, Technometrics 1965, with paired errors.

Losses of folds depend a little on each other, since their fits share images; no test knows how much
(Bengio and Grandvalet, No unbiased estimator of the variance of K-fold cross-validation, JMLR
2004).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_ROUNDING = 1e-9  # nats: a smaller difference is one of arithmetic


class Worse(NamedTuple):
    """By which other candidate each of m is worse, and how sure that is."""

    than: NDArray[np.int64]  # (m,) the one against which its p-value is least; itself if none
    p: NDArray[np.float64]  # (m,) that p-value, times the number of others, at most 1


class Left(NamedTuple):
    """Which of k networks are still in the race, and the comparison that says so."""

    networks: NDArray[np.bool_]  # (k,)
    worse: Worse  # of the m candidates


class _Pairs(NamedTuple):
    """The differences between m candidates, of mean losses."""

    above: NDArray[np.float64]  # (m, m) of row minus column
    error: NDArray[np.float64]  # (m, m) its standard error over clusters
    degrees: int  # of freedom: clusters less one


def find_worse(
    losses: NDArray[np.float64],  # (m, n) of m candidates on the same n images
    clusters: NDArray[np.int64],  # (n,) images that depend on each other
    weights: NDArray[np.float64],  # (n,)
) -> Worse:
    """Compare each candidate with all others; it is to be left out where ``p`` is below a level.

    The candidate of least mean loss is never left out.

    Examples
    --------
    >>> losses = np.array([[0.1, 0.2, 0.1, 0.3], [1.1, 1.3, 1.2, 1.2], [0.2, 0.1, 0.2, 0.2]])
    >>> found = find_worse(losses, np.arange(4), np.ones(4))
    >>> found.than.tolist(), found.p.round(4).tolist()
    ([0, 0, 2], [1.0, 0.0002, 1.0])
    """
    m = len(losses)
    pairs = _differences(losses, clusters, weights)
    p = np.ones((m, m))
    if pairs.degrees > 0:
        unbiased = pairs.error * np.sqrt((pairs.degrees + 1) / pairs.degrees)
        larger = pairs.above > _ROUNDING
        t = np.divide(pairs.above, unbiased, out=np.full((m, m), np.inf), where=unbiased > 0)
        p = np.where(larger, stats.t.sf(t, pairs.degrees), 1.0)
    surest = p.argmin(axis=1)
    corrected = np.minimum(p.min(axis=1) * (m - 1), 1.0) if m > 1 else np.ones(m)
    return Worse(np.where(corrected < 1, surest, np.arange(m)), corrected)


def find_left(
    losses: NDArray[np.float64],  # (m, n) of networks and sums
    clusters: NDArray[np.int64],  # (n,)
    weights: NDArray[np.float64],  # (n,)
    members: NDArray[np.bool_],  # (m, k) the networks of each candidate; each is one alone, too
    prices: Sequence[float],  # m
    level: float,
) -> Left:
    """Return which networks are to be read on.

    These are the networks that alone are not worse than any candidate at the level, and those of
    the candidate that would be taken now. A network that alone is worse stays, so, only for a sum
    that is better than all that is cheaper: a sum with a useless network is as good as one without
    it, never significantly worse, and would keep it in the race for ever.

    Examples
    --------
    >>> losses = np.array([[0.1, 0.2, 0.1, 0.3], [1.1, 1.3, 1.2, 1.2], [0.1, 0.2, 0.2, 0.2]])
    >>> members = np.array([[True, False], [False, True], [True, True]])
    >>> find_left(losses, np.arange(4), np.ones(4), members, [1, 1, 2], 0.05).networks.tolist()
    [True, False]
    """
    worse = find_worse(losses, clusters, weights)
    taken = cheapest_within_one_error(losses, clusters, weights, prices)
    able = (worse.p >= level) & (members.sum(axis=1) == 1)
    return Left(members[able].any(axis=0) | members[taken], worse)


def cheapest_within_one_error(
    losses: NDArray[np.float64],  # (m, n)
    clusters: NDArray[np.int64],  # (n,)
    weights: NDArray[np.float64],  # (n,)
    prices: Sequence[float],  # m
) -> int:
    """Return the candidate to take: of those within one standard error of the least loss.

    The one of least price is taken; of equal prices, that of the lesser loss.

    Examples
    --------
    >>> losses = np.array([[1.0, 2.0, 3.0], [0.9, 2.2, 2.8], [0.1, 0.2, 0.1]])
    >>> cheapest_within_one_error(losses[:2], np.arange(3), np.ones(3), [1, 5])
    0
    >>> cheapest_within_one_error(losses, np.arange(3), np.ones(3), [1, 5, 9])
    2
    """
    pairs = _differences(losses, clusters, weights)
    best = int(pairs.above[:, 0].argmin())
    near = np.flatnonzero(pairs.above[:, best] <= pairs.error[:, best] + _ROUNDING).tolist()
    return int(min(near, key=lambda each: (prices[each], pairs.above[each, best])))


def _differences(
    losses: NDArray[np.float64], clusters: NDArray[np.int64], weights: NDArray[np.float64]
) -> _Pairs:
    """Compare all pairs; the losses of a cluster, less the mean, are added up first."""
    m = len(losses)
    if not losses.shape[1]:
        return _Pairs(np.zeros((m, m)), np.zeros((m, m)), 0)
    members = np.unique(clusters, return_inverse=True)[1]
    means = np.average(losses, axis=1, weights=weights)  # (m,)
    away = weights * (losses - means[:, None])
    sums = np.array([np.bincount(members, weights=row) for row in away])  # (m, C)
    error = np.array([np.linalg.norm(sums - row, axis=1) for row in sums]) / weights.sum()
    return _Pairs(means[:, None] - means, error, int(members.max()))
