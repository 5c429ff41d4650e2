"""95 % intervals: of shares (Wilson), of means (Student's t), of scores per class (bootstrap)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEVEL = 0.95
_TAILS = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
_COUNTS_AT_ONCE = 4_000_000  # 32 MB of resampled counts

Floats: TypeAlias = NDArray[np.float64]


def wilson(successes: NDArray[np.int64], trials: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the lower and upper ends of Wilson's score interval of many shares, in [0, 1].

    ``0 <= successes <= trials`` and ``trials >= 1``. The numbers are those of
    ``scipy.stats.binomtest(k, n).proportion_ci(method="wilson")``, which also computes a test and
    takes 0.6 ms a share: too long for two shares in each of 1,000 classes.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.

    Examples
    --------
    >>> low, high = wilson(np.array([9]), np.array([10]))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.596], [0.982])
    """
    z = special.ndtri(_TAILS[1])
    n, share = trials.astype(np.float64), successes / trials
    centre = share + z**2 / (2 * n)
    spread = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (centre - spread) / (1 + z**2 / n), (centre + spread) / (1 + z**2 / n)
    # Exact ends: rounding would leave 1e-17 or 1 - 1e-16.
    return np.where(successes == 0, 0.0, low), np.where(successes == trials, 1.0, high)


def of_mean(values: Floats) -> tuple[float | None, float | None]:
    """Return the ends of Student's interval of a mean; (None, None) for fewer than two values.

    Examples
    --------
    >>> [round(end, 3) for end in of_mean(np.array([1.0, 2.0, 3.0]))]
    [-0.484, 4.484]
    """
    if len(values) < 2:
        return None, None
    half = special.stdtrit(len(values) - 1, _TAILS[1]) * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return float(mean - half), float(mean + half)


class ClassCounts(NamedTuple):
    """Numbers of images by class, each (K,), or (B, K) for B resampled test parts."""

    hits: NDArray[np.int64]  # of the class and predicted as the class
    actual: NDArray[np.int64]  # of the class
    predicted: NDArray[np.int64]  # predicted as the class


def bootstrap(
    confusion: NDArray[np.int64],  # (K, K), rows are true classes
    score: Callable[[ClassCounts], Floats],  # counts (B, K) to scores (B, S)
    *,
    repeats: int,
    seed: int,
) -> tuple[Floats, Floats]:
    """Return the ends (S,) of percentile intervals of scores of a confusion matrix.

    A score may be NaN, undefined, in some resamples but not in all; its interval is over the
    others.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    scores = np.concatenate([score(counts) for counts in _resample(confusion, repeats, seed)])
    if np.isnan(scores).any():
        low, high = np.nanquantile(scores, _TAILS, axis=0)
    else:
        low, high = np.quantile(scores, _TAILS, axis=0)
    return low, high


def _resample(confusion: NDArray[np.int64], repeats: int, seed: int) -> Iterator[ClassCounts]:
    """Yield the counts of resampled test parts, (B, K), some parts at a time.

    To resample n images with replacement is a multinomial draw over the cells of their confusion
    matrix. Images or cells are drawn, whichever is faster.
    """
    random = np.random.default_rng(seed)
    actual, predicted = np.nonzero(confusion)  # (C,), of the cells that are not empty
    cells = confusion[actual, predicted]
    n, n_classes, n_cells = int(cells.sum()), len(confusion), len(cells)
    ones, numbers = np.ones(n_cells, dtype=np.int64), np.arange(n_cells)
    by_actual = sparse.csr_array((ones, (actual, numbers)), shape=(n_classes, n_cells))
    by_predicted = sparse.csr_array((ones, (predicted, numbers)), shape=(n_classes, n_cells))
    by_hit = sparse.csr_array((actual == predicted) * by_actual)
    of_image = np.repeat(numbers, cells)  # (n,), the cell of each image
    while repeats > 0:
        batch = min(repeats, max(1, _COUNTS_AT_ONCE // n_cells))
        repeats -= batch
        if 8 * n_cells < n:  # the draw of one cell costs as much as eight images
            counts = random.multinomial(n, cells / n, size=batch)
        else:
            counts = np.stack(
                [
                    np.bincount(of_image[random.integers(0, n, n)], minlength=n_cells)
                    for _ in range(batch)
                ]
            )
        transposed = np.ascontiguousarray(counts.T)  # (C, B)
        yield ClassCounts(
            np.asarray(by_hit @ transposed).T,
            np.asarray(by_actual @ transposed).T,
            np.asarray(by_predicted @ transposed).T,
        )
