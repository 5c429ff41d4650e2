"""The calibration error, beside that of a model whose probabilities are exactly right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.evaluation.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 15  # of the calibration error: the customary number
_REPEATS = 1000
#: Of many images, those of nearly equal confidence are drawn together, in about so many groups.
_GROUPS = 600


def calibration_error(
    confidences: NDArray[np.float64],  # (n,), of the predicted class
    hits: NDArray[np.bool_],  # (n,)
    seed: int,
) -> dict[str, Any]:
    """Return the expected calibration error, and what calibrated models would show.

    The error of few images is far from 0 even if every probability is right: with 20 images it is
    0.28 on average. So answers are drawn a thousand times that are right with exactly the
    probabilities given. ``calibrated`` has the mean of their errors, and ``high``, which 95 % of
    them do not exceed: an error above it is no chance.

    Vaicenavicius et al., Evaluating model calibration in classification, AISTATS 2019.

    Examples
    --------
    >>> sure = calibration_error(np.full(50, 0.8), np.arange(50) < 30, seed=0)
    >>> round(sure["value"], 3), round(sure["calibrated"]["high"], 2)
    (0.2, 0.12)
    """
    order = np.argsort(confidences)
    confidences, hits = confidences[order], hits[order]
    # Bins are by value, not by rank: equal confidences share a bin in any order of the images.
    inner = np.quantile(confidences, np.arange(1, BINS) / BINS)
    starts = np.unique(np.searchsorted(confidences, np.unique(inner), side="right"))
    starts = np.concatenate([[0], starts[starts < len(hits)]])  # no quantile is below the least
    sums = np.add.reduceat(confidences, starts)  # (bins,)
    value = _error(np.add.reduceat(hits, starts, dtype=np.int64), sums, len(hits))
    errors = _error(_drawn(confidences, starts, seed), sums, len(hits))
    expected = {"mean": float(errors.mean()), "high": float(np.quantile(errors, LEVEL))}
    return {"value": float(value), "bins": BINS, "calibrated": expected}


def _drawn(
    confidences: NDArray[np.float64],  # (n,), ascending
    starts: NDArray[np.int64],  # of the bins
    seed: int,
) -> NDArray[np.int64]:
    """Draw how many answers are right if each is with its confidence, (_REPEATS, bins).

    Within a group each answer is right with the mean confidence: up to ``_GROUPS`` images that is
    exact, and with more images the confidences of a group hardly differ.
    """
    n = len(confidences)
    groups = np.union1d(starts, np.linspace(0, n, min(n, _GROUPS), endpoint=False, dtype=np.int64))
    sizes = np.diff(groups, append=n)
    shares = np.add.reduceat(confidences, groups) / sizes  # rounded, no sum of n is above n
    right = np.random.default_rng(seed).binomial(sizes, shares, (_REPEATS, len(groups)))
    return np.add.reduceat(right, np.searchsorted(groups, starts), axis=1)


def _error(
    right: NDArray[np.int64],  # (..., bins)
    sums: NDArray[np.float64],  # (bins,), of the confidences
    n: int,
) -> NDArray[np.float64]:
    """Return the mean over bins of |accuracy - confidence|, weighted by images."""
    return np.abs(right - sums).sum(axis=-1) / n  # type: ignore[no-any-return]
