"""One temperature for all logits, fitted on samples that the head had not seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Beyond these a few scored samples, not the head, would decide.
LOWEST, HIGHEST = 0.25, 4.0


def fit_temperature(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
    *,
    bounds: tuple[float, float] = (LOWEST, HIGHEST),
) -> float:
    """Find the temperature of least log-loss.

    Parameters
    ----------
    logits : array of shape (N, K), float32
        Of samples that the head was not fitted on.
    labels : array of shape (N,), int64
        Their classes.
    weights : array of shape (N,), float64, optional
        What each sample counts; all the same where not given.
    bounds : tuple of float
        Least and largest temperature.

    Returns
    -------
    float
        1 where there is no sample.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Examples
    --------
    >>> logits = np.array([[4, 0], [4, 0], [4, 0], [0, 4]], dtype=np.float32)
    >>> fit_temperature(logits, np.array([0, 0, 1, 1]))  # sure of itself, right 3 times in 4
    3.64...
    """
    if not len(labels):
        return 1.0
    logits64 = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        each = log_losses(logits64 / math.exp(log_temperature), labels)
        return float(np.average(each, weights=weights))

    found = minimize_scalar(
        loss, bounds=(math.log(bounds[0]), math.log(bounds[1])), method="bounded",
        options={"xatol": 1e-4},
    )  # fmt: skip
    return math.exp(float(found.x))


def log_losses(
    logits: NDArray[np.float32] | NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return each sample's cross-entropy in nats.

    Parameters
    ----------
    logits : array of shape (N, K)
        Finite.
    labels : array of shape (N,), int64
        Classes.

    Returns
    -------
    array of shape (N,), float64
    """
    logits64 = logits.astype(np.float64, copy=False)
    right = logits64[np.arange(len(labels)), labels]
    return np.asarray(logsumexp(logits64, axis=1) - right)
