"""Test images that are nearly the same as one of training: bursts, resized or recompressed copies.

Byte-identical images never straddle parts; these do, and make a result look better than it is. They
are looked for in two steps. The features that the run has anyway say which training image is
nearest to each test image; that costs one matrix product and no decoding, but how near is near
depends on the network. So the nearest pairs are then compared pixel by pixel, as small grey
pictures, until a round confirms none.

The threshold was set by eye on flowers (docs/design/decisions.md). Images of under 64 pixels are
not looked at: of digits, many by different hands are as alike as copies.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from regraft.errors import ImageError
from regraft.features.taps import POOLED, Block
from regraft.images.decode import decode
from regraft.plots.pairs import SHOWN, Shown, pair_grid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.data.samples import Parts, Samples
    from regraft.features.extract import Features
    from regraft.images.payload import Load

#: Correlation of two grey pictures of 32 by 32 pixels from which on they count as nearly the same.
THRESHOLD = 0.9
SIDE = 32
SHIFT = 4  # pixels of these 32 by which one may be moved, where they are alike already
LEAST_SIDE = 64  # pixels of an image that is looked at
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
class Pair:
    """A test image and the training image that is nearly the same.

    Attributes
    ----------
    test, other : int
        Indices into the samples.
    correlation : float
        Of their small grey pictures, the one perhaps mirrored; ``THRESHOLD`` to 1.
    pictures : tuple of two arrays of shape (H, W, 3), uint8, or None
        To be shown, of the first pairs.
    """

    test: int
    other: int
    correlation: float
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None


def find_near_duplicates(
    samples: Samples,
    rounds: Sequence[Parts],
    features: Features,
    *,
    max_pixels: int,
    workers: int = 1,
) -> list[Pair]:
    """Find test images that are nearly the same as an image of training or validation.

    Parameters
    ----------
    samples : Samples
        Streamed again, but for a few.
    rounds : sequence of Parts
        Those that are tested, each with what was learnt from; all of their samples have a row.
    features : Features
        Of any network; its pooled block is read.
    max_pixels : int
        As in the run.
    workers : int
        Threads that read and decode.

    Returns
    -------
    list of Pair
        One at most for each test image, the most alike first. Turned pictures and crops of other
        parts of a picture are not found, nor copies whose features are nearer to another image's:
        of strongly changed colours, or to a network with random weights.

    References
    ----------
    Barz and Denzler, Do we train on test data? Purging CIFAR of near-duplicates, Journal of
    Imaging 2020: nearest in feature space first, then judged by their pixels.
    """
    near: list[tuple[float, int, int]] = []
    for parts in rounds:
        near += _candidates(samples, parts, features, _MOST_PRODUCTS // len(rounds))
    near.sort(key=lambda found: -found[0])
    pairs: list[Pair] = []
    for start in range(0, min(len(near), _MOST_PAIRS), _ROUND):  # a pass through a compressed tar
        candidates = [(test, other) for _, test, other in near[start : start + _ROUND]]
        confirmed = _confirm(samples, candidates, max_pixels, workers)
        if not confirmed:
            break
        pairs = _sorted([*pairs, *confirmed], samples)
    return pairs


def _candidates(
    samples: Samples, parts: Parts, features: Features, most: int
) -> list[tuple[float, int, int]]:
    """Return for test images of one round how near the nearest image of training is, and which."""
    large = samples.sizes.min(axis=1) >= LEAST_SIDE
    rest = np.sort(np.concatenate([parts.train, parts.val]))
    rest, tested = rest[large[rest]], parts.test[large[parts.test]]
    if not len(rest) or not len(tested):
        return []
    tested = _bounded(tested, samples, max(most // len(rest), 1))
    nearest, similarity = _nearest(_reduced(features, tested), _reduced(features, rest))
    return list(zip(similarity.tolist(), tested.tolist(), rest[nearest].tolist(), strict=True))


def _sorted(pairs: list[Pair], samples: Samples) -> list[Pair]:
    """Return the most alike first; only those that will be shown keep their pictures."""
    pairs.sort(key=lambda pair: (-round(pair.correlation, 4), samples.ids[pair.test]))
    return pairs[:SHOWN] + [replace(pair, pictures=None) for pair in pairs[SHOWN:]]


def describe(pairs: list[Pair], samples: Samples, n_test: int) -> list[str]:
    """Return what there is to tell, a line or two; nothing where there are no pairs.

    Parameters
    ----------
    pairs : list of Pair
        As found.
    samples : Samples
        For names and classes.
    n_test : int
        Images that are tested.

    Returns
    -------
    list of str
    """
    if not pairs:
        return []

    def named(some: list[Pair]) -> str:
        more = f" and {len(some) - _NAMED:,} more" if len(some) > _NAMED else ""
        return (
            ", ".join(f"{samples.ids[p.test]} and {samples.ids[p.other]}" for p in some[:_NAMED])
            + more
        )

    much = _much(pairs, n_test)
    why = (
        "copies and bursts make a result look better than it is: remove one of each pair, or, "
        "where folders or names have something in common, --group-by keeps them together"
    )
    lines = [f"{much} (duplicates.png; {why}): {named(pairs)}"]
    labels = samples.labels
    torn = [pair for pair in pairs if labels[pair.test] != labels[pair.other]]
    if torn:
        have = "has" if len(torn) == 1 else "have"
        lines.append(f"of these, {len(torn):,} {have} another label there: {named(torn)}")
    return lines


def _much(pairs: list[Pair], n_test: int) -> str:
    are = "is" if len(pairs) == 1 else "are"
    return f"{len(pairs):,} of {n_test:,} test images {are} nearly the same as an image of training"


def _bounded(test: NDArray[np.int64], samples: Samples, most: int) -> NDArray[np.int64]:
    """Return the test images, or as many as can be looked at, chosen by content."""
    if len(test) <= most:
        return test
    by_hash = sorted(test.tolist(), key=lambda index: samples.hashes[index])
    return np.sort(np.asarray(by_hash[:most], dtype=np.int64))


def _reduced(features: Features, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return unit vectors of few dimensions, (n, d)."""
    block = Block(POOLED)
    width = features.widths[block]
    turn = np.random.default_rng(0).standard_normal((width, _DIMENSIONS), dtype=np.float32)
    pieces = []
    for start in range(0, len(indices), _ROWS):
        rows = features.matrix(indices[start : start + _ROWS], (block,))
        rows -= rows.mean(axis=1, keepdims=True)  # else all point the same way: none is negative
        pieces.append(rows @ turn)
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
    samples: Samples, candidates: list[tuple[int, int]], max_pixels: int, workers: int
) -> list[Pair]:
    """Compare the pixels of some pairs; an image is read once."""
    wanted = sorted({index for pair in candidates for index in pair})

    def look(item: tuple[int, Load]) -> tuple[int, _Small | None]:
        try:
            return item[0], _Small.of(decode(item[1](), max_pixels))
        except ImageError:  # it could be read before, and is no matter of duplicates now
            return item[0], None

    with ThreadPoolExecutor(workers, thread_name_prefix="near") as pool:
        stream = samples.stream(np.asarray(wanted, dtype=np.int64))
        small = {index: one for index, one in pool.map(look, stream) if one is not None}
    pairs = []
    for test, other in candidates:
        if test in small and other in small:
            correlation = likeness(small[test].grey, small[other].grey)
            if correlation >= THRESHOLD:
                pictures = small[test].picture, small[other].picture
                pairs.append(Pair(test, other, correlation, pictures))
    return pairs


class _Small(NamedTuple):
    """What is kept of an image: to be compared, and to be shown."""

    grey: NDArray[np.float32]  # (32, 32)
    picture: NDArray[np.uint8]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> _Small:
        picture = Image.fromarray(pixels)
        grey = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)
        return cls(np.asarray(grey, dtype=np.float32), np.asarray(picture))


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return how alike two grey pictures are, one of them perhaps mirrored or moved a little.

    Parameters
    ----------
    one, other : array of shape (S, S), float32
        Any brightness and contrast.

    Returns
    -------
    float
        Their correlation, -1 to 1; 0 where one has a single grey.

    Examples
    --------
    >>> ramp = np.outer(np.arange(32.0) ** 2, np.ones(32)).astype(np.float32)
    >>> round(likeness(ramp, 9 + ramp / 3), 3), likeness(ramp, np.zeros_like(ramp))
    (1.0, 0.0)
    """
    best = 0.0
    for turned in (other, other[:, ::-1]):
        plain = _correlation(one, turned)
        best = max(best, plain)
        if not _ALIKE <= plain < THRESHOLD:
            continue
        for down in range(-SHIFT, SHIFT + 1):
            for right in range(-SHIFT, SHIFT + 1):
                here, there = _overlap(one, down, right), _overlap(turned, -down, -right)
                best = max(best, _correlation(here, there))
    return best


def _overlap(grey: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    height, width = grey.shape
    return grey[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum()) / size if size > 1e-3 else 0.0


def draw(path: Path, pairs: list[Pair], samples: Samples, n_test: int) -> None:
    """Draw the pairs that are most alike, for the run folder.

    Parameters
    ----------
    path : Path
        PNG file to write; replaced as a whole.
    pairs : list of Pair
        At least one.
    samples : Samples
        For names.
    n_test : int
        Images that are tested.
    """
    shown = [
        Shown(*pair.pictures, f"test: {samples.ids[pair.test]}", samples.ids[pair.other])
        for pair in pairs
        if pair.pictures is not None
    ]
    pair_grid(path, shown, _much(pairs, n_test))
