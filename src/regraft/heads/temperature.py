"""One temperature for all logits, fitted on samples that the head had not seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Temperatures outside would be decided by a few scored samples, not by the head.
LOWEST, HIGHEST = 0.25, 4.0


def fit_temperature(
    logits: NDArray[np.float32] | NDArray[np.float64],  # (N, K), of samples the fit has not seen
    labels: NDArray[np.int64],  # (N,)
    weights: NDArray[np.float64] | None = None,  # (N,)
    *,
    bounds: tuple[float, float] = (LOWEST, HIGHEST),
) -> float:
    """Return the temperature of least log-loss, as if one more answer had been wrong.

    Each target gives 1 / (N + 2) to the other classes, like Platt's. Without this, if all N
    answers are right, a lower temperature is always better, which says nothing about new images.
    Without samples the temperature is 1.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    Platt, Probabilistic Outputs for Support Vector Machines, 1999, for the targets.

    Examples
    --------
    >>> logits = np.tile(np.array([[4, 0], [4, 0], [4, 0], [0, 4]], dtype=np.float32), (25, 1))
    >>> fit_temperature(logits, np.tile([0, 0, 1, 1], 25))  # sure of itself, right 3 times in 4
    3.72...
    """
    n, n_classes = logits.shape
    if not n:
        return 1.0
    logits64 = logits.astype(np.float64)
    right = logits64[np.arange(n), labels]
    others = (logits64.sum(1) - right) / (n_classes - 1)
    expected = right + (others - right) / (n + 2)  # logit of the smoothed target

    def loss(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        each = logsumexp(logits64 * inverse, axis=1) - expected * inverse
        return float(np.average(each, weights=weights))

    logs = math.log(bounds[0]), math.log(bounds[1])
    found = minimize_scalar(loss, bounds=logs, options={"xatol": 1e-4})
    return math.exp(float(found.x))


def log_losses(
    logits: NDArray[np.float32] | NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the cross-entropy of each sample in nats, (N,), from finite logits (N, K)."""
    logits64 = np.asarray(logits, np.float64)
    right = logits64[np.arange(len(labels)), labels]
    return np.asarray(logsumexp(logits64, axis=1) - right)
