"""95 % intervals: of shares, of differences between shares, of means, of macro averages.

All images are taken as independent draws: near duplicates and groups count as often as they come.
Each interval is one of a family whose coverage was simulated (``benchmarks/bench_coverage.py``; the
table is in ``docs/design/intervals.md``). Where none covers, there is None in place of the ends.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Callable

LEVEL = 0.95
_Z = float(special.ndtri((1 + LEVEL) / 2))
_HALVINGS = 32  # of a bracket: to 2e-10 of it
_CLOSE, _FARTHEST = 1e-10, 1e12  # of a root that is searched: the error, and the end of the search
#: Images with which the pooled share of right answers counts in each class. It only enters the
#: variance: without it, a class with three of three right would seem certain.
_PRIOR = 1.0

Floats: TypeAlias = NDArray[np.float64]


class ClassCounts(NamedTuple):
    """Numbers of images by class, each (K,)."""

    hits: NDArray[np.int64]  # of the class and predicted as the class
    actual: NDArray[np.int64]  # of the class
    predicted: NDArray[np.int64]  # predicted as the class


def wilson(shares: Floats, trials: Floats) -> tuple[Floats, Floats]:
    """Return the lower and upper ends of Wilson's score interval of many shares, in [0, 1].

    ``trials`` are above 0, and need not be whole numbers. For whole numbers, the ends are those of
    ``scipy.stats.binomtest(k, n).proportion_ci(method="wilson")``, which also computes a test and
    takes 0.6 ms a share: too long for two shares in each of 1,000 classes.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.

    Examples
    --------
    >>> low, high = wilson(np.array([0.9]), np.array([10]))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.596], [0.982])
    """
    centre = shares + _Z**2 / (2 * trials)
    spread = _Z * np.sqrt(shares * (1 - shares) / trials + _Z**2 / (4 * trials**2))
    low, high = (centre - spread) / (1 + _Z**2 / trials), (centre + spread) / (1 + _Z**2 / trials)
    # Exact ends: rounding would leave 1e-17 or 1 - 1e-16.
    return np.where(shares == 0, 0.0, low), np.where(shares == 1, 1.0, high)


def of_difference(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """Return the ends of Tango's score interval of the difference between two paired shares.

    Of ``n >= 1`` images, the first classifier alone has ``only_first`` right, the second alone
    ``only_second``. The interval is in [-1, 1], and is no point if the two never differ.

    Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 1998.

    Examples
    --------
    >>> [round(end, 3) for end in of_difference(0, 0, 30)]
    [-0.114, 0.114]
    """
    value = (only_first - only_second) / n

    def outside(difference: float) -> bool:
        # The share of images that the second alone has right, most likely for this difference.
        b = (2 * n + only_second - only_first) * difference - only_first - only_second
        c = -only_second * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = (2 * share + difference * (1 - difference)) / n
        return abs(value - difference) > _Z * math.sqrt(max(variance, 0.0))

    return (
        _last_inside(lambda t: outside(value - t * (value + 1)), value, -1.0),
        _last_inside(lambda t: outside(value + t * (1 - value)), value, 1.0),
    )


def _last_inside(outside: Callable[[float], bool], start: float, end: float) -> float:
    """Return the last point on the way from ``start`` (t = 0) to ``end`` (t = 1) that is inside."""
    inside, out = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (inside + out) / 2
        inside, out = (inside, middle) if outside(middle) else (middle, out)
    return start + inside * (end - start)


def of_mean(values: Floats, most: float) -> tuple[float, float] | None:
    """Return the ends of an interval of the mean of values in [0, most]; None if all are equal.

    It is Student's interval, corrected for skewness by Hall's transformation: a loss is small for
    most images and large for a few.

    Hall, On the removal of skewness by transformation, JRSS B 1992.

    Examples
    --------
    >>> [round(end, 3) for end in of_mean(np.array([1.0, 2.0, 3.0]), most=9.0)]
    [0.0, 4.484]
    >>> [round(end, 3) for end in of_mean(np.array([0.1, 0.1, 0.2, 2.0]), most=9.0)]
    [0.0, 5.389]
    """
    if np.ptp(values) <= 1e-12 * most:  # they differ by rounding at most
        return None
    n, mean = len(values), float(values.mean())
    deviations = values - mean
    variance = float(np.square(deviations).mean())
    error = float(np.sqrt(variance / (n - 1)))
    skew = float((deviations**3).mean()) / variance**1.5 / (3 * np.sqrt(n))
    quantile = float(special.stdtrit(n - 1, (1 + LEVEL) / 2))

    def corrected(t: float) -> float:
        if abs(skew) < 1e-9:
            return t
        return float((np.cbrt(1 + 3 * skew * (t - skew / 2)) - 1) / skew)

    low, high = mean - error * corrected(quantile), mean - error * corrected(-quantile)
    return max(low, 0.0), min(high, most)


def of_mean_share(successes: NDArray[np.int64], trials: NDArray[np.int64]) -> tuple[float, float]:
    """Return the ends of a score interval of the mean of K independent shares, such as recalls.

    For one share it is Wilson's. The end is the mean of those shares, most likely in one direction,
    from which the observed mean is 1.96 standard errors away. So if all images of a small class
    are right, the standard error is not that of a certain class.

    Examples
    --------
    >>> [round(end, 3) for end in of_mean_share(np.array([9]), np.array([10]))]
    [0.596, 0.982]
    >>> [round(end, 3) for end in of_mean_share(np.array([36, 2]), np.array([38, 2]))]
    [0.628, 0.993]
    """
    n = trials.astype(np.float64)
    value = float((successes / n).mean())
    pooled = (successes.sum() + 0.5) / (n.sum() + 1)
    logits = special.logit((successes + _PRIOR * pooled) / (n + _PRIOR))  # (K,)
    larger = _lost_variance(n)
    steps = n.min() / n  # a class of few images moves most

    def at(t: float, sign: int) -> tuple[float, float]:
        """Return the mean of the shares at t, and how far it is outside: negative inside."""
        shares = special.expit(logits + sign * t * steps)
        mean = float(shares.mean())
        variance = float((larger * shares * (1 - shares) / n).sum()) / len(n) ** 2
        return mean, sign * (mean - value) - _Z * math.sqrt(variance)

    return _first_outside(lambda t: at(t, -1)), _first_outside(lambda t: at(t, 1))


def _first_outside(at: Callable[[float], tuple[float, float]]) -> float:
    """Return the mean where the distance is 0, by the Illinois variant of false position.

    If none is outside, it is the farthest: exactly 0 or 1.
    """
    inside, out = 0.0, 1.0
    below, above = at(inside)[1], at(out)[1]
    while above < 0 and out < _FARTHEST:
        inside, below, out = out, above, 2 * out
        above = at(out)[1]
    mean, side = at(out)[0], 0
    while out - inside > _CLOSE * out and above > 0:
        middle = out - above * (out - inside) / (above - below)
        mean, found = at(middle)
        if abs(found) < _CLOSE:
            break
        if found > 0:
            out, above, below, side = middle, found, below / 2 if side > 0 else below, 1
        else:
            inside, below, above, side = middle, found, above / 2 if side < 0 else above, -1
    return mean


def _lost_variance(n: Floats) -> Floats:
    """Return by how much p (1 - p) of smoothed shares is too small, (K,).

    A share of n trials, with the prior's counted in, has n / (n + prior)^2 less on average.
    """
    return 1 / (1 - n / (n + _PRIOR) ** 2 * (1 - 1 / len(n)))


def of_f1(counts: ClassCounts) -> tuple[Floats, Floats]:
    """Return the ends of intervals of F1 by class, (K,); of classes that were met.

    Of the images that are of a class or predicted as it, the share J that is both is binomial, and
    F1 = 2 J / (1 + J): the ends are those of Wilson's interval of J.

    Examples
    --------
    >>> low, high = of_f1(ClassCounts(*(np.array([count]) for count in (0, 3, 0))))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0], [0.719])
    """
    union = counts.actual + counts.predicted - counts.hits
    low, high = wilson(counts.hits / union, union.astype(np.float64))
    return 2 * low / (1 + low), 2 * high / (1 + high)


def of_macro_f1(confusion: NDArray[np.int64]) -> tuple[float, float]:
    """Return the ends of an interval of macro F1, of the confusion matrix of two classes or more.

    Rows of the matrix are true classes; those without images are left out of the mean. The variance
    is that of the asymptotic interval of Takahashi et al., of a smoothed matrix. It gives the
    number of images with which a plain share would be as uncertain, and that number gives Wilson's
    interval. Its centre is corrected for the bias of F1 in small classes.

    Takahashi et al., Confidence interval for micro-averaged F1 and macro-averaged F1 scores,
    Applied Intelligence 2022.

    Examples
    --------
    >>> [round(end, 3) for end in of_macro_f1(np.array([[1, 0], [0, 1]]))]
    [0.313, 1.0]
    """
    hits, actual, predicted = (
        counts.astype(np.float64)
        for counts in (np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    )
    present = actual > 0
    union = np.maximum(actual + predicted - hits, 1)
    both = hits / union  # (K,), J of ``of_f1``; F1 is concave in it
    unbiased = both * (1 - both) / np.maximum(union - 1, 1)
    value = (2 * both / (1 + both))[present].mean()
    centre = value + (2 / (1 + both) ** 3 * unbiased)[present].mean()  # at most 1
    smoothed, variance = _smoothed_macro_f1(confusion, hits, actual, predicted)
    size = smoothed * (1 - smoothed) / (variance * _lost_variance(actual[present]).mean())
    low, high = wilson(np.array([centre]), np.array([size]))
    return float(min(low[0], value)), float(max(high[0], value))


def _smoothed_macro_f1(
    confusion: NDArray[np.int64],  # (K, K)
    hits: Floats,  # (K,), as the others
    actual: Floats,
    predicted: Floats,
) -> tuple[float, float]:
    """Return macro F1 and its variance after each row got a prior image, by the pooled shares.

    The prior's wrong answers go to the other classes as often as these are predicted. Their sums
    are written out, so that no dense matrix is needed: most of 5,000 by 5,000 cells are empty.
    """
    present = actual > 0
    right = (hits.sum() + 0.5) / (actual.sum() + 1)
    to = (predicted + 0.5) / (predicted + 0.5).sum()
    scale = np.where(present, actual / (actual + _PRIOR), 0.0)  # a row keeps its sum
    wrong = _PRIOR * (1 - right) * scale / (1 - to)
    rows, columns = np.nonzero(confusion)
    off = rows != columns
    rows, columns = rows[off], columns[off]
    counts = confusion[rows, columns] * scale[rows]
    hits = (hits + _PRIOR * right) * scale
    missed = actual - hits
    false = np.bincount(columns, counts, len(to)) + to * (wrong.sum() - wrong)
    total = np.maximum(actual + hits + false, 1)  # the maximum is for classes without images
    f1 = 2 * hits / total
    weight = present / total / present.sum()
    loss = weight * f1  # what one wrong image takes from the mean, by its two classes
    variance = (hits * (2 * weight * (1 - f1)) ** 2).sum() + ((missed + false) * loss**2).sum()
    variance += 2 * (counts * loss[rows] * loss[columns]).sum()
    variance += 2 * (wrong * loss * ((to * loss).sum() - to * loss)).sum()
    return float(f1[present].mean()), float(variance)
