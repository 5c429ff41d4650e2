"""Typicality: a p-value for "this image looks like the images of the training".

The score of an image is its distance from the fifth nearest row of a bank: pooled features of
training images, at unit length. The p-value is the share of training images that are at least as
far from the bank. One row stands for each unit: images that are not independent of each other, such
as copies or photographs of one patient.

Where the bank holds a row for each unit, the score of a unit is measured without its own row. The
level is then kept: to put a new image into the bank can only shorten the distances of the others,
so that this p-value is never below that of full conformal prediction, which is exact for
exchangeable units (Vovk, Gammerman and Shafer, Algorithmic learning in a random world, 2005). It
holds for a network that was not trained on these images; after fine-tuning, images of the
validation part are measured instead.

Every similarity is a product of whole numbers that float32 holds exactly: the same features give
the same p-value on every machine, in batches of every size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from regraft.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Which neighbour's distance is the score. With the first, near copies in the training part, which
#: a new image does not have, make new images look unlike (docs/design/decisions.md).
NEAREST = 5
#: Up to so many units, the bank has all of them.
MOST_UNITS = 4_000
#: Rows of the bank of more units; the others are measured against it.
BANK_ROWS = 2_000
#: Most units that are measured: the standard error of a p-value of 0.01 is then 0.001.
MOST_MEASURED = 8_192
_AT_ONCE = 1024  # rows in one product
#: Share of the mean variance that is added to each, and the least mean: equal rows have an inverse.
_SHRINKAGE, _LEAST_VARIANCE = 0.01, 1e-12
_LARGEST_WHITENING = 1.01 / math.sqrt(_SHRINKAGE * _LEAST_VARIANCE)


class Scorer(Protocol):
    """Measures how unlike the training images are: a value of ``SCORERS``."""

    kind: ClassVar[str]
    #: How much a score of the same features may differ on another machine, relative to the score
    #: where that is more than 1.
    tolerance: ClassVar[float]

    @property
    def width(self) -> int:
        """Number of pooled features, D."""

    def score(self, pooled: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the score (N,) of pooled features (N, D); large is unlike."""

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps."""

    @classmethod
    def most_bytes(cls, width: int) -> int:
        """Return the most bytes that the tensors for ``width`` features take."""


@dataclass(frozen=True)
class Neighbours:
    """Distance from the fifth nearest row of a bank.

    Parameters
    ----------
    rows : array of shape (B, D), int8
        Pooled features of training images, from ``as_integers``.
    """

    rows: NDArray[np.int8]
    kind: ClassVar[str] = "neighbours"
    tolerance: ClassVar[float] = 1e-6  # products are exact: only the last digit of float32

    @property
    def width(self) -> int:
        """Number of pooled features, D."""
        return int(self.rows.shape[1])

    @cached_property
    def _unit(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The rows in float32, for products, and the inverse of their lengths (B,)."""
        rows = self.rows.astype(np.float32)
        return rows, _inverse_lengths(rows)

    def score(self, pooled: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return one minus the cosine of each image (N,) and its fifth nearest row."""
        return self._score(as_integers(pooled), None)

    def without_own(self) -> NDArray[np.float64]:
        """Return the score of each row of the bank (B,), measured without the row itself."""
        return self._score(self.rows, np.arange(len(self.rows)))

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps."""
        return {"rows": self.rows}

    @classmethod
    def most_bytes(cls, width: int) -> int:
        """Return the most bytes that the tensors for ``width`` features take."""
        return MOST_UNITS * width

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Neighbours:
        """Check and take over what a bundle kept."""
        rows = tensors.get("rows")
        if rows is None or rows.dtype != np.int8 or rows.ndim != 2 or not rows.size:
            raise InputError("rows must be a table of int8")
        limit = largest_integer(rows.shape[1])
        if len(rows) > MOST_UNITS or int(np.abs(rows.astype(np.int16)).max()) > limit:
            raise InputError(f"there may be {MOST_UNITS:,} rows of integers up to {limit}")
        return cls(np.ascontiguousarray(rows, dtype=np.int8))

    def _score(
        self, integers: NDArray[np.int8], own: NDArray[np.int64] | None
    ) -> NDArray[np.float64]:
        rows, lengths = self._unit
        # Of fewer rows all but one, also where none is left out: a score is then still no smaller
        # without the new image in the bank.
        k = max(min(NEAREST, len(rows) - 1), 0)
        scores = np.ones(len(integers))  # of an image without neighbours
        for start in range(0, len(integers) if k else 0, _AT_ONCE):
            part = integers[start : start + _AT_ONCE].astype(np.float32)  # (n, D)
            cosines = (part @ rows.T) * lengths  # (n, B), float64
            cosines *= _inverse_lengths(part)[:, None]
            if own is not None:
                cosines[np.arange(len(part)), own[start : start + len(part)]] = -np.inf
            scores[start : start + len(part)] = 1 - np.partition(cosines, -k)[:, -k]
        return scores


@dataclass(frozen=True)
class Mahalanobis:
    """Mahalanobis distance of rows of unit length: keeps no row, and knows less.

    Parameters
    ----------
    mean : array of shape (D,), float32
        Of the training rows at unit length.
    whitening : array of shape (D, D), float32
        Lower triangle: centred rows times it have the identity as covariance.
    """

    mean: NDArray[np.float32]
    whitening: NDArray[np.float32]
    kind: ClassVar[str] = "mahalanobis"
    tolerance: ClassVar[float] = 1e-3  # other orders of summation in float32

    @property
    def width(self) -> int:
        """Number of pooled features, D."""
        return len(self.mean)

    def score(self, pooled: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the squared distance of each image (N,)."""
        centred = unit_rows(pooled) - self.mean
        squares: NDArray[np.float64] = np.square(centred @ self.whitening, dtype=np.float64).sum(1)
        return squares

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps."""
        return {"mean": self.mean, "whitening": self.whitening}

    @classmethod
    def most_bytes(cls, width: int) -> int:
        """Return the most bytes that the tensors for ``width`` features take."""
        return 4 * width * (width + 1)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Mahalanobis:
        """Check and take over what a bundle kept."""
        mean, whitening = (tensors.get(name) for name in ("mean", "whitening"))
        if mean is None or whitening is None:
            raise InputError("mean and whitening are needed")
        if mean.ndim != 1 or not mean.size or whitening.shape != (*mean.shape, *mean.shape):
            raise InputError("mean and whitening must be (D,) and (D, D)")
        both = (mean, whitening)
        if not all(each.dtype == np.float32 and np.isfinite(each).all() for each in both):
            raise InputError("mean and whitening must be finite float32")
        if np.abs(mean).max() > 1 or np.abs(whitening).max() > _LARGEST_WHITENING:
            raise InputError("mean and whitening are not those of rows of unit length")
        return cls(mean.astype(np.float32), whitening.astype(np.float32))


#: Kind of a scorer in a bundle to its class.
SCORERS: dict[str, type[Neighbours | Mahalanobis]] = {
    each.kind: each for each in (Neighbours, Mahalanobis)
}


@dataclass(frozen=True)
class Typicality:
    """A scorer, and the scores of units that it had not seen.

    Parameters
    ----------
    scorer : Neighbours or Mahalanobis
        How unlike an image is.
    scores : array of shape (n,), float32, ascending
        Of units of the training, measured as a new image is.
    """

    scorer: Neighbours | Mahalanobis
    scores: NDArray[np.float32]

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps."""
        return {**self.scorer.tensors(), "scores": self.scores}

    @classmethod
    def from_tensors(cls, kind: str, tensors: Mapping[str, NDArray[np.generic]]) -> Typicality:
        """Check and take over what a bundle kept; ``kind`` is a key of ``SCORERS``.

        Raises
        ------
        InputError
            An array is missing, of another type or shape, or holds what no training gives.
        """
        scorer = SCORERS[kind].from_tensors(tensors)
        scores = tensors.get("scores")
        if scores is None or scores.dtype != np.float32 or scores.ndim != 1:
            raise InputError("scores must be float32 in one row")
        kept: NDArray[np.float32] = scores.astype(np.float32)
        if len(kept) > MOST_MEASURED or not np.isfinite(kept).all() or (kept[1:] < kept[:-1]).any():
            raise InputError(f"scores must be finite, ascending and at most {MOST_MEASURED:,}")
        return cls(scorer, kept)

    @property
    def least_level(self) -> float:
        """The smallest p-value that an image can get, 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    def p_values(self, pooled: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the p-value of each image (N,), in (0, 1]; small is unlike the training.

        ``pooled`` (N, D) are the pooled features as the network gives them.

        Examples
        --------
        >>> rows = np.random.default_rng(0).normal(3, 1, (300, 8)).astype(np.float32)
        >>> typicality = fit_neighbours(rows)
        >>> images = np.array([[3.0] * 8, [3.0, -3.0] * 4], np.float32)
        >>> typicality.p_values(images).round(3).tolist()
        [0.997, 0.003]
        """
        return self.p_values_of(self.scorer.score(pooled))

    def p_values_of(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the p-value of each score (N,)."""
        n = len(self.scores)
        smaller = np.searchsorted(self.scores, scores.astype(np.float32), side="left")
        return (1 + n - smaller) / (n + 1)


def units_needed(level: float) -> int:
    """Return the number of units from which a level can call an image unknown.

    Examples
    --------
    >>> units_needed(0.01), units_needed(0.05)
    (99, 19)
    """
    return math.ceil(round(1 / max(level, 1e-9), 9)) - 1


def fit_neighbours(
    pooled: NDArray[np.float32], held_out: NDArray[np.float32] | None = None
) -> Typicality:
    """Return the typicality by distances from the rows of training images.

    Parameters
    ----------
    pooled : array of shape (U, D), float32
        Pooled features of one image of each unit, in random order.
    held_out : array of shape (V, D), float32, optional
        Of images on which the network was not trained, if it was trained on the others.

    Returns
    -------
    Typicality
        By up to 4,000 units, all rows are the bank. Of more, or if some are held out, 2,000 rows
        are, and the others, or those that are held out, are measured against it.
    """
    if held_out is None and len(pooled) <= MOST_UNITS:
        bank = Neighbours(as_integers(pooled))
        return Typicality(bank, _ascending(bank.without_own()))
    bank = Neighbours(as_integers(pooled[:BANK_ROWS]))
    rest = pooled[BANK_ROWS:] if held_out is None else held_out
    return Typicality(bank, _ascending(bank.score(rest[:MOST_MEASURED])))


def fit_mahalanobis(
    pooled: NDArray[np.float32], held_out: NDArray[np.float32] | None = None
) -> Typicality:
    """Return the typicality by Mahalanobis distance, which keeps no row of a training image.

    Arguments as for ``fit_neighbours``. Each unit is measured by the mean and the covariance of the
    others, in closed form (Sherman and Morrison 1950).
    """
    rows = unit_rows(pooled).astype(np.float64)
    n, width = rows.shape
    mean = rows.mean(0)
    centred = rows - mean
    covariance = centred.T @ centred / n
    variance = max(np.trace(covariance) / width, _LEAST_VARIANCE)
    covariance[np.diag_indices(width)] += _SHRINKAGE * variance
    # whitening @ whitening.T is the inverse of the covariance
    whitening = np.linalg.cholesky(np.linalg.inv(covariance)).astype(np.float32)
    scorer = Mahalanobis(mean.astype(np.float32), whitening)
    if held_out is not None:
        return Typicality(scorer, _ascending(scorer.score(held_out[:MOST_MEASURED])))
    scores = scorer.score(pooled[:MOST_MEASURED])
    if n > 1:  # without the unit itself: its share of mean and covariance goes
        grown = n / (n - 1)
        scores = grown * scores / np.maximum(1 - grown * scores / n, 1e-12)
    return Typicality(scorer, _ascending(scores))


def largest_integer(width: int) -> int:
    """Return the largest integer of a row of ``width`` features whose products float32 holds.

    Examples
    --------
    >>> largest_integer(512), largest_integer(1280), largest_integer(2048)
    (127, 114, 90)
    """
    return min(127, math.isqrt(2**24 // width))


def as_integers(pooled: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return rows (N, D) as integers: each row times one number, so that its largest fits."""
    limit = largest_integer(pooled.shape[1])
    largest = np.abs(pooled).max(1, keepdims=True)
    scaled = pooled / np.maximum(largest, np.finfo(np.float32).tiny) * np.float32(limit)
    integers: NDArray[np.int8] = np.rint(scaled).astype(np.int8)
    return integers


def unit_rows(pooled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows (N, D) at unit length; a row of zeros stays one."""
    lengths = np.linalg.norm(pooled.astype(np.float64), axis=1, keepdims=True)
    rows: NDArray[np.float32] = (pooled / np.maximum(lengths, 1e-30)).astype(np.float32)
    return rows


def _inverse_lengths(integers: NDArray[np.float32]) -> NDArray[np.float64]:
    squares = np.square(integers, dtype=np.float64).sum(1)  # (N,), exact
    inverse: NDArray[np.float64] = 1 / np.sqrt(np.maximum(squares, 1))
    return inverse


def _ascending(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.sort(scores.astype(np.float32))
