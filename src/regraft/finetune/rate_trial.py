"""A learning rate by trial: the rate rises from step to step until the loss does (Smith 2017)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

from regraft.errors import DivergedError

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from regraft.finetune.batches import Batch, TrainingBatches
    from regraft.finetune.step import TrainingStep

STEPS = 120
LOWEST, HIGHEST = 1e-6, 10.0  # 17 steps to each power of ten
_LEAST = 20  # losses below which no rate can be suggested
_WIDTH = 3.0  # steps, of the Gaussian that smooths: no lag, unlike a running mean
_LAST = 5  # losses whose mean ends the trial


@dataclass(frozen=True)
class Rates:
    """The result of a trial: the loss at each learning rate.

    Attributes
    ----------
    rates : array of shape (n,), float64
        Ascending; n is less than 120 where the loss rose early.
    losses : array of shape (n,), float64
        Mean loss of the batch at each rate, before its step.
    smooth : array of shape (n,), float64
        The losses, smoothed.
    limit : float
        Largest rate whose smoothed loss was above the lowest one by at most four times the noise:
        on a flat curve the lowest of a hundred values is two to three times the noise below the
        mean.
    default : float
        Rate of a training that sets none.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smooth: NDArray[np.float64]
    limit: float
    default: float

    @property
    def suggestion(self) -> float:
        """A tenth of the limit."""
        return self.limit / 10

    def summary(self) -> str:
        """Return suggestion, reason and default in three lines."""
        start, best = self.smooth[0], self.smooth.min()
        if self.limit >= self.rates[-1]:
            reason = f"the loss had not risen at {self.limit:.1e}, the largest rate tried"
        else:
            reason = f"a tenth of {self.limit:.1e}, above which the loss rose"
        return (
            f"`lr={self.suggestion:.1e}`: {reason}\n"
            f"loss {start:.4f} at first, {best:.4f} at its lowest, {self.losses[-1]:.4f} at last, "
            f"in {len(self.losses)} steps\n"
            f"where no rate is given: {self.default:.1e}"
        )


def try_rates(training_step: TrainingStep, batches: TrainingBatches) -> Rates:
    """Take steps with a rising rate on training images alone, until the loss has risen.

    The network cannot be used afterwards. Raises DivergedError where the loss is not finite in the
    first steps, at very low rates. Smith, WACV 2017; a tenth of the limit: fastai.
    """
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    schedule = training_step.schedule
    default, n_classes = schedule.learning_rate, len(training_step.state.network.bias)
    training_step.schedule = dataclasses.replace(schedule, rate=lambda step: float(rates[step]))
    losses: list[float] = []
    with (
        training_step.reporter.track("lr-find", STEPS) as advance,
        closing(_endless(batches, schedule.steps)) as endless,
    ):
        for batch in itertools.islice(endless, STEPS):
            try:
                losses.append(training_step.take(batch))
            except DivergedError:
                if len(losses) < _LEAST:
                    raise
                break
            advance(1, f"rate {rates[len(losses) - 1]:.1e}, loss {losses[-1]:.3f}")
            if _has_risen(losses, math.log(max(n_classes, 2))):
                break
    return _read(rates[: len(losses)], np.asarray(losses), default)


def _endless(batches: TrainingBatches, steps: int) -> Generator[Batch]:
    """Yield the batches of one epoch after the other, in the order of a training."""
    for epoch in itertools.count(1):
        with batches.epoch(epoch, steps) as opened:
            yield from opened


def _has_risen(losses: list[float], chance: float) -> bool:
    """Return whether the last losses are far above the lowest ones and above chance."""
    if len(losses) <= _LEAST:
        return False
    recent = [float(np.mean(losses[i - _LAST : i])) for i in range(_LAST, len(losses) + 1)]
    return recent[-1] > max(4 * min(recent), 2 * chance)


def _read(rates: NDArray[np.float64], losses: NDArray[np.float64], default: float) -> Rates:
    """Find the rate above which the loss rises and does not fall again."""
    smooth = gaussian_filter1d(losses, _WIDTH, mode="nearest")
    # Noise of a smoothed value, by the median distance: very large losses at the end do not count.
    noise = 1.4826 * np.median(np.abs(losses - smooth)) / math.sqrt(2 * _WIDTH * math.sqrt(math.pi))
    good = np.flatnonzero(smooth <= smooth.min() + 4 * noise)
    return Rates(rates, losses, smooth, float(rates[good[-1]]), default)
