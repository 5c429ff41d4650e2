"""A few thousand images look ahead: how features are standardised, weighed and projected.

Everything that decides what a head sees comes from these images, so that the fit itself is one
pass over the store and holds a few thousand coordinates an image, whatever the network.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from regraft.errors import InputError
from regraft.heads.standardise import Standard
from regraft.probe.block_weights import block_weights
from regraft.probe.projection import Basis, span_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from regraft.features.extract import Features
    from regraft.features.taps import Block

#: Images whose kernels weigh the blocks: for some twenty shares; the cost grows with their cube.
_ROWS_FOR_EVIDENCE = 800
_IMAGES_A_CLASS = 8
#: A block with a smaller share leaves: it would cost time, and hardly be heard.
_LEAST_SHARE = 0.01
#: What finer grids are worth until the images have spoken, feature by feature.
_PRIOR_OF_GRID = {1: 1.0, 2: 0.3, 4: 0.1}
#: Images whose rows span the coordinates of every fit. Twice as many gave CIFAR-10 0.2 and 0.4
#: points more (docs/probe.md, docs/design/heads.md); products with them grow fourfold.
N_LANDMARKS = 2000
_ROWS_AT_ONCE = 2048  # 145 MB of all blocks of the default backbone


@dataclass(frozen=True)
class Sight:
    """What a head sees of one set of blocks.

    Attributes
    ----------
    blocks : tuple of Block
        Those that were worth keeping, in the row's order.
    shares : tuple of float
        Of each; their sum is 1.
    basis : Basis
        From their features to coordinates.
    """

    blocks: tuple[Block, ...]
    shares: tuple[float, ...]
    basis: Basis


@dataclass(frozen=True)
class Scout:
    """The rows of some training images, and what can be learnt from them alone.

    Attributes
    ----------
    x : tensor of shape (M, D), float32
        Features of the landmarks, all blocks side by side.
    weighing : tensor of shape (n, D), float32
        Features of the images that weigh the blocks; a view of ``x`` where they are its first.
    y : array of shape (n,), int64
        Their classes.
    blocks : tuple of Block
        In the order of ``x``.
    widths : tuple of int
        Of the blocks.
    """

    x: Tensor
    weighing: Tensor
    y: NDArray[np.int64]
    blocks: tuple[Block, ...]
    widths: tuple[int, ...]
    _kernels: dict[Block, Tensor] = field(default_factory=dict)

    @cached_property
    def standard(self) -> Standard:
        """Mean and scale of each feature."""
        return Standard.measure(self.x, self.widths)

    def look(self, blocks: Sequence[Block]) -> Sight:
        """Weigh some of the blocks, drop those that are worth little, and project on the rest.

        Parameters
        ----------
        blocks : sequence of Block
            Some of ``self.blocks``.

        Returns
        -------
        Sight
        """
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
        return Sight(chosen, tuple(shares.tolist()), basis)

    def _width(self, block: Block) -> int:
        return self.widths[self.blocks.index(block)]

    def _span(self, block: Block) -> tuple[int, int]:
        first = sum(self.widths[: self.blocks.index(block)])
        return first, first + self._width(block)

    def _kernel(self, block: Block) -> Tensor:
        """Inner products of a block's standardised rows, with a mean diagonal of 1."""
        if block not in self._kernels:
            columns = slice(*self._span(block))
            z = self.weighing[:, columns] - self.standard.mean[columns]
            z *= self.standard.scale[columns]
            kernel = z @ z.T
            self._kernels[block] = kernel / kernel.diagonal().mean().clamp_min(1e-30)
        return self._kernels[block]


def send_scout(
    features: Features,
    landmarks: NDArray[np.int64],
    weighing: NDArray[np.int64],
    y: NDArray[np.int64],
    blocks: Sequence[Block],
) -> Scout:
    """Read the rows of some training images.

    Parameters
    ----------
    features : Features
        Has their rows.
    landmarks : array of shape (M,), int64
        Images on whose rows all others are projected.
    weighing : array of shape (n,), int64
        Images that weigh the blocks, as ``few_classes`` chooses them.
    y : array of shape (n,), int64
        Their classes.
    blocks : sequence of Block
        All that any head may read.

    Returns
    -------
    Scout
    """
    x = seen = torch.from_numpy(features.matrix(landmarks, blocks))
    if not np.array_equal(weighing, landmarks[: len(weighing)]):
        seen = torch.from_numpy(features.matrix(weighing, blocks))
    widths = tuple(features.widths[block] for block in blocks)
    return Scout(x, seen[: len(weighing)], y, tuple(blocks), widths)


def few_classes(y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose the images that weigh the blocks: of many classes some, with eight images each.

    One image of each of 800 classes says nothing of what tells classes apart.

    Parameters
    ----------
    y : array of shape (N,), int64
        Classes of images in an order that decides nothing else, as that of their hashes.

    Returns
    -------
    array of shape (n,), int64
        Positions in ``y``, at most 800: the first ones, where there are no more than 100 classes.

    Examples
    --------
    >>> few_classes(np.arange(1000) % 10).tolist() == list(range(800))
    True
    >>> chosen = few_classes(np.arange(3000) % 300)
    >>> len(chosen), len(np.unique(chosen % 300))
    (800, 100)
    """
    classes, first = np.unique(y, return_index=True)
    if len(classes) * _IMAGES_A_CLASS <= _ROWS_FOR_EVIDENCE:
        return np.arange(min(len(y), _ROWS_FOR_EVIDENCE))
    chosen: list[int] = []
    for label in classes[np.argsort(first)]:
        chosen += np.flatnonzero(y == label)[:_IMAGES_A_CLASS].tolist()
        if len(chosen) >= _ROWS_FOR_EVIDENCE:
            break
    return np.asarray(chosen[:_ROWS_FOR_EVIDENCE], dtype=np.int64)


def coordinates(
    features: Features, indices: NDArray[np.int64], sights: Sequence[Sight], memory: int
) -> list[NDArray[np.float32]]:
    """Return what a head sees of some images, for several sets of blocks in one reading.

    Parameters
    ----------
    features : Features
        Has their rows.
    indices : array of shape (n,), int64
        Images.
    sights : sequence of Sight
        Sets of blocks.
    memory : int
        Bytes; what does not fit lies in a temporary file that is mapped, with the same values.

    Returns
    -------
    list of array of shape (n * (1 + views), r), float32
        One a sight: the images, then their first view, then the next.
    """
    union = tuple(dict.fromkeys(block for sight in sights for block in sight.blocks))
    ends = np.cumsum([features.widths[block] for block in union])
    spans = {b: slice(end - features.widths[b], end) for b, end in zip(union, ends, strict=True)}
    n = (1 + len(features.views)) * len(indices)
    needed = 4 * n * sum(sight.basis.width for sight in sights)
    made = [_room((n, sight.basis.width), in_memory=needed <= memory) for sight in sights]
    for view, source in enumerate((features, *features.views)):
        for start in range(0, len(indices), _ROWS_AT_ONCE):
            chosen = indices[start : start + _ROWS_AT_ONCE]
            first = view * len(indices) + start
            where = slice(first, first + len(chosen))
            rows = torch.from_numpy(source.matrix(chosen, union))
            for sight, into in zip(sights, made, strict=True):
                x = torch.cat([rows[:, spans[block]] for block in sight.blocks], dim=1)
                into[where] = sight.basis.apply(x).numpy()
    return made


def _room(shape: tuple[int, int], *, in_memory: bool) -> NDArray[np.float32]:
    if in_memory:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="regraft-") as file:  # gone when the array is
        return np.memmap(file, np.float32, "w+", shape=shape)


def memory_limit(memory: str) -> int:
    """Return the bytes that a setting of memory allows.

    Parameters
    ----------
    memory : str
        GiB, or "auto": half of what is free.

    Returns
    -------
    int

    Raises
    ------
    InputError
        Where it is neither.

    Examples
    --------
    >>> memory_limit("0.5")
    536870912
    """
    if memory == "auto":
        return int(psutil.virtual_memory().available) // 2
    try:
        limit = int(float(memory) * 2**30)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise InputError(f"memory is {memory!r}; it must be auto or a number of GiB")
    return limit
