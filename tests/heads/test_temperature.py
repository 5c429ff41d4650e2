"""The temperature: the root of the derivative of a loss with its targets written out."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from regraft.heads.temperature import HIGHEST, LOWEST, fit_temperature, log_losses


def least(logits, labels, weights, bounds):
    """Return the temperature at which the slope of the loss in its inverse is zero."""
    n, k = logits.shape
    targets = np.full((n, k), 1 / (n + 2) / (k - 1))
    targets[np.arange(n), labels] = 1 - 1 / (n + 2)
    logits = logits.astype(np.float64)

    def slope(inverse):
        each = ((softmax(logits * inverse, axis=1) - targets) * logits).sum(1)
        return (weights * each).sum()

    low, high = 1 / bounds[1], 1 / bounds[0]
    if slope(low) >= 0:
        return bounds[1]
    return bounds[0] if slope(high) <= 0 else 1 / brentq(slope, low, high, xtol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_temperature_has_the_least_loss_of_smoothed_targets(seed):
    chance = np.random.default_rng(seed)
    n, k = int(chance.integers(1, 30)), int(chance.integers(2, 6))
    labels = chance.integers(0, k, n)
    spread = 10 ** chance.uniform(-1, 1.5)  # the bounds are reached, too
    logits = spread * (chance.normal(size=(n, k)) + 2 * np.eye(k)[labels] + chance.normal(size=k))
    logits = logits.astype(np.float32)
    weights = chance.uniform(0.1, 3, n)
    for bounds in ((LOWEST, HIGHEST), (1e-3, 1e3)):
        found = fit_temperature(logits, labels, weights, bounds=bounds)
        assert found == pytest.approx(least(logits, labels, weights, bounds), rel=5e-4)
    every = least(logits, labels, np.ones(n), (LOWEST, HIGHEST))
    assert fit_temperature(logits, labels) == pytest.approx(every, rel=5e-4)


def test_without_samples_the_temperature_is_one():
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)) == 1


def test_log_losses_are_those_of_the_log_of_the_softmax():
    chance = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        logits = (20 * chance.normal(size=(50, 7))).astype(dtype)
        labels = chance.integers(0, 7, 50)
        found = log_losses(logits, labels)
        expected = -log_softmax(logits.astype(float), axis=1)[np.arange(50), labels]
        assert found.dtype == np.float64
        assert found == pytest.approx(expected, rel=1e-12)
