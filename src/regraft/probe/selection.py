"""Which candidate to keep: the smallest within one standard error of the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.heads.temperature import log_losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.heads.fitted import FittedHead


_MEASURED = (
    *("log_loss", "log_loss_se", "accuracy", "accuracy_se", "above_best", "above_best_se"),
)


@dataclass(frozen=True)
class Candidate:
    """One way of fitting, and what it came to.

    Attributes
    ----------
    name : str
        As it is printed.
    n_features : int
        What a deployed head reads; decides which of two candidates is the smaller.
    fitted : FittedHead
        With out-of-fold logits; all candidates were fitted on the same rows and folds.
    seconds : float
        Of weighing, projecting and fitting.
    """

    name: str
    n_features: int
    fitted: FittedHead
    seconds: float


def smallest_within_one_error(
    candidates: Sequence[Candidate],
    y: NDArray[np.int64],
    clusters: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> tuple[str, list[dict[str, Any]]]:
    """Choose the smallest candidate whose out-of-fold log-loss is within one error of the least.

    Parameters
    ----------
    candidates : sequence of Candidate
        At least one.
    y : array of shape (N,), int64
        Classes of the rows that they were fitted on.
    clusters : array of shape (N,), int64
        Groups and copies, whose losses go up and down together.
    weights : array of shape (N,), float64
        What a row counts.

    Returns
    -------
    tuple of str and list of dict
        The name, and one row a candidate: name, features, out-of-fold loss and accuracy with their
        standard errors, the paired difference to the least loss (None where no row was scored),
        seconds, chosen.

    References
    ----------
    Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (the rule of one
    standard error); here of the paired difference, a cluster at a time.
    """
    losses = {c.name: _losses(c.fitted, y) for c in candidates}
    scored = np.logical_and.reduce([c.fitted.scored for c in candidates])
    by_size = sorted(candidates, key=lambda c: c.n_features)
    means = {name: _mean(values[scored], weights[scored]) for name, values in losses.items()}
    best = min(means, key=lambda name: means[name]) if scored.any() else by_size[0].name
    rows, chosen = [], best
    for candidate in by_size[::-1]:
        name = candidate.name
        difference, error = paired_difference(
            losses[name][scored], losses[best][scored], clusters[scored], weights[scored]
        )
        smaller = candidate.n_features <= next(c for c in candidates if c.name == best).n_features
        if smaller and difference <= error:
            chosen = name
        right = candidate.fitted.oof_logits[scored].argmax(1) == y[scored]
        rows.append(
            {
                "taps": name,
                "features": candidate.n_features,
                "log_loss": means[name],
                "log_loss_se": _error(losses[name][scored], clusters[scored], weights[scored]),
                "accuracy": _mean(right, weights[scored]),
                "accuracy_se": _error(right.astype(float), clusters[scored], weights[scored]),
                "above_best": difference,
                "above_best_se": error,
                "seconds": round(candidate.seconds, 3),
            }
        )
    if not scored.any():  # too few images to hold any out: no figure was measured
        rows = [row | dict.fromkeys(_MEASURED) for row in rows]
    return chosen, [row | {"chosen": row["taps"] == chosen} for row in rows[::-1]]


def paired_difference(
    losses: NDArray[np.float64],
    others: NDArray[np.float64],
    clusters: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> tuple[float, float]:
    """Return the mean difference of two losses on the same rows, and its standard error.

    Parameters
    ----------
    losses, others : array of shape (n,), float64
        Row by row.
    clusters : array of shape (n,), int64
        Rows of one cluster are not independent: their differences are added up first.
    weights : array of shape (n,), float64
        What a row counts.

    Returns
    -------
    tuple of float
        0 and 0 where there are no rows.

    Examples
    --------
    >>> one, two = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.0, 3.0, 3.0])
    >>> paired_difference(one, two, np.arange(4), np.ones(4))
    (0.625, 0.207...)
    """
    difference = losses - others
    return _mean(difference, weights), _error(difference, clusters, weights)


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
