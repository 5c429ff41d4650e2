"""Landmarks: a few thousand training images by which features are scaled, weighed and projected.

Only these images decide the scales, weights and coordinates. So the fit itself is one pass over the
store, with at most two thousand coordinates for each image, for any network.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.heads.standardise import Standard
from regraft.probe.block_weights import block_weights
from regraft.probe.projection import Basis, span_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from regraft.features.features import Features
    from regraft.features.taps import Block

#: Images whose kernels weigh the blocks: enough for about twenty weights; the cost grows with the
#: third power of their number.
_ROWS_FOR_WEIGHTS = 800
_IMAGES_A_CLASS = 8
#: A block with a smaller share is left out: it costs time and changes nearly nothing.
_LEAST_SHARE = 0.01
#: Prior weight of each feature, by the grid of its block.
_PRIOR_OF_GRID = {1: 1.0, 2: 0.3, 4: 0.1}
#: Images whose rows span the coordinates of every fit. Twice as many gain 0.2 and 0.4 points on
#: CIFAR-10 (docs/probe.md, docs/design/heads.md), and their products cost four times as much.
N_LANDMARKS = 2000
_ROWS_AT_ONCE = 2048  # 145 MB of all blocks of the default backbone


@dataclass(frozen=True)
class Projection:
    """The map from one set of blocks to the coordinates on which a head is fitted."""

    blocks: tuple[Block, ...]  # without those of small weight, in the order of a row
    shares: tuple[float, ...]  # weight of each; their sum is 1
    basis: Basis  # from features to coordinates


@dataclass(frozen=True)
class Landmarks:
    """The rows of some training images, which weigh and project blocks."""

    x: Tensor  # (M, D) float32: features of the landmarks, all blocks side by side
    weighing: Tensor  # (n, D) float32: features of the images that weigh the blocks
    y: NDArray[np.int64]  # (n,) their classes
    blocks: tuple[Block, ...]  # in the order of ``x``
    widths: tuple[int, ...]  # of the blocks
    _kernels: dict[Block, Tensor] = field(default_factory=dict)

    @cached_property
    def standard(self) -> Standard:
        """Return mean and scale of each feature."""
        return Standard.measure(self.x, self.widths)

    def project(self, blocks: Sequence[Block]) -> Projection:
        """Return the projection of some of the blocks, without those of small weight."""
        prior = [self._width(b) / b.grid**2 * _PRIOR_OF_GRID.get(b.grid, 0.1) for b in blocks]
        shares = block_weights([self._kernel(block) for block in blocks], self.y, prior=prior)
        kept = [i for i, share in enumerate(shares) if share >= min(_LEAST_SHARE, shares.max())]
        shares = shares[kept] / shares[kept].sum()
        chosen = tuple(blocks[i] for i in kept)
        columns = torch.cat([torch.arange(*self._span(block)) for block in chosen])
        basis = span_of(
            self.x[:, columns],
            Standard(self.standard.mean[columns], self.standard.scale[columns]),
            [self._width(block) for block in chosen],
            shares.tolist(),
        )
        return Projection(chosen, tuple(shares.tolist()), basis)

    def _width(self, block: Block) -> int:
        return self.widths[self.blocks.index(block)]

    def _span(self, block: Block) -> tuple[int, int]:
        first = sum(self.widths[: self.blocks.index(block)])
        return first, first + self._width(block)

    def _kernel(self, block: Block) -> Tensor:
        """Return the inner products (n, n) of a block's standardised rows, mean diagonal 1."""
        if block not in self._kernels:
            columns = slice(*self._span(block))
            z = self.weighing[:, columns] - self.standard.mean[columns]  # (n, width)
            z *= self.standard.scale[columns]
            kernel = z @ z.T
            self._kernels[block] = kernel / kernel.diagonal().mean().clamp_min(1e-30)
        return self._kernels[block]


def read_landmarks(
    features: Features,
    landmarks: NDArray[np.int64],
    weighing: NDArray[np.int64],
    y: NDArray[np.int64],
    blocks: Sequence[Block],
) -> Landmarks:
    """Read the rows of the landmarks (M,) and of the images (n,) that weigh, of classes ``y``.

    ``blocks`` are those that any head may read.
    """
    x = rows = torch.from_numpy(features.matrix(landmarks, blocks))
    if not np.array_equal(weighing, landmarks[: len(weighing)]):
        rows = torch.from_numpy(features.matrix(weighing, blocks))
    widths = tuple(features.widths[block] for block in blocks)
    return Landmarks(x, rows[: len(weighing)], y, tuple(blocks), widths)


def images_for_weights(y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return positions in ``y`` (N,) of the images that weigh the blocks, at most 800.

    They are the first ones. With more than 100 classes, they are eight images of each of the first
    classes, since a single image of each class cannot show the spread of a class. ``y`` is in a
    random order, such as that of the images' hashes.

    Examples
    --------
    >>> images_for_weights(np.arange(1000) % 10).tolist() == list(range(800))
    True
    >>> chosen = images_for_weights(np.arange(3000) % 300)
    >>> len(chosen), len(np.unique(chosen % 300))
    (800, 100)
    """
    classes, first = np.unique(y, return_index=True)
    if len(classes) * _IMAGES_A_CLASS <= _ROWS_FOR_WEIGHTS:
        return np.arange(min(len(y), _ROWS_FOR_WEIGHTS))
    chosen: list[int] = []
    for label in classes[np.argsort(first)]:
        chosen += np.flatnonzero(y == label)[:_IMAGES_A_CLASS].tolist()
        if len(chosen) >= _ROWS_FOR_WEIGHTS:
            break
    return np.asarray(chosen[:_ROWS_FOR_WEIGHTS], dtype=np.int64)


def project_all(
    features: Features,
    indices: NDArray[np.int64],
    projections: Sequence[Projection],
    memory: int,
) -> list[NDArray[np.float32]]:
    """Return the coordinates of some images in each projection, in one pass over the features.

    Each array is (n * (1 + views), r): the images, then their first view, then the next. Arrays of
    more than ``memory`` bytes in all are mapped from a temporary file, with the same values.
    """
    union = tuple(dict.fromkeys(block for each in projections for block in each.blocks))
    ends = np.cumsum([features.widths[block] for block in union])
    spans = {b: slice(end - features.widths[b], end) for b, end in zip(union, ends, strict=True)}
    n = (1 + len(features.views)) * len(indices)
    in_memory = 4 * n * sum(each.basis.width for each in projections) <= memory
    results = [_allocate((n, each.basis.width), in_memory=in_memory) for each in projections]
    for view, source in enumerate((features, *features.views)):
        for start in range(0, len(indices), _ROWS_AT_ONCE):
            chosen = indices[start : start + _ROWS_AT_ONCE]
            first = view * len(indices) + start
            target = slice(first, first + len(chosen))
            rows = torch.from_numpy(source.matrix(chosen, union))
            for projection, result in zip(projections, results, strict=True):
                x = torch.cat([rows[:, spans[block]] for block in projection.blocks], dim=1)
                result[target] = projection.basis.apply(x).numpy()
    return results


def _allocate(shape: tuple[int, int], *, in_memory: bool) -> NDArray[np.float32]:
    if in_memory:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="regraft-") as file:  # removed with the array
        return np.memmap(file, np.float32, "w+", shape=shape)
