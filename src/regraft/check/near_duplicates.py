"""Test images that are nearly the same as a training image: bursts, resized or recompressed copies.

Byte-identical images are always in one part; nearly identical ones are not, and make a result look
better than it is. The search has two steps. The features that the run has anyway give the nearest
training image of each test image: one matrix product and no decoding. But which distance is small
depends on the network. So the nearest pairs are then compared by their pixels, as small grey
pictures, until a round of pairs confirms none.

The threshold was set by eye on flowers (docs/design/decisions.md). Images of under 64 pixels are
left out: many digits by different hands are as similar as copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from regraft.core.machine import n_threads
from regraft.core.text import listed
from regraft.errors import ImageError
from regraft.features.taps import POOLED, Block
from regraft.splits.rounds import test_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples
    from regraft.features.extract import Features
    from regraft.features.extractor import Extractor

#: Correlation of two grey pictures of 32 by 32 pixels from which on they count as nearly the same.
THRESHOLD = 0.9
SIDE = 32
SHIFT = 4  # pixels of these 32 by which one may be moved, where they are similar already
LEAST_SIDE = 64  # pixels of an image that is looked at
N_PICTURES = 24  # pairs that are drawn
SHOWN_SIDE = 192  # pixels of a picture that is shown

_DIMENSIONS = (
    128  # that are left of the features; nearest ones stay nearest (Johnson, Lindenstrauss)
)
_ROWS = 4096  # features in memory at once
_PRODUCTS = 1 << 24  # similarities in memory at once, 64 MB
_MOST_PRODUCTS = 2_000_000_000  # a few seconds; of more, some test images are not looked at
_ROUND, _MOST_PAIRS = 64, 4096
_ALIKE = 0.7  # unshifted; below, shifts are not tried
_NAMED = 5


@dataclass(frozen=True)
class NearDuplicate:
    """A test image and the training image that is nearly the same."""

    test: int  # indices into the samples
    other: int
    correlation: float  # of their small grey pictures, one perhaps mirrored; THRESHOLD to 1
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None  # (H, W, 3), of the first pairs


def report_near_duplicates(
    features: Features, dataset: Dataset, extractor: Extractor
) -> list[NearDuplicate]:
    """Find and report the near duplicates among all tested images of a training."""
    config = extractor.config
    folds = test_folds(dataset, config.folds, config.seed)
    pairs = find_near_duplicates(folds, features, n_threads(config.workers), N_PICTURES)
    n_tested = sum(len(each.test) for each in folds)
    for note in duplicate_notes(pairs, dataset.samples, n_tested):
        extractor.reporter.say(note)
    return pairs


def find_near_duplicates(
    folds: Sequence[Dataset], features: Features, threads: int, n_pictures: int
) -> list[NearDuplicate]:
    """Find test images that are nearly the same as an image of training or validation.

    At most one pair for each test image, the most similar first; the first ``n_pictures`` keep
    their pictures. Not found are turned pictures, crops of other parts of a picture, and copies
    whose features are nearer to another image's: copies with strongly changed colours, or any copy
    where the network has random weights.

    Parameters
    ----------
    folds : sequence of Dataset
        What is tested, each with what was learnt from; all of their samples have a row.
    features : Features
        Of any network; the pooled block is read.

    References
    ----------
    Barz and Denzler, Do we train on test data? Purging CIFAR of near-duplicates, Journal of
    Imaging 2020: nearest in feature space first, then compared by their pixels.
    """
    samples = folds[0].samples
    near: list[tuple[float, int, int]] = []
    for fold in folds:
        near += _candidates(fold, features, _MOST_PRODUCTS // len(folds))
    near.sort(key=lambda found: -found[0])
    pairs: list[NearDuplicate] = []
    for start in range(0, min(len(near), _MOST_PAIRS), _ROUND):  # a pass through a compressed tar
        candidates = [(test, other) for _, test, other in near[start : start + _ROUND]]
        confirmed = _confirm(samples, candidates, threads)
        if not confirmed:
            break
        pairs = _most_similar_first([*pairs, *confirmed], samples, n_pictures)
    return pairs


def _candidates(fold: Dataset, features: Features, most: int) -> list[tuple[float, int, int]]:
    """Return similarity, test image and its nearest training image, for the images of one fold."""
    large = fold.samples.sizes.min(axis=1) >= LEAST_SIDE
    rest = np.sort(np.concatenate([fold.train, fold.val]))
    rest, tested = rest[large[rest]], fold.test[large[fold.test]]
    if not len(rest) or not len(tested):
        return []
    tested = _bounded(tested, fold.samples, max(most // len(rest), 1))
    nearest, similarity = _nearest(_reduced(features, tested), _reduced(features, rest))
    return list(zip(similarity.tolist(), tested.tolist(), rest[nearest].tolist(), strict=True))


def _most_similar_first(
    pairs: list[NearDuplicate], samples: Samples, n_pictures: int
) -> list[NearDuplicate]:
    pairs.sort(key=lambda pair: (-round(pair.correlation, 4), samples.ids[pair.test]))
    rest = [replace(pair, pictures=None) for pair in pairs[n_pictures:]]
    return pairs[:n_pictures] + rest


def duplicate_notes(pairs: list[NearDuplicate], samples: Samples, n_test: int) -> list[str]:
    """Return a line or two about the pairs; nothing where there are none."""
    if not pairs:
        return []

    def named(some: list[NearDuplicate]) -> str:
        names = [f"{samples.ids[pair.test]} and {samples.ids[pair.other]}" for pair in some]
        return listed(names, _NAMED)

    reason = (
        "copies and bursts make a result look better than it is: remove one of each pair, or, "
        "where folders or names have something in common, --group-by keeps them together"
    )
    notes = [f"{duplicate_headline(pairs, n_test)} (duplicates.png; {reason}): {named(pairs)}"]
    labels = samples.labels
    torn = [pair for pair in pairs if labels[pair.test] != labels[pair.other]]
    if torn:
        have = "has" if len(torn) == 1 else "have"
        notes.append(f"of these, {len(torn):,} {have} another label there: {named(torn)}")
    return notes


def duplicate_headline(pairs: list[NearDuplicate], n_test: int) -> str:
    """Return how many test images are nearly the same as a training image, as a sentence."""
    are = "is" if len(pairs) == 1 else "are"
    return f"{len(pairs):,} of {n_test:,} test images {are} nearly the same as an image of training"


def _bounded(test: NDArray[np.int64], samples: Samples, most: int) -> NDArray[np.int64]:
    """Return the test images, or as many as can be compared, chosen by content."""
    if len(test) <= most:
        return test
    by_hash = sorted(test.tolist(), key=lambda index: samples.hashes[index])
    return np.sort(np.asarray(by_hash[:most], dtype=np.int64))


def _reduced(features: Features, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return unit vectors of few dimensions, (n, d)."""
    block = Block(POOLED)
    width = features.widths[block]
    random_axes = np.random.default_rng(0).standard_normal((width, _DIMENSIONS), dtype=np.float32)
    pieces = []
    for start in range(0, len(indices), _ROWS):
        rows = features.matrix(indices[start : start + _ROWS], (block,))
        rows -= rows.mean(axis=1, keepdims=True)  # else all point the same way: none is negative
        pieces.append(rows @ random_axes)
    reduced: NDArray[np.float32] = np.concatenate(pieces)
    reduced /= np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
    return reduced


def _nearest(
    test: NDArray[np.float32], rest: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return for each test row the nearest of the rest, and their cosine."""
    nearest = np.empty(len(test), dtype=np.int64)
    similarity = np.empty(len(test), dtype=np.float32)
    step = max(_PRODUCTS // len(rest), 1)
    for start in range(0, len(test), step):
        products = test[start : start + step] @ rest.T
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
        index: _Small.of(pixels)
        for index, pixels in samples.pixels(wanted, threads)
        if not isinstance(pixels, ImageError)  # it could be read before: no matter of duplicates
    }
    pairs = []
    for test, other in candidates:
        if test in small and other in small:
            correlation = likeness(small[test].grey, small[other].grey)
            if correlation >= THRESHOLD:
                pictures = small[test].picture, small[other].picture
                pairs.append(NearDuplicate(test, other, correlation, pictures))
    return pairs


class _Small(NamedTuple):
    """An image in small: to compare, and to draw."""

    grey: NDArray[np.float32]  # (32, 32)
    picture: NDArray[np.uint8]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> _Small:
        picture = Image.fromarray(pixels)
        grey = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)
        return cls(np.asarray(grey, dtype=np.float32), np.asarray(picture))


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two grey pictures (S, S), one perhaps mirrored or moved a little.

    It is -1 to 1, and 0 where one has a single grey; brightness and contrast do not matter.

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
        if not _ALIKE <= plain < THRESHOLD:
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
