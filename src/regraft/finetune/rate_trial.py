"""A learning rate by trial: steps whose rate rises until the loss does (Smith 2017)."""

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

    from regraft.finetune.batches import Batch
    from regraft.finetune.loop import Loop

STEPS = 120
LOWEST, HIGHEST = 1e-6, 10.0  # 17 steps to each power of ten
_LEAST = 20  # losses from which something can be said
_WIDTH = 3.0  # steps, of the Gaussian that smooths: no lag, unlike a running mean
_LAST = 5  # losses whose mean ends the trial


@dataclass(frozen=True)
class Rates:
    """What a trial has found.

    Attributes
    ----------
    rates : array of shape (n,), float64
        Ascending; n is less than ``STEPS`` where the loss ran away.
    losses : array of shape (n,), float64
        Of the batch at each rate, before its step.
    smooth : array of shape (n,), float64
        The losses, smoothed.
    limit : float
        Largest rate at which the smoothed loss was not above its lowest value by more than four
        times its noise: in a flat stretch the lowest of a hundred lies two to three below the mean.
    default : float
        What training takes where no rate is given.
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
            reason = f"a tenth of {self.limit:.1e}, behind which the loss rose"
        return (
            f"--lr {self.suggestion:.1e}: {reason}\n"
            f"loss {start:.4f} at first, {best:.4f} at its lowest, {self.losses[-1]:.4f} at last, "
            f"in {len(self.losses)} steps\n"
            f"where no rate is given: {self.default:.1e}"
        )


def try_rates(loop: Loop) -> Rates:
    """Make steps with a rising rate on training images alone, until the loss runs away.

    Parameters
    ----------
    loop : Loop
        That has not begun; its network is of no use afterwards. Nothing is saved.

    Returns
    -------
    Rates
        A function of seed, settings and images, to the bit as a training is.

    Raises
    ------
    DivergedError
        Where the loss is not finite within the first steps, at rates of nearly nothing.

    References
    ----------
    Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017. The tenth: fastai.
    """
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    default, chance = loop.schedule.learning_rate, math.log(max(len(loop.state.network.bias), 2))
    loop.schedule = dataclasses.replace(loop.schedule, rate=lambda step: float(rates[step]))
    losses: list[float] = []
    lowest = math.inf
    with loop.reporter.track("lr-find", STEPS) as advance, closing(_batches(loop)) as batches:
        for batch in itertools.islice(batches, STEPS):
            try:
                loop.learn(batch)
            except DivergedError:
                if len(losses) < _LEAST:
                    raise
                break
            losses.append(loop.batch_loss)
            advance(1, f"rate {rates[len(losses) - 1]:.1e}, loss {losses[-1]:.3f}")
            recent = float(np.mean(losses[-_LAST:]))
            lowest = min(lowest, recent) if len(losses) >= _LAST else math.inf
            if len(losses) > _LEAST and recent > max(4 * lowest, 2 * chance):
                break
    return _read(rates[: len(losses)], np.asarray(losses), default)


def _batches(loop: Loop) -> Generator[Batch]:
    """Yield the batches of one epoch after the other, as a training would see them."""
    for epoch in itertools.count(1):
        with loop.images.epoch(epoch, loop.schedule.batch) as batches:
            yield from batches


def _read(rates: NDArray[np.float64], losses: NDArray[np.float64], default: float) -> Rates:
    """Find where the loss begins to rise for good."""
    smooth = gaussian_filter1d(losses, _WIDTH, mode="nearest")
    # Of a smoothed value, from the median distance: the losses that ran away do not count in it.
    noise = 1.4826 * np.median(np.abs(losses - smooth)) / math.sqrt(2 * _WIDTH * math.sqrt(math.pi))
    good = np.flatnonzero(smooth <= smooth.min() + 4 * noise)
    return Rates(rates, losses, smooth, float(rates[good[-1]]), default)
