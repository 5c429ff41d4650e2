"""Classifiers held against each other on the same images: paired, and corrected for their number.

Two accuracies with overlapping intervals may well differ for sure, since both models saw the same
images: what counts are the images that one of them alone has right.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from regraft.evaluation.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REPEATS = 10_000


class Difference(NamedTuple):
    """What is between two classifiers.

    ``first`` and ``second`` are their rows; ``only_first`` and ``only_second`` how many images one
    of them alone has right; ``value`` is the difference of accuracies, ``low`` and ``high`` its
    bootstrap interval of 95 %; ``p`` is McNemar's exact test, ``p_holm`` the same corrected.
    """

    first: int
    second: int
    only_first: int
    only_second: int
    value: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the corrected test says that they differ."""
        return self.p_holm < 1 - LEVEL


def compare_pairs(right: NDArray[np.bool_], *, seed: int = 0) -> list[Difference]:
    """Compare every classifier with every other.

    Parameters
    ----------
    right : array of shape (R, n), bool
        Whether each of R classifiers is right on each of n images, the same ones for all.
    seed : int
        Of the bootstrap.

    Returns
    -------
    list of Difference
        R (R - 1) / 2, in the order of the rows.

    References
    ----------
    McNemar, Note on the sampling error of the difference between correlated proportions,
    Psychometrika 1947, in its exact form. Holm, A simple sequentially rejective multiple test
    procedure, Scandinavian Journal of Statistics 1979.

    Examples
    --------
    >>> right = np.array([[True] * 20, [True] * 10 + [False] * 10])
    >>> (found,) = compare_pairs(right)
    >>> found.only_first, found.value, round(found.p, 4), found.significant
    (10, 0.5, 0.002, True)
    """
    pairs = list(combinations(range(len(right)), 2))
    only = [
        (int((right[a] & ~right[b]).sum()), int((right[b] & ~right[a]).sum())) for a, b in pairs
    ]
    p = np.array([stats.binomtest(a, a + b).pvalue if a + b else 1.0 for a, b in only])
    n = right.shape[1]
    return [
        Difference(*pair, *counts, (counts[0] - counts[1]) / n, *_interval(*counts, n, seed), *each)
        for pair, counts, *each in zip(pairs, only, p.tolist(), holm(p).tolist(), strict=True)
    ]


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for their number, by Holm's procedure.

    Parameters
    ----------
    p : array of shape (m,), float64
        One for each comparison.

    Returns
    -------
    array of shape (m,), float64
        Never smaller, at most 1, in the same order.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _interval(only_first: int, only_second: int, n: int, seed: int) -> tuple[float, float]:
    """Return the percentile interval of the difference over resampled images.

    An image counts 1, -1 or 0: resampling n images is a multinomial draw over these three.
    """
    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=_REPEATS)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
