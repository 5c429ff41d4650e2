"""Find test images that are nearly the same as a training image: bursts, resized copies.

Byte-identical images are always in one part. Nearly identical images are not, and then the result
is too good. The search has two steps. First, the features of the run give the nearest training
image of each test image, by one matrix product and without decoding. But the scale of distances
depends on the network. So the nearest pairs are then compared by their pixels, as small grey
pictures, in rounds, until a round confirms no pair.

The threshold was set by eye on photos of flowers (docs/design/decisions.md). Images of under 64
pixels are left out: digits of different writers are as similar as copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from regraft.core.machine import n_threads
from regraft.core.text import listed
from regraft.errors import ImageError
from regraft.features.taps import POOLED, Block
from regraft.splits.clusters import clusters_of, joined
from regraft.splits.rounds import test_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples
    from regraft.features.extractor import Extractor
    from regraft.features.features import Features

#: Least correlation of two grey pictures of 32 by 32 pixels that are nearly the same.
THRESHOLD = 0.9
SIDE = 32
SHIFT = 4  # of these 32 pixels: the largest shift of one picture that is tried
LEAST_SIDE = 64  # pixels: smaller images are not compared
N_PICTURES = 24  # pairs in duplicates.png
SHOWN_SIDE = 192  # pixels of each of their pictures

#: Features are projected to so few dimensions; neighbours stay neighbours (Johnson, Lindenstrauss).
_DIMENSIONS = 128
_ROWS = 4096  # of features in memory at once
_PRODUCTS = 1 << 24  # similarities in memory at once, 64 MB
_MOST_IN_PART = 12_192  # images of one part whose near copies are searched: as decisions need
_MOST_PRODUCTS = 2_000_000_000  # a few seconds; with more, only some test images are compared
_ROUND, _MOST_PAIRS = 64, 4096
_SIMILAR = 0.7  # least correlation without a shift at which shifts are tried
_NAMED = 5


@dataclass(frozen=True)
class NearDuplicates:
    """What was found among the images of a training.

    Parameters
    ----------
    pairs : list of NearDuplicate
        Test images that are nearly the same as an image of training.
    units : array of shape (N,), int64
        Unit of each sample: a group, or images of the same bytes, or near copies within the
        training part or the validation part.
    """

    pairs: list[NearDuplicate]
    units: NDArray[np.int64]


@dataclass(frozen=True)
class NearDuplicate:
    """A test image and the training image that is nearly the same."""

    test: int  # indices into the samples
    other: int
    correlation: float  # of their small grey pictures, one perhaps mirrored; THRESHOLD to 1
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None  # (H, W, 3); of the first


def report_near_duplicates(
    features: Features, dataset: Dataset, extractor: Extractor
) -> NearDuplicates:
    """Find the near duplicates of a training, and report those of tested images."""
    config, threads = extractor.config, n_threads(extractor.config.workers)
    folds = test_folds(dataset, config.folds, config.seed)
    directions = Directions(features, len(dataset.samples))
    pairs = find_near_duplicates(folds, directions, threads, N_PICTURES)
    n_tested = sum(len(each.test) for each in folds)
    for note in duplicate_notes(pairs, dataset.samples, n_tested):
        extractor.reporter.say(note)
    return NearDuplicates(pairs, units_of(dataset, directions, threads))


def units_of(dataset: Dataset, directions: Directions, threads: int) -> NDArray[np.int64]:
    """Return the unit of each sample (N,); see ``NearDuplicates``.

    Of each image, only the nearest one outside its unit is compared by its pixels.
    """
    samples = dataset.samples
    units = clusters_of(samples)
    for part in (dataset.train, dataset.val):
        large = part[samples.sizes[part].min(axis=1) >= LEAST_SIDE]
        some = _bounded(large, samples, _MOST_IN_PART)
        if len(some) < 2:
            continue
        reduced = directions.of(some)
        nearest, similarity = _nearest(reduced, reduced, units[some])
        near = list(zip(similarity.tolist(), some.tolist(), some[nearest].tolist(), strict=True))
        found = _confirm_nearest(samples, near, threads)
        units = joined(units, [(pair.test, pair.other) for pair in found])
    return units


def find_near_duplicates(
    folds: Sequence[Dataset], directions: Directions, threads: int, n_pictures: int
) -> list[NearDuplicate]:
    """Find test images that are nearly the same as an image of training or validation.

    Returns at most one pair for each test image, the most similar first; the first ``n_pictures``
    have their pictures. Not found are rotated images, crops of different regions, and copies whose
    features are nearer to those of another image: strongly recoloured ones, or, with random
    weights, any.

    Barz and Denzler, Do we train on test data? Purging CIFAR of near-duplicates, Journal of
    Imaging 2020: nearest in feature space first, then compared by their pixels.
    """
    samples = folds[0].samples
    near: list[tuple[float, int, int]] = []
    for fold in folds:
        near += _candidates(fold, directions, _MOST_PRODUCTS // len(folds))
    pairs = _confirm_nearest(samples, near, threads)
    return _with_pictures(pairs[:n_pictures], samples, threads) + pairs[n_pictures:]


def _confirm_nearest(
    samples: Samples, near: list[tuple[float, int, int]], threads: int
) -> list[NearDuplicate]:
    """Compare the pixels of (similarity, image, other image), until a round confirms none.

    The most similar pairs come first.
    """
    near.sort(key=lambda candidate: -candidate[0])
    pairs: list[NearDuplicate] = []
    for start in range(0, min(len(near), _MOST_PAIRS), _ROUND):  # each reads a compressed tar once
        candidates = [(test, other) for _, test, other in near[start : start + _ROUND]]
        confirmed = _confirm(samples, candidates, threads)
        if not confirmed:
            break
        pairs += confirmed
    return sorted(pairs, key=lambda pair: (-round(pair.correlation, 4), samples.ids[pair.test]))


def _candidates(fold: Dataset, directions: Directions, most: int) -> list[tuple[float, int, int]]:
    """Return (similarity, test image, its nearest training image) for each test image of a fold."""
    large = fold.samples.sizes.min(axis=1) >= LEAST_SIDE
    rest = np.sort(np.concatenate([fold.train, fold.val]))
    rest, tested = rest[large[rest]], fold.test[large[fold.test]]
    if not len(rest) or not len(tested):
        return []
    tested = _bounded(tested, fold.samples, max(most // len(rest), 1))
    nearest, similarity = _nearest(directions.of(tested), directions.of(rest))
    return list(zip(similarity.tolist(), tested.tolist(), rest[nearest].tolist(), strict=True))


def _with_pictures(
    pairs: list[NearDuplicate], samples: Samples, threads: int
) -> list[NearDuplicate]:
    """Return pairs with their pictures; these few images are read once more."""
    wanted = sorted({index for pair in pairs for index in (pair.test, pair.other)})
    shown = {
        index: _picture(pixels)
        for index, pixels in samples.pixels(wanted, threads)
        if not isinstance(pixels, ImageError)  # changed since it was read: not reported here
    }
    return [
        replace(pair, pictures=(shown[pair.test], shown[pair.other]))
        if pair.test in shown and pair.other in shown
        else pair
        for pair in pairs
    ]


def _picture(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Image.fromarray(pixels)
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def duplicate_notes(pairs: list[NearDuplicate], samples: Samples, n_test: int) -> list[str]:
    """Return one or two notes about the pairs; empty if there are none."""
    if not pairs:
        return []

    def named(some: list[NearDuplicate]) -> str:
        names = [f"{samples.ids[pair.test]} and {samples.ids[pair.other]}" for pair in some]
        return listed(names, _NAMED)

    reason = (
        "copies and bursts make the result too good: remove one of each pair, or, if folders or "
        "names of a pair have something in common, keep them in one part by `group_by`"
    )
    notes = [f"{duplicate_headline(pairs, n_test)} (duplicates.png; {reason}): {named(pairs)}"]
    labels = samples.labels
    torn = [pair for pair in pairs if labels[pair.test] != labels[pair.other]]
    if torn:
        have = "has" if len(torn) == 1 else "have"
        notes.append(f"{len(torn):,} of these {have} another label there: {named(torn)}")
    return notes


def duplicate_headline(pairs: list[NearDuplicate], n_test: int) -> str:
    """Return a sentence with the number of test images that are nearly training images."""
    are = "is" if len(pairs) == 1 else "are"
    return f"{len(pairs):,} of {n_test:,} test images {are} nearly the same as an image of training"


def _bounded(test: NDArray[np.int64], samples: Samples, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` test images, chosen by content hash."""
    if len(test) <= most:
        return test
    by_hash = sorted(test.tolist(), key=lambda index: samples.hashes[index])
    return np.sort(np.asarray(by_hash[:most], dtype=np.int64))


class Directions:
    """Features of samples as unit vectors of few dimensions, each computed once."""

    def __init__(self, features: Features, n_samples: int) -> None:
        self._features, self._block = features, Block(POOLED)
        width = features.widths[self._block]
        random = np.random.default_rng(0)
        self._axes = random.standard_normal((width, _DIMENSIONS), dtype=np.float32)
        self._rows = np.empty((n_samples, _DIMENSIONS), np.float32)  # memory comes with the values
        self._known = np.zeros(n_samples, dtype=bool)

    def of(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of some samples, (n, d)."""
        missing = indices[~self._known[indices]]
        for start in range(0, len(missing), _ROWS):
            some = missing[start : start + _ROWS]
            rows = self._features.matrix(some, (self._block,))
            # Without this all vectors have nearly one direction, since no feature is negative.
            rows -= rows.mean(axis=1, keepdims=True)
            reduced = rows @ self._axes
            reduced /= np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
            self._rows[some], self._known[some] = reduced, True
        found: NDArray[np.float32] = self._rows[indices]
        return found


def _nearest(
    test: NDArray[np.float32], rest: NDArray[np.float32], units: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest of the other rows for each test row, and their cosine.

    With ``units``, both are the same rows, and none is the nearest of another of its unit.
    """
    nearest = np.empty(len(test), dtype=np.int64)
    similarity = np.empty(len(test), dtype=np.float32)
    step = max(_PRODUCTS // len(rest), 1)
    for start in range(0, len(test), step):
        products = test[start : start + step] @ rest.T
        if units is not None:
            products[units[start : start + step, None] == units] = -np.inf
        best = products.argmax(axis=1)
        nearest[start : start + step] = best
        similarity[start : start + step] = products[np.arange(len(best)), best]
    return nearest, similarity


def _confirm(
    samples: Samples, candidates: list[tuple[int, int]], threads: int
) -> list[NearDuplicate]:
    """Compare the pixels of some pairs; each image is read once."""
    wanted = sorted({index for pair in candidates for index in pair})
    small = {
        index: _small(pixels)
        for index, pixels in samples.pixels(wanted, threads)
        if not isinstance(pixels, ImageError)  # changed since it was read: not reported here
    }
    pairs = []
    for test, other in candidates:
        if test in small and other in small:
            correlation = likeness(small[test], small[other])
            if correlation >= THRESHOLD:
                pairs.append(NearDuplicate(test, other, correlation))
    return pairs


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image as a grey picture (32, 32)."""
    grey = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two grey pictures (S, S), one perhaps mirrored or shifted.

    It is 0 to 1, and 0 if one picture has a single grey; brightness and contrast do not matter.

    Examples
    --------
    >>> ramp = np.outer(np.arange(32.0) ** 2, np.ones(32)).astype(np.float32)
    >>> round(likeness(ramp, 9 + ramp / 3), 3), likeness(ramp, np.zeros_like(ramp))
    (1.0, 0.0)
    """
    best = 0.0
    for mirrored in (other, other[:, ::-1]):
        plain = _correlation(one, mirrored)
        best = max(best, plain)
        if not _SIMILAR <= plain < THRESHOLD:
            continue
        for down in range(-SHIFT, SHIFT + 1):
            for right in range(-SHIFT, SHIFT + 1):
                here, there = _overlap(one, down, right), _overlap(mirrored, -down, -right)
                best = max(best, _correlation(here, there))
    return best


def _overlap(grey: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    height, width = grey.shape
    return grey[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum()) / size if size > 1e-3 else 0.0
