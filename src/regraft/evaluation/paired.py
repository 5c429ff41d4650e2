"""Differences between classifiers on the same images: paired tests, corrected for their number.

Two accuracies with overlapping intervals can still differ with certainty, because both are of the
same images: only the images that one of the two alone has right count.

McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika
1947, in its exact form.
Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics
1979.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from regraft.evaluation.intervals import LEVEL, of_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Difference(NamedTuple):
    """The difference between two classifiers."""

    first: int  # their rows
    second: int
    only_first: int  # images that this one alone has right
    only_second: int
    value: float  # difference of accuracies
    low: float  # ends of its 95 % interval, by Tango
    high: float
    p: float  # McNemar's exact test
    p_holm: float  # the same, corrected for the number of pairs

    @property
    def significant(self) -> bool:
        """Whether they differ, by the corrected test."""
        return self.p_holm < 1 - LEVEL


def compare_pairs(
    right: NDArray[np.bool_],  # (R, n), whether each of R classifiers is right on each image
) -> list[Difference]:
    """Compare every classifier with every other: R (R - 1) / 2 pairs, in the order of the rows.

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
        Difference(*pair, *counts, (counts[0] - counts[1]) / n, *of_difference(*counts, n), *each)
        for pair, counts, *each in zip(pairs, only, p.tolist(), holm(p).tolist(), strict=True)
    ]


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values (m,) for their number, by Holm's procedure; the order stays.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected
