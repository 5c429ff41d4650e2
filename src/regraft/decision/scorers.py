"""How unlike the training images the pooled features of an image are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import numpy as np

from regraft.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Which neighbour's distance counts. With the first, near copies in the training part, which a new
#: image does not have, make new images look unlike.
NEAREST = 5
#: Nearest rows whose own distances say how dense the bank is around an image.
AROUND = 10
#: With fewer, there are too few neighbours to measure a unit without its own row.
LEAST_UNITS = AROUND + 2
#: Up to so many units, the bank has all of them.
MOST_UNITS = 4_000
LEAST_DISTANCE = 1e-4  # nearer rows are copies: no distance is divided by less
_LARGEST_DISTANCE = 2.001  # one minus a cosine, rounded
_AT_ONCE = 1024  # rows in one product
#: A mean is rounded to so many of its standard errors: an image more or less moves few of its
#: features to another number, and they say little about which image (docs/design/novelty.md).
STANDARD_ERRORS = 24
_LEAST_STEP = 1e-30  # for rows of zeros
#: Of ``Mahalanobis``: a hundredth of the mean variance, at least 1e-12, was added to each.
_LARGEST_WHITENING = 1.01 / math.sqrt(0.01 * 1e-12)


class Scorer(Protocol):
    """Measures how unlike the training images are: a value of ``SCORERS``."""

    kind: ClassVar[str]
    #: Whether it holds a row for each of some training images.
    has_images: ClassVar[bool]
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
    """Distance from the fifth nearest row of a bank, compared with that of the rows around.

    Parameters
    ----------
    rows : array of shape (B, D), int8
        Pooled features of training images, from ``as_integers``; at least ``LEAST_UNITS``.
    reach : array of shape (B,), float32
        Distance of each row from its fifth nearest other row.
    """

    rows: NDArray[np.int8]
    reach: NDArray[np.float32]
    kind: ClassVar[str] = "neighbours"
    has_images: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-6  # products are exact: only the last digit of float32

    @property
    def width(self) -> int:
        """Number of pooled features, D."""
        return int(self.rows.shape[1])

    @cached_property
    def _bank(self) -> _Bank:
        return _Bank.of(self.rows)

    @classmethod
    def of(cls, rows: NDArray[np.int8]) -> Neighbours:
        """Return the scorer of a bank."""
        return cls.measured(rows)[0]

    @classmethod
    def measured(cls, rows: NDArray[np.int8]) -> tuple[Neighbours, NDArray[np.float64]]:
        """Return the scorer of a bank, and the score of each row (B,) by the bank without it."""
        distances, nearest = _Bank.of(rows).nearest(rows, AROUND, np.arange(len(rows)))
        # As a bundle keeps them: a bank of the others would give the same score to the last digit.
        own, next_one = distances[:, NEAREST - 1 : NEAREST + 1].astype(np.float32).T  # (B,)
        # Without row i, a row of whose five nearest it is one has its sixth as the fifth.
        neighbours = nearest[:, :NEAREST]  # (B, 5)
        lost = (neighbours[nearest] == np.arange(len(rows))[:, None, None]).any(2)  # (B, 10)
        around = np.where(lost, next_one[nearest], own[nearest])
        return cls(rows, own), _compared(distances, around)

    def score(self, pooled: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the squared distance of each image (N,) relative to those of the rows around."""
        distances, nearest = self._bank.nearest(as_integers(pooled), AROUND, None)
        return _compared(distances, self.reach[nearest])

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps."""
        return {"rows": self.rows, "reach": self.reach}

    @classmethod
    def most_bytes(cls, width: int) -> int:
        """Return the most bytes that the tensors for ``width`` features take."""
        return MOST_UNITS * (width + 4)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Neighbours:
        """Check and take over what a bundle kept."""
        rows, reach = tensors.get("rows"), tensors.get("reach")
        if rows is None or rows.dtype != np.int8 or rows.ndim != 2 or not rows.size:
            raise InputError("rows must be a table of int8")
        limit, n = largest_integer(rows.shape[1]), len(rows)
        if not LEAST_UNITS <= n <= MOST_UNITS or int(np.abs(rows.astype(np.int16)).max()) > limit:
            raise InputError(
                f"there may be {LEAST_UNITS} to {MOST_UNITS:,} rows of integers up to {limit}"
            )
        if reach is None or reach.dtype != np.float32 or reach.shape != (n,):
            raise InputError("reach must be float32, a number for each row")
        kept: NDArray[np.float32] = reach.astype(np.float32)
        if not ((kept >= np.float32(LEAST_DISTANCE)) & (kept <= _LARGEST_DISTANCE)).all():
            raise InputError("reach holds what is no distance")
        return cls(np.ascontiguousarray(rows, dtype=np.int8), kept)


class _Bank(NamedTuple):
    """Rows that are ready for products."""

    rows: NDArray[np.float32]  # (B, D), whole numbers
    inverse: NDArray[np.float64]  # (B,), of their lengths

    @classmethod
    def of(cls, integers: NDArray[np.int8]) -> _Bank:
        rows = integers.astype(np.float32)
        return cls(rows, _inverse_lengths(rows))

    def nearest(
        self, integers: NDArray[np.int8], k: int, own: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return distances and numbers (n, k) of the nearest rows, the nearest first.

        ``own`` (n,) is a row for each that is left out: the image itself. Of rows that are equally
        near, the first come first: on every machine, the same rows are taken.
        """
        distances = np.empty((len(integers), k))
        numbers = np.empty((len(integers), k), np.int64)
        for start in range(0, len(integers), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            part = integers[some].astype(np.float32)  # (n, D)
            cosines = (part @ self.rows.T) * self.inverse  # (n, B), float64
            cosines *= _inverse_lengths(part)[:, None]
            if own is not None:
                cosines[np.arange(len(part)), own[some]] = -np.inf
            found = np.sort(np.argpartition(cosines, -k, axis=1)[:, -k:], axis=1)  # (n, k)
            near = np.take_along_axis(cosines, found, 1)
            tied = (cosines >= near.min(1, keepdims=True)).sum(1) > k  # more than k are so near
            if tied.any():
                found[tied] = np.argsort(-cosines[tied], axis=1, kind="stable")[:, :k]
                near[tied] = np.take_along_axis(cosines[tied], found[tied], 1)
            order = np.argsort(-near, axis=1, kind="stable")
            distances[some] = 1 - np.take_along_axis(near, order, 1)
            numbers[some] = np.take_along_axis(found, order, 1)
        return np.maximum(distances, LEAST_DISTANCE), numbers


def _compared(distances: NDArray[np.float64], around: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the score (n,): distances (n, k) from rows, and the same rows' own ones (n, k)."""
    means: NDArray[np.float64] = around.astype(np.float64).mean(1)
    return distances[:, NEAREST - 1] ** 2 / means


@dataclass(frozen=True)
class Centre:
    """Distance, one minus the cosine, from a roughly rounded mean: keeps no row, and knows less.

    Parameters
    ----------
    centre : array of shape (D,), int8
        The mean of the training rows at unit length, in whole steps of some size.
    """

    centre: NDArray[np.int8]
    kind: ClassVar[str] = "centre"
    has_images: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-6  # products are exact: only the last digit of float32

    @property
    def width(self) -> int:
        """Number of pooled features, D."""
        return len(self.centre)

    @classmethod
    def measured(
        cls, pooled: NDArray[np.float32], standard_errors: float = STANDARD_ERRORS
    ) -> tuple[Centre, NDArray[np.float64]]:
        """Return the scorer of rows (n, D), and the score of each (n,) by the mean without it."""
        rows = unit_rows(pooled)
        n, width = rows.shape
        sums = rows.sum(0, dtype=np.float64)  # (D,)
        variance = rows.var(0, dtype=np.float64).mean()
        step = standard_errors * math.sqrt(variance / n)
        # also without any row, the largest feature of the mean must fit
        without = np.abs(sums - np.stack([rows.min(0), rows.max(0), sums / n]))  # (3, D)
        step = max(step, without.max() / (n - 1) / largest_integer(width), _LEAST_STEP)
        own = np.empty(n)
        for start in range(0, n, _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            others = np.rint((sums - rows[some]) / ((n - 1) * step)).astype(np.float32)
            own[some] = _from_centres(as_integers(pooled[some]), others)
        return cls(np.rint(sums / (n * step)).astype(np.int8)), own

    def score(self, pooled: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the distance of each image (N,); 1 where the mean is 0 in all its digits."""
        return _from_centres(as_integers(pooled), self.centre[None].astype(np.float32))

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps."""
        return {"centre": self.centre}

    @classmethod
    def most_bytes(cls, width: int) -> int:
        """Return the most bytes that the tensors for ``width`` features take."""
        return width

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Centre:
        """Check and take over what a bundle kept."""
        centre = tensors.get("centre")
        if centre is None or centre.dtype != np.int8 or centre.ndim != 1 or not centre.size:
            raise InputError("centre must be a row of int8")
        limit = largest_integer(len(centre))
        if int(np.abs(centre.astype(np.int16)).max()) > limit:
            raise InputError(f"centre must be of integers up to {limit}")
        return cls(np.ascontiguousarray(centre, dtype=np.int8))


def _from_centres(integers: NDArray[np.int8], centres: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distances (n,) of rows (n, D) from one centre, or one for each, (1 or n, D)."""
    rows = integers.astype(np.float32)
    products = (rows * centres).sum(1, dtype=np.float64)  # exact
    cosines = products * _inverse_lengths(rows) * _inverse_lengths(centres)
    distances: NDArray[np.float64] = 1 - cosines
    return distances


@dataclass(frozen=True)
class Mahalanobis:
    """Mahalanobis distance of rows of unit length: read from earlier bundles, and no longer fitted.

    With fewer images than features it tells for certain which images were in the training.

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
    has_images: ClassVar[bool] = False
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
SCORERS: dict[str, type[Neighbours | Centre | Mahalanobis]] = {
    each.kind: each for each in (Neighbours, Centre, Mahalanobis)
}


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
