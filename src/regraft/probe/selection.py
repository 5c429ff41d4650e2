"""Choose a set of features: the smallest within one standard error of the best.

The rule of one standard error is from Breiman et al., Classification and Regression Trees, 1984,
section 3.4.3. Here it is the error of the paired difference, over clusters of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.heads.fitted import differ
from regraft.heads.temperature import log_losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.heads.fitted import FittedHead


#: Columns of the table that are empty where no row was scored.
_MEASURED = ("log_loss", "log_loss_se", "accuracy", "accuracy_se", "above_best", "above_best_se")


@dataclass(frozen=True)
class Candidate:
    """One set of features, and the head that was fitted on it."""

    name: str
    n_features: int  # of the final head
    fitted: FittedHead  # all candidates are fitted on the same rows and folds
    seconds: float  # of weighing, projecting and fitting


def smallest_within_one_error(
    candidates: Sequence[Candidate],  # at least one
    y: NDArray[np.int64],  # (N,)
    clusters: NDArray[np.int64],  # (N,), groups and copies, whose losses are not independent
    weights: NDArray[np.float64],  # (N,)
) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of the smallest candidate within one standard error of the least log-loss.

    Of candidates of one size within it, that is the first that was given.

    Also return one row for each candidate: out-of-fold loss and accuracy with their standard
    errors, and the paired difference from the least loss; None if no row was scored. Where rows
    weigh differently, the choice and that difference are by the weighted loss, which has columns of
    its own, "balanced_log_loss" and its error.
    """
    by_size = sorted(candidates, key=lambda c: c.n_features)
    losses = {c.name: _losses(c.fitted, y) for c in candidates}
    scored = np.logical_and.reduce([c.fitted.scored for c in candidates])
    clusters, weights = clusters[scored], weights[scored]
    same, apart = np.ones(len(weights)), differ(weights)
    means = {name: _mean(values[scored], weights) for name, values in losses.items()}
    best = min(candidates, key=lambda c: means[c.name])  # all are 0 if no row was scored
    rows, chosen = [], best.name
    for candidate in reversed(by_size):
        name, mine = candidate.name, losses[candidate.name][scored]
        above, error = paired_difference(mine, losses[best.name][scored], clusters, weights)
        if candidate.n_features <= best.n_features and above <= error:
            chosen = name
        right = candidate.fitted.oof_logits[scored].argmax(1) == y[scored]
        rows.append(
            {
                "taps": name,
                "features": candidate.n_features,
                **_mean_and_error("log_loss", mine, clusters, same),
                **_mean_and_error("accuracy", right.astype(float), clusters, same),
                **(_mean_and_error("balanced_log_loss", mine, clusters, weights) if apart else {}),
                "above_best": above,
                "above_best_se": error,
                "seconds": round(candidate.seconds, 3),
            }
        )
    if not scored.any():  # too few images: none was held out
        rows = [row | dict.fromkeys(_MEASURED) for row in rows]
    return chosen, [row | {"chosen": row["taps"] == chosen} for row in rows[::-1]]


def paired_difference(
    losses: NDArray[np.float64],  # (n,)
    others: NDArray[np.float64],  # (n,), of the same rows
    clusters: NDArray[np.int64],  # (n,), differences in one cluster are added up first
    weights: NDArray[np.float64],  # (n,)
) -> tuple[float, float]:
    """Return the mean difference of two losses and its standard error; 0 and 0 without rows.

    Examples
    --------
    >>> one, two = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.0, 3.0, 3.0])
    >>> paired_difference(one, two, np.arange(4), np.ones(4))
    (0.625, 0.207...)
    """
    difference = losses - others
    return _mean(difference, weights), _error(difference, clusters, weights)


def _mean_and_error(
    name: str,
    values: NDArray[np.float64],
    clusters: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> dict[str, float | None]:
    """Return two columns of the table; no error where all values are equal, which shows none."""
    return {name: _mean(values, weights), f"{name}_se": _error(values, clusters, weights) or None}


def _losses(fitted: FittedHead, y: NDArray[np.int64]) -> NDArray[np.float64]:
    return log_losses(fitted.oof_logits / np.float32(fitted.temperature), y)


def _mean(values: NDArray[Any], weights: NDArray[np.float64]) -> float:
    return float(np.average(values, weights=weights)) if len(values) else 0.0


def _error(
    values: NDArray[np.float64], clusters: NDArray[np.int64], weights: NDArray[np.float64]
) -> float:
    """Return the standard error of a weighted mean over clusters."""
    if not len(values):
        return 0.0
    away = weights * (values - _mean(values, weights))
    sums = np.bincount(np.unique(clusters, return_inverse=True)[1], weights=away)
    return float(np.sqrt(np.square(sums).sum()) / weights.sum())
