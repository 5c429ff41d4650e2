"""Typicality: a p-value for "this image looks like the images of the training".

How unlike an image is, is told by two things, each in its own standard deviations, and added:

- Its distance from the fifth nearest row of a bank (pooled features of training images, at unit
  length), squared and divided by the same distance of the rows around it: in a dense part of the
  bank a small distance says more. Squared, because foreign images are far from dense parts too.
- The energy of the head's logits, minus the logarithm of the sum of their exponentials: an image
  of a class that is near, but none of the training's, has small logits (Liu et al.,
  Energy-based out-of-distribution detection, NeurIPS 2020).

Without a bank, the distance is that from a mean, which is rounded so much that it hardly tells who
was in the training; scores are rounded too (docs/design/novelty.md).

The p-value is the share of training images that are at least as unlike. One row stands for each
unit: images that are not independent of each other, such as copies or photographs of one patient.

Where the bank holds a row for each unit, a unit is measured without its own row, and by the logits
of a model that had not seen it. So training images are measured as new ones are, but for two
differences: a new image is not in the bank of the others, and its logits come from the final model.
Neither moves the level by more than chance (docs/design/novelty.md). That holds for
a network that was not trained on these images; after fine-tuning, images of the validation part are
measured instead.

Every similarity is a product of whole numbers that float32 holds exactly: the same features give
the same distance on every machine, in batches of every size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regraft.decision.scorers import (
    LEAST_UNITS,
    MOST_UNITS,
    SCORERS,
    Centre,
    Mahalanobis,
    Neighbours,
    as_integers,
)
from regraft.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Rows of the bank of more units; the others are measured against it.
BANK_ROWS = 2_000
#: Most units that are measured: the standard error of a p-value of 0.01 is then 0.001.
MOST_MEASURED = 8_192
#: Of the parts of a score. What varies less among the units than rounding does on other machines
#: would make each new image unlike, were it divided by its deviation.
_LEAST_DEVIATION, _LARGEST_MEAN = 1e-6, 1e12
#: Of more units, fewer than half may have an energy.
_ENOUGH = 1_000
_LARGEST_SCORE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Typicality:
    """A scorer, and the scores of units that it had not seen.

    Parameters
    ----------
    scorer : Neighbours, Centre or Mahalanobis
        How unlike an image is by its features.
    scores : array of shape (n,), float32, ascending
        Of units of the training, measured as a new image is.
    scale : array of shape (2, 2), float64, optional
        Mean and standard deviation, over these units, of what the scorer gives, and of the energy.
        Without it, a score is what the scorer gives.
    """

    scorer: Neighbours | Centre | Mahalanobis
    scores: NDArray[np.float32]
    scale: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        scorer: Neighbours | Centre | Mahalanobis,
        unlike: NDArray[np.float64],
        energies: NDArray[np.float64] | None,
    ) -> Typicality:
        """Return the typicality by what a scorer gave for n units that it had not seen.

        ``energies`` (n,) are by models that had not seen the unit either; NaN where there is none.
        They count if enough units have one, and if they differ: where logits are logarithms of
        probabilities, as those of k-NN are, each energy is 0 but for rounding.
        """
        known = np.zeros(len(unlike), bool) if energies is None else np.isfinite(energies)
        if energies is None or known.sum() < max(min(len(unlike) / 2, _ENOUGH), 1):
            return cls(scorer, _kept(unlike, scorer))
        least = _LEAST_DEVIATION * max(1, abs(energies[known].mean()))
        if energies[known].std() < least:
            return cls(scorer, _kept(unlike, scorer))
        both = np.stack([unlike[known], energies[known]])  # (2, n)
        scale = np.stack([both.mean(1), np.maximum(both.std(1), _LEAST_DEVIATION)], axis=1)
        return cls(scorer, _kept(_combined(both, scale), scorer), scale)

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps."""
        scale: dict[str, NDArray[np.generic]]
        scale = {} if self.scale is None else {"scale": self.scale}
        return {**self.scorer.tensors(), "scores": self.scores, **scale}

    @classmethod
    def from_tensors(cls, kind: str, tensors: Mapping[str, NDArray[np.generic]]) -> Typicality:
        """Check and take over what a bundle kept; ``kind`` is a key of ``SCORERS``.

        Raises
        ------
        InputError
            An array is missing, of another type or shape, or holds what no training gives.
        """
        scorer = SCORERS[kind].from_tensors(tensors)
        scores, scale = tensors.get("scores"), tensors.get("scale")
        if scores is None or scores.dtype != np.float32 or scores.ndim != 1:
            raise InputError("scores must be float32 in one row")
        kept: NDArray[np.float32] = scores.astype(np.float32)
        if len(kept) > MOST_MEASURED or not np.isfinite(kept).all() or (kept[1:] < kept[:-1]).any():
            raise InputError(f"scores must be finite, ascending and at most {MOST_MEASURED:,}")
        if scale is None:
            return cls(scorer, kept)
        if scale.dtype != np.float64 or scale.shape != (2, 2):
            raise InputError("scale must be float64 of shape (2, 2)")
        means, deviations = scale.astype(np.float64).T
        if not ((np.abs(means) <= _LARGEST_MEAN) & (deviations >= _LEAST_DEVIATION)
                & (deviations <= _LARGEST_MEAN)).all():  # fmt: skip
            raise InputError("scale must be two means, and two standard deviations above 0")
        return cls(scorer, kept, np.ascontiguousarray(scale, dtype=np.float64))

    @property
    def least_level(self) -> float:
        """The smallest p-value that an image can get, 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    def score(
        self, pooled: NDArray[np.float32], logits: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Return how unlike each image is (N,).

        Parameters
        ----------
        pooled : array of shape (N, D), float32
            Pooled features as the network gives them.
        logits : array of shape (N, K), float32
            Of the head, before the temperature; needed if there is a ``scale``.
        """
        unlike = self.scorer.score(pooled)
        if self.scale is None:
            return unlike
        if logits is None:
            raise ValueError("this typicality is measured with logits")
        return _combined(np.stack([unlike, energies_of(logits)]), self.scale)

    def p_values(
        self, pooled: NDArray[np.float32], logits: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Return the p-value of each image (N,), in (0, 1]; small is unlike the training.

        Arguments as for ``score``.

        Examples
        --------
        >>> rows = np.random.default_rng(0).normal(3, 1, (300, 8)).astype(np.float32)
        >>> typicality = fit_neighbours(rows)
        >>> images = np.array([[3.0] * 8, [3.0, -3.0] * 4], np.float32)
        >>> typicality.p_values(images).round(3).tolist()
        [0.99, 0.003]
        """
        return self.p_values_of(self.score(pooled, logits))

    def p_values_of(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the p-value of each score (N,)."""
        n, largest = len(self.scores), np.finfo(np.float32).max
        bounded = scores.clip(-largest, largest).astype(np.float32)
        smaller = np.searchsorted(self.scores, bounded, side="left")
        return (1 + n - smaller) / (n + 1)


def energies_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return minus the logarithm of the summed exponentials of logits (N, K); large is unlike.

    Examples
    --------
    >>> energies_of(np.array([[0.0, 0.0], [9.0, 0.0]], np.float32)).round(4).tolist()
    [-0.6931, -9.0001]
    """
    largest = logits.max(1, keepdims=True).astype(np.float64)
    sums: NDArray[np.float64] = np.exp(logits - largest).sum(1)
    energies: NDArray[np.float64] = -(largest[:, 0] + np.log(sums))
    return energies


def _combined(parts: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum (n,) of two parts (2, n), each in its deviations, as float32 can be."""
    means, deviations = scale.T
    scores: NDArray[np.float64] = ((parts - means[:, None]) / deviations[:, None]).sum(0)
    return np.clip(scores, -_LARGEST_SCORE, _LARGEST_SCORE)


def _kept(
    scores: NDArray[np.float64], scorer: Neighbours | Centre | Mahalanobis
) -> NDArray[np.float32]:
    """Return scores (n,) as a bundle keeps them, in ascending order.

    An exact score would tell who was measured: whoever has an image can look for its score. Where
    no rows are kept, scores are rounded to their standard error: up, so that the level holds.
    """
    if len(scores) and not scorer.has_images:
        step = scores.std() / math.sqrt(len(scores))
        scores = np.ceil(scores / step) * step if step > 0 else scores
    return np.sort(scores.clip(-_LARGEST_SCORE, _LARGEST_SCORE).astype(np.float32))


def units_needed(level: float) -> int:
    """Return the number of units from which a level can call an image unknown.

    Examples
    --------
    >>> units_needed(0.01), units_needed(0.05)
    (99, 19)
    """
    return math.ceil(round(1 / max(level, 1e-9), 9)) - 1


def fit_neighbours(
    pooled: NDArray[np.float32],
    held_out: NDArray[np.float32] | None = None,
    energies: NDArray[np.float64] | None = None,
) -> Typicality | None:
    """Return the typicality by distances from the rows of training images.

    Parameters
    ----------
    pooled : array of shape (U, D), float32
        Pooled features of one image of each unit, in random order.
    held_out : array of shape (V, D), float32, optional
        Of images on which the network was not trained, if it was trained on the others.
    energies : array of shape (U,) or (V,), float64, optional
        ``energies_of`` logits of the same images, or of those that are held out, by models that had
        not seen them; NaN where there are none.

    Returns
    -------
    Typicality or None
        By up to 4,000 units, all rows are the bank. Of more, or if some are held out, 2,000 rows
        are, and the others, or those that are held out, are measured against it. None for fewer
        than 12 units.
    """
    if len(pooled) < LEAST_UNITS:
        return None
    if held_out is None and len(pooled) <= MOST_UNITS:
        return Typicality.of(*Neighbours.measured(as_integers(pooled)), energies)
    bank = Neighbours.of(as_integers(pooled[:BANK_ROWS]))
    if held_out is None:
        held_out, energies = pooled[BANK_ROWS:], None if energies is None else energies[BANK_ROWS:]
    return _measured(bank, held_out, energies)


def fit_centre(
    pooled: NDArray[np.float32],
    held_out: NDArray[np.float32] | None = None,
    energies: NDArray[np.float64] | None = None,
) -> Typicality | None:
    """Return the typicality by the distance from a rounded mean, which keeps no row of an image.

    Arguments and result as for ``fit_neighbours``. Each unit is measured by the mean of the others.
    """
    if len(pooled) < LEAST_UNITS:
        return None
    scorer, unlike = Centre.measured(pooled)
    if held_out is not None:
        return _measured(scorer, held_out, energies)
    some = slice(MOST_MEASURED)
    return Typicality.of(scorer, unlike[some], None if energies is None else energies[some])


def _measured(
    scorer: Neighbours | Centre | Mahalanobis,
    images: NDArray[np.float32],
    energies: NDArray[np.float64] | None,
) -> Typicality:
    some = slice(MOST_MEASURED)
    unlike = scorer.score(images[some])
    return Typicality.of(scorer, unlike, None if energies is None else energies[some])
