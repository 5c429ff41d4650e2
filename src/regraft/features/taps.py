"""Taps: places where activations are read, and the hooks that read them in one forward pass."""

from __future__ import annotations

import difflib
import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.errors import ConfigError
from regraft.features.compute import Compute, prepare
from regraft.images.render import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from regraft.backbones.backbone import Backbone, Stage

POOLED = "pooled"
GRIDS = (1, 2, 4)  # of every stage, in each stored row
#: Wider blocks are not stored: 4x4 cells of 2,048 channels would be 65 kB an image, for a map that
#: knows little of places. Every architecture keeps 1x1 and 2x2 of all stages, up to 2,048 channels.
_WIDEST = 8192


@dataclass(frozen=True, order=True, slots=True)
class Block:
    """One tap at one grid: the map averaged to ``grid`` by ``grid`` cells.

    Examples
    --------
    >>> str(Block("layer3", 2)), str(Block.parse("pooled"))
    ('layer3@2', 'pooled@1')
    """

    tap: str
    grid: int = 1

    def __str__(self) -> str:
        return f"{self.tap}@{self.grid}"

    @classmethod
    def parse(cls, text: str) -> Block:
        """Read ``tap@grid`` or ``tap``; ConfigError where the grid is not a small number."""
        tap, at, grid = text.partition("@")
        if at and not (grid.isascii() and grid.isdecimal() and 1 <= int(grid[:4]) <= 64):
            raise ConfigError(f"{text}: behind @ stands the grid, a number from 1 to 64")
        return cls(tap, int(grid) if at else 1)


def row_blocks(backbone: Backbone) -> tuple[Block, ...]:
    """Return the blocks that every stored row holds: all stages at all grids, and the pooled ones.

    Choosing among them later extracts nothing again. Of a very wide stage only 1x1 is certain.
    """
    stages = tuple(
        Block(stage.name, grid)
        for stage in backbone.stages
        for grid in GRIDS
        if grid == 1 or stage.channels * grid * grid <= _WIDEST
    )
    return (*stages, Block(POOLED))


def block_widths(backbone: Backbone, blocks: Sequence[Block]) -> dict[Block, int]:
    """Return the number of features of each block: channels times cells."""
    channels = {stage.name: stage.channels for stage in backbone.stages}
    channels[POOLED] = backbone.n_features
    return {block: channels[block.tap] * block.grid**2 for block in blocks}


def select_blocks(backbone: Backbone, taps: str, grids: str = "auto") -> tuple[Block, ...]:
    """Return the blocks that the head may read, in the row's order.

    Parameters
    ----------
    backbone : Backbone
        Names the stages.
    taps : str
        "last" (the pooled features), "all" (every stage, and the pooled features), "auto" (the
        same; the probe then chooses among them), or names with commas between them, such as
        "layer3@2,pooled". Behind @ stands the grid.
    grids : str
        Grids, with commas between them, of what has no @: "auto" is 1, and 1, 2 and 4 for
        ``taps="auto"``. A stage too wide for a grid to be stored is read at the next coarser one.

    Returns
    -------
    tuple of Block
        A subset of ``row_blocks(backbone)``.

    Raises
    ------
    ConfigError
        Where a name is unknown; it lists the nearest ones.
    """
    known = row_blocks(backbone)
    if taps == "last":
        return (Block(POOLED),)
    usual = _parse_grids(grids, GRIDS if taps == "auto" else (1,))
    wanted: set[Block] = set()
    for name in taps.split(","):
        tap, at, _ = name.strip().partition("@")
        for grid in (Block.parse(name.strip()).grid,) if at else usual:
            every = tap in ("all", "auto")
            stages = [stage.name for stage in backbone.stages] if every else [tap]
            wanted |= {_stored(Block(stage, grid), known) for stage in stages}
            wanted |= {Block(POOLED)} if every else set()
    unknown = sorted(wanted - set(known))
    if unknown:
        names = [str(block) for block in known]
        near = difflib.get_close_matches(str(unknown[0]), names, n=3) or names
        raise ConfigError(
            f"taps: {backbone.name} has no {unknown[0]}",
            hint=f"auto, last, all, all@2, or some of {', '.join(near)}",
        )
    return tuple(block for block in known if block in wanted)


def _parse_grids(grids: str, default: tuple[int, ...]) -> tuple[int, ...]:
    if grids == "auto":
        return default
    given = [grid.strip() for grid in grids.split(",")]
    allowed = {str(grid): grid for grid in GRIDS}
    wrong = [grid for grid in given if grid not in allowed]
    if wrong:
        raise ConfigError(
            f"grids is {grids}; {wrong[0]!r} is none of {', '.join(allowed)}",
            hint="one or several of them, with commas between: --grids 1,2",
        )
    return tuple(allowed[grid] for grid in given)


def _stored(block: Block, known: Sequence[Block]) -> Block:
    """Return the block, or the same stage at the finest coarser grid that rows hold."""
    if block.tap == POOLED:
        return Block(POOLED)
    coarser = [each for each in known if each.tap == block.tap and each.grid <= block.grid]
    return block if block in known or block.grid not in GRIDS else max(coarser, default=block)


class TapReader:
    """A backbone made ready to run, with hooks at its stages: images in, feature blocks out.

    Parameters
    ----------
    backbone : Backbone
        Its module is copied, not changed.
    blocks : sequence of Block
        What to read; only the stages that they name get a hook.
    compute : Compute
        Device and precision.
    """

    def __init__(self, backbone: Backbone, blocks: Sequence[Block], compute: Compute) -> None:
        self.backbone = backbone
        self.blocks = tuple(blocks)
        self.compute = compute
        self._module = prepare(backbone, compute)
        self._read: dict[Block, torch.Tensor] = {}
        self._turn = threading.Lock()
        grids: dict[str, list[int]] = {}
        for block in self.blocks:
            grids.setdefault(block.tap, []).append(block.grid)
        for stage in backbone.stages:
            if stage.name in grids:
                tapped = self._module.get_submodule(stage.path)
                tapped.register_forward_hook(self._hook(stage, grids[stage.name]))

    def _hook(self, stage: Stage, grids: list[int]) -> Callable[..., None]:
        # Pooled here and not after the pass: activations in place change the map afterwards.
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            cells = as_map(output, stage)
            for grid, pooled in zip(grids, pool_to(cells, grids), strict=True):
                self._read[Block(stage.name, grid)] = pooled

        return hook

    def __call__(self, images: torch.Tensor) -> dict[Block, NDArray[np.float32]]:
        """Read all blocks of a batch.

        Parameters
        ----------
        images : tensor of shape (N, 3, S, S) or (N, V, 3, S, S), uint8
            As ``render_views`` gives them, on the processor.

        Returns
        -------
        dict of Block to array of shape (N, C * grid * grid), float32
            In the order of ``blocks``; the mean over V views.
        """
        if images.ndim == 4:
            return self._read_one(images)
        views = [self._read_one(view) for view in images.unbind(1)]  # as many images at once
        return {block: np.mean([view[block] for view in views], axis=0) for block in self.blocks}

    def _read_one(self, images: torch.Tensor) -> dict[Block, NDArray[np.float32]]:
        device = torch.device(self.compute.device)
        if device.type == "cuda":
            images = images.pin_memory().to(device, non_blocking=True)
        # The hooks write into this object: threads that share a reader take turns.
        with self._turn, torch.inference_mode():
            x = normalise(images.to(device), self.backbone.preprocess, self.compute.dtype)
            self._read = {}
            pooled = self._module(x.contiguous(memory_format=torch.channels_last))
            self._read[Block(POOLED)] = pooled.float()
            return {block: self._read[block].cpu().numpy() for block in self.blocks}


def padded(images: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """Stack to a batch of fixed size; the kernels chosen, and so the bits, depend on the size.

    Parameters
    ----------
    images : sequence of tensor of shape (3, S, S) or (V, 3, S, S), uint8
        At least one, at most ``size``.
    size : int
        Images in every batch.

    Returns
    -------
    tensor of shape (size, 3, S, S) or (size, V, 3, S, S), uint8
        channels_last; zeros behind the images.
    """
    # Channels lie innermost, as in what the network reads.
    *views, channels, height, width = images[0].shape
    batch = torch.zeros((size, *views, height, width, channels), dtype=torch.uint8).movedim(-1, -3)
    for target, image in zip(batch, images, strict=False):
        target.copy_(image)
    return batch


def as_map(output: torch.Tensor, stage: Stage) -> torch.Tensor:
    """Bring a stage's output to (N, C, H, W), whatever its layout; a view where possible."""
    if stage.layout == "nchw":
        return output
    if stage.layout == "nhwc":
        return output.permute(0, 3, 1, 2)
    tokens = output[:, stage.prefix_tokens :]  # (N, H * W, C)
    side = int(tokens.shape[1] ** 0.5)
    if side * side != tokens.shape[1]:  # no square grid: one row, which only averages by 1x1
        return tokens.transpose(1, 2)[:, :, None, :]
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], side, side)


def pool(cells: torch.Tensor, grid: int) -> torch.Tensor:
    """Average a map to grid by grid cells; see ``pool_to``.

    Examples
    --------
    >>> pool(torch.arange(16.0).reshape(1, 1, 4, 4), 2)
    tensor([[ 2.5000,  4.5000, 10.5000, 12.5000]])
    """
    return pool_to(cells, (grid,))[0]


def pool_to(cells: torch.Tensor, grids: Sequence[int]) -> list[torch.Tensor]:
    """Average a map to several grids in one reading of it, in float32 whatever its precision.

    Parameters
    ----------
    cells : tensor of shape (N, C, H, W)
        Any float type; fast where the channels lie innermost.
    grids : sequence of int
        Cells a side; windows overlap by one where the side is not divisible, as in
        ``adaptive_avg_pool2d``, and repeat where the map is smaller than the grid.

    Returns
    -------
    list of tensor of shape (N, C * grid * grid), float32
        Cell by cell, row by row, with the channels of each side by side. Bits of a grid of
        ``GRIDS`` do not depend on which others are asked for.
    """
    x = cells.permute(0, 2, 3, 1)  # (N, H, W, C)
    n, height, width, channels = x.shape
    every = tuple(dict.fromkeys((*GRIDS, *grids)))
    finest = max(every)
    nested = all(finest % grid == 0 for grid in every)
    if nested and height % finest == 0 and width % finest == 0 and height > finest:
        # All cells are of one size: sums along rows first, which is all that large maps cost.
        size = (height // finest) * (width // finest)
        x = x.reshape(n, finest, height // finest, width * channels).sum(2, dtype=torch.float32)
        x = x.reshape(n, finest, finest, width // finest, channels).sum(3) / size
        height = width = finest
    # One product for all windows of all grids; each averages float32, never what was rounded.
    windows = _windows(height, width, every, x.device)
    means = windows @ x.reshape(n, height * width, channels).float()  # (N, windows, C)
    parts = torch.split(means, [grid * grid for grid in every], dim=1)
    return [parts[every.index(grid)].reshape(n, -1) for grid in grids]


@functools.lru_cache(maxsize=256)
def _windows(height: int, width: int, grids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return averaging weights (windows of all grids, height * width), float32."""
    rows = []
    for grid in grids:
        down, across = (
            [(cell * side // grid, -(-(cell + 1) * side // grid)) for cell in range(grid)]
            for side in (height, width)
        )
        for top, bottom in down:
            for left, right in across:
                window = np.zeros((height, width), np.float32)
                window[top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
                rows.append(window.ravel())
    with torch.inference_mode(mode=False):  # kept for trainings, too
        return torch.from_numpy(np.stack(rows)).to(device)


def round_rows(rows: NDArray[np.float32]) -> list[NDArray[np.floating[Any]]]:
    """Round one block of some images as the store keeps it: float16 where an image's fits in it.

    The same rounding happens with the store off and in the predictor, so that a cache never
    changes a result. All images at once: a call for each of 22 blocks of each image costs more than
    the rounding.

    Parameters
    ----------
    rows : array of shape (N, D), float32
        A block of N images.

    Returns
    -------
    list of array of shape (D,), float16 or float32
        Of each image; views.

    Examples
    --------
    >>> [row.dtype.name for row in round_rows(np.array([[0.1, 2.0], [0.1, 1e6]], np.float32))]
    ['float16', 'float32']
    """
    # Not what is infinite or undefined: that stays float32, and is told later.
    fits = np.abs(rows).max(axis=1, initial=0.0) <= np.finfo(np.float16).max
    with np.errstate(over="ignore"):
        halves = rows.astype(np.float16)
    return [half if small else row for half, row, small in zip(halves, rows, fits, strict=True)]


def side_by_side(blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return blocks (N, D) of N images as one array (N, sum of D), rounded as the store keeps them.

    Examples
    --------
    >>> side_by_side([np.array([[0.1]], np.float32), np.array([[2.0, 1e6]], np.float32)])
    array([[9.9975586e-02, 2.0000000e+00, 1.0000000e+06]], dtype=float32)
    """
    features = np.empty((len(blocks[0]), sum(rows.shape[1] for rows in blocks)), np.float32)
    for target, *row in zip(features, *map(round_rows, blocks), strict=True):
        np.concatenate(row, out=target, casting="same_kind")
    return features


def read_features(reader: TapReader, images: torch.Tensor) -> NDArray[np.float32]:
    """Return the blocks of a batch side by side, rounded as the store keeps them.

    Parameters
    ----------
    reader : TapReader
        Reads the model's blocks.
    images : tensor of shape (N, 3, S, S) or (N, V, 3, S, S), uint8
        Rendered.

    Returns
    -------
    array of shape (N, D), float32
    """
    return side_by_side(list(reader(images).values()))
