"""Render decoded images as the network's input, with numpy alone, in the very bits of the training.

This file is copied into an exported folder. Its pixels are those of torch's ``interpolate`` of
uint8 with antialiasing: weights of 16 bits, the width first, bytes between width and height.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]

# A long side of more than four short sides is cut to its middle before resizing, as in training.
_MAX_ASPECT = 4
_REACH = {"bilinear": 1.0, "bicubic": 2.0}  # of the filter on each side, in pixels
_OUTPUTS, _ROWS = 32, 256  # of one product: what it needs stays in the processor's cache


class Taps(NamedTuple):
    """How the pixels of one side are mixed: those of an output begin at its start."""

    starts: NDArray[np.int64]  # (N,)
    weights: NDArray[np.int64]  # (N, K), zero after the last pixel
    precision: int  # the weights of an output add up to about two to this power


def render_views(image: NDArray[np.uint8], meta_input: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the plain image and its views (1 + V, 3, S, S), or the plain image (3, S, S) alone.

    ``meta_input`` has ``image_size``, ``resize_size``, ``interpolation``, and ``draws`` with an
    entry for each view.
    """
    size, interpolation = meta_input["image_size"], meta_input["interpolation"]
    plain = render(image, size, meta_input["resize_size"], interpolation)
    draws = meta_input.get("draws", [])
    if not draws:
        return plain
    views = [plain if draw is None else view(image, draw, size, interpolation) for draw in draws]
    return np.stack([plain, *views])


def render(
    image: NDArray[np.uint8], size: int, resize: int, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """Resize the short side of an image (H, W, 3), and return the centre square (3, S, S)."""
    _check(image, size, resize, interpolation)
    height, width = image.shape[:2]
    longest = _MAX_ASPECT * min(height, width)
    top, left = (max(0, (side - longest) // 2) for side in (height, width))
    image = image[top : height - top, left : width - left]
    height, width = image.shape[:2]
    short = min(height, width)
    resized = resize * height // short, resize * width // short
    corner = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    return _resize(image, resized, corner, size, interpolation)


def view(
    image: NDArray[np.uint8], draw: Mapping[str, Any], size: int, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """Return a random part of an image (H, W, 3), resized and perhaps mirrored (3, S, S)."""
    _check(image, size, size, interpolation)
    top, left, height, width, mirrored = _part(image.shape[0], image.shape[1], draw)
    part = image[top : top + height, left : left + width]
    pixels = _resize(part, (size, size), (0, 0), size, interpolation)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels


def _check(image: NDArray[np.uint8], size: int, resize: int, interpolation: str) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"an image of {image.dtype} and shape {image.shape}: it must be uint8 (H, W, 3)"
        )
    if not 1 <= size <= resize:
        raise ValueError(f"image_size {size} must be from 1 to resize_size, which is {resize}")
    if interpolation not in _REACH:
        raise ValueError(f"interpolation {interpolation!r} must be one of {', '.join(_REACH)}")


# --- resizing -------------------------------------------------------------------------------------


def _resize(
    image: NDArray[np.uint8],
    resized: tuple[int, int],
    corner: tuple[int, int],
    side: int,
    interpolation: Interpolation,
) -> NDArray[np.uint8]:
    """Return a square of the resized image (3, S, S); nothing beside the square is computed."""
    down, across = (
        window(taps_of(before, after, interpolation), first, side)
        for before, after, first in zip(image.shape[:2], resized, corner, strict=True)
    )
    top, bottom = _covered(down)
    rows = _mix_columns(image[top:bottom], across)  # (3, R, S)
    return _mix_rows(rows, down._replace(starts=down.starts - top))


def taps_of(before: int, after: int, interpolation: Interpolation) -> Taps:
    """Return the weights that torch computes to resize a side, in float64 and then 16 bits."""
    scale = before / after
    stretch = max(scale, 1.0)
    reach = _REACH[interpolation] * stretch
    centres = scale * (np.arange(after) + 0.5)
    starts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    most = math.ceil(reach) * 2 + 1
    counts = np.minimum((centres + reach + 0.5).astype(np.int64), before) - starts
    counts = np.clip(counts, 0, most)[:, None]
    columns = np.arange(int(counts.max()))
    distances = np.abs((columns + starts[:, None] - centres[:, None] + 0.5) * (1.0 / stretch))
    curve = _triangle(distances) if interpolation == "bilinear" else _cubic(distances)
    curve = np.where(columns < counts, curve, 0.0)  # (N, K)
    # One after the other, as torch does: np.sum adds in another order.
    totals = np.cumsum(curve, axis=1)[:, -1:]
    curve = np.divide(curve, totals, out=curve, where=totals != 0)
    precision = _precision(float(curve.max()))
    scaled = curve * (1 << precision)
    return Taps(starts, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int64), precision)


def _precision(largest: float) -> int:
    """Return the most bits after the point with which the largest weight fits into 16 bits."""
    for bits in range(22):
        if int(0.5 + largest * (1 << bits + 1)) >= 1 << 15:
            return bits
    return 22


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x < 1.0, 1.0 - x, 0.0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys' cubic with a = -0.5, in the order of torch's operations."""
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    far = ((-0.5 * x - 5.0 * -0.5) * x + 8.0 * -0.5) * x - 4.0 * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def window(taps: Taps, first: int, count: int) -> Taps:
    """Return the taps of some outputs that follow each other."""
    outputs = slice(first, first + count)
    return taps._replace(starts=taps.starts[outputs], weights=taps.weights[outputs])


def _covered(taps: Taps) -> tuple[int, int]:
    """Return the first pixel that the outputs need, and the one after the last."""
    used = taps.weights.shape[1] - np.argmax(taps.weights[:, ::-1] != 0, axis=1)
    return int(taps.starts.min()), int((taps.starts + used).max())


def _matrix(taps: Taps) -> tuple[slice, NDArray[np.float64]]:
    """Return the pixels that outputs need, and their weights as a matrix (P, N)."""
    begin, end = _covered(taps)
    matrix = np.zeros((len(taps.starts), end - begin + taps.weights.shape[1]))
    columns = (taps.starts - begin)[:, None] + np.arange(taps.weights.shape[1])
    np.put_along_axis(matrix, columns, taps.weights.astype(np.float64), axis=1)
    return slice(begin, end), matrix[:, : end - begin].T


def _to_bytes(sums: NDArray[np.float64], precision: int) -> NDArray[np.uint8]:
    """Divide by two to the power of the precision and round; as a shift of integers does."""
    sums += 1 << precision - 1 if precision else 0
    sums *= 0.5**precision
    return np.clip(np.floor(sums, out=sums), 0, 255, out=sums).astype(np.uint8)


def _mix_columns(image: NDArray[np.uint8], taps: Taps) -> NDArray[np.uint8]:
    """Mix pixels of the rows of an image (R, W, 3) to (3, R, N)."""
    # Whole numbers below 2^31 in float64: each product is exact, in any order of its additions.
    mixed = np.empty((3, len(image), len(taps.starts)), np.uint8)
    for first in range(0, len(taps.starts), _OUTPUTS):
        columns, matrix = _matrix(window(taps, first, _OUTPUTS))
        for top in range(0, len(image), _ROWS):
            block = image[top : top + _ROWS, columns].transpose(2, 0, 1)  # (3, R, P)
            sums = block.astype(np.float64, order="C") @ matrix
            mixed[:, top : top + _ROWS, first : first + _OUTPUTS] = _to_bytes(sums, taps.precision)
    return mixed


def _mix_rows(planes: NDArray[np.uint8], taps: Taps) -> NDArray[np.uint8]:
    """Mix the rows of planes (3, R, S) to (3, N, S)."""
    mixed = np.empty((3, len(taps.starts), planes.shape[2]), np.uint8)
    for first in range(0, len(taps.starts), _OUTPUTS):
        rows, matrix = _matrix(window(taps, first, _OUTPUTS))
        sums = matrix.T @ planes[:, rows].astype(np.float64)
        mixed[:, first : first + _OUTPUTS] = _to_bytes(sums, taps.precision)
    return mixed


# --- views ----------------------------------------------------------------------------------------


def _part(height: int, width: int, draw: Mapping[str, Any]) -> tuple[int, int, int, int, bool]:
    """Return top, left, height and width of a view, and whether it is mirrored.

    ``draw`` holds what ``regraft.exports.views.recorded_draws`` has drawn.
    """
    for number, (share, aspect) in enumerate(zip(draw["shares"], draw["aspects"], strict=True), 1):
        target = height * width * share
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            words = _Words(draw["words"], 4 * number)  # each attempt has used two of 64 bits
            top, left = words.below(height - h + 1), words.below(width - w + 1)
            return top, left, h, w, words.is_below_half()
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    mirrored = _Words(draw["words"], 4 * len(draw["shares"])).is_below_half()
    return (height - h) // 2, (width - w) // 2, h, w, mirrored


class _Words:
    """Recorded words of 32 bits, two for each of 64 bits with the low one first, read as numpy."""

    def __init__(self, words: list[int], position: int) -> None:
        self._words = words
        self._position = position

    def below(self, bound: int) -> int:
        """Draw a whole number from 0 to ``bound`` - 1 (Lemire, 2019), as ``Generator.integers``."""
        if bound == 1:
            return 0
        while True:
            product = self._next() * bound
            if product % (1 << 32) >= (1 << 32) % bound:
                return product >> 32

    def is_below_half(self) -> bool:
        """Draw a number from 0 to 1, from whole words of 64 bits, and compare it with 0.5."""
        self._position += self._position % 2
        self._next()
        return self._next() < 1 << 31

    def _next(self) -> int:
        if self._position >= len(self._words):
            raise ValueError(f"the {len(self._words)} recorded words of a view are used up")
        self._position += 1
        return self._words[self._position - 1]
