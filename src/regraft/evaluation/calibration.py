"""The calibration error, beside that of a model whose probabilities are exactly right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.evaluation.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 15  # of the calibration error: the customary number
_REPEATS = 1000
_DRAWS_AT_ONCE = 4_000_000  # 16 MB of random numbers


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
    order = np.argsort(confidences, kind="stable")
    confidences, hits = confidences[order], hits[order]
    # Bins are by value, not by rank: equal confidences share a bin in any order of the images.
    inner = np.quantile(confidences, np.arange(1, BINS) / BINS)
    starts = np.unique(np.searchsorted(confidences, np.unique(inner), side="right"))
    starts = np.concatenate([[0], starts[(starts > 0) & (starts < len(hits))]])
    value = float(_errors(hits[None], confidences, starts)[0])
    random = np.random.default_rng(seed)
    errors = np.empty(_REPEATS)
    step = max(1, _DRAWS_AT_ONCE // len(hits))
    for start in range(0, _REPEATS, step):
        shape = (min(step, _REPEATS - start), len(hits))
        drawn = random.random(shape, dtype=np.float32) < confidences.astype(np.float32)
        errors[start : start + step] = _errors(drawn, confidences, starts)
    expected = {"mean": float(errors.mean()), "high": float(np.quantile(errors, LEVEL))}
    return {"value": value, "bins": BINS, "calibrated": expected}


def _errors(
    hits: NDArray[np.bool_],  # (B, n), in the order of the confidences
    confidences: NDArray[np.float64],  # (n,)
    starts: NDArray[np.int64],  # of the bins
) -> NDArray[np.float64]:
    """Return the mean over bins of |accuracy - confidence|, weighted by images, (B,)."""
    right = np.add.reduceat(hits, starts, axis=1, dtype=np.int64)  # (B, bins)
    gaps = right - np.add.reduceat(confidences, starts)
    errors: NDArray[np.float64] = np.abs(gaps).sum(axis=1) / len(confidences)
    return errors
