"""Taps: stages of a network whose activations are read and pooled to grids, in one pass."""

from __future__ import annotations

import dataclasses
import functools
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.backbones.sums import MOST_NETWORKS
from regraft.core.text import nearest
from regraft.errors import ConfigError
from regraft.features.compute import Compute, prepare
from regraft.images.render import normalise_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from regraft.backbones.backbone import Backbone, Stage

POOLED = "pooled"
GRIDS = (1, 2, 4)  # of every stage, in each stored row
#: Wider blocks are not stored: 4x4 cells of 2,048 channels would be 65 kB an image, for a map with
#: little information about positions. Stages of up to 2,048 channels keep at least 1x1 and 2x2.
_WIDEST = 8192
_NUMBERED = re.compile(rf"(?:([1-{MOST_NETWORKS}]):)?(.*)", re.DOTALL)


@dataclass(frozen=True, order=True, slots=True)
class Block:
    """One tap at one grid: a map of activations averaged to ``grid`` by ``grid`` cells.

    ``network`` is the index of the network among those that are read side by side. As text, all but
    the first have their number, from 2, before the tap.

    Examples
    --------
    >>> str(Block("layer3", 2)), str(Block.parse("pooled")), str(Block("layer3", network=1))
    ('layer3@2', 'pooled@1', '2:layer3@1')
    >>> Block.parse("2:layer3@4")
    Block(tap='layer3', grid=4, network=1)
    """

    tap: str
    grid: int = 1
    network: int = 0

    def __str__(self) -> str:
        return f"{self.network + 1}:{self.alone}" if self.network else f"{self.tap}@{self.grid}"

    @property
    def alone(self) -> Block:
        """Return the block as one of its network alone."""
        return Block(self.tap, self.grid)

    @classmethod
    def parse(cls, text: str) -> Block:
        """Read ``tap@grid`` or ``tap``, perhaps with a network's number before it.

        Raises ConfigError if the grid is not a number from 1 to 64.
        """
        number, rest = _NUMBERED.fullmatch(text).groups()  # type: ignore[union-attr]
        tap, at, grid = rest.partition("@")
        if at and not (grid.isascii() and grid.isdecimal() and 1 <= int(grid[:4]) <= 64):
            raise ConfigError(f"{text}: after @ comes the grid, a number from 1 to 64")
        return cls(tap, int(grid) if at else 1, int(number) - 1 if number else 0)


def row_blocks(backbone: Backbone) -> tuple[Block, ...]:
    """Return the blocks of every stored row: all stages at all grids, and the pooled features.

    A later choice among them extracts nothing again. A very wide stage may have only 1x1.
    """
    stages = tuple(
        Block(stage.name, grid)
        for stage in backbone.stages
        for grid in GRIDS
        if grid == 1 or stage.channels * grid * grid <= _WIDEST
    )
    return (*stages, Block(POOLED))


def block_widths(networks: Sequence[Backbone], blocks: Sequence[Block]) -> dict[Block, int]:
    """Return the number of features of each block of some networks: channels times cells."""
    channels = [
        {stage.name: stage.channels for stage in each.stages} | {POOLED: each.n_features}
        for each in networks
    ]
    return {block: channels[block.network][block.tap] * block.grid**2 for block in blocks}


def select_blocks(
    networks: Sequence[Backbone], taps: str, grids: str = "auto"
) -> tuple[Block, ...]:
    """Return the blocks that the head may read: network after network, in the order of a row.

    ``taps`` is "last" (the pooled features), "all" (every stage, and the pooled features), "auto"
    (the same; the probe then chooses among them), or names separated by commas, such as
    "layer3@2,pooled", with the grid after @. ``grids`` are the grids of names without @, separated
    by commas; "auto" is 1, or 1, 2 and 4 if ``taps`` is "auto". A stage that is too wide for a grid
    is read at the next coarser grid. Of several networks, a name means the stage of each that has
    it, and "2:layer3" that of the second.

    Raises
    ------
    ConfigError
        A name or a grid is unknown; the hint lists the nearest ones.
    """
    every = [(k, block) for k, network in enumerate(networks) for block in row_blocks(network)]
    known = {dataclasses.replace(block, network=k): None for k, block in every}
    if taps == "last":
        return tuple(block for block in known if block.tap == POOLED)
    usual = _parse_grids(grids, GRIDS if taps == "auto" else (1,))
    wanted: set[Block] = set()
    for name in (part.strip() for part in taps.split(",")):
        named = Block.parse(name)
        for grid in (named.grid,) if "@" in name else usual:
            block = dataclasses.replace(named, grid=grid)
            found = _named(block, networks, known, numbered=":" in name)
            if not found:
                raise _unknown(block, networks, known)
            wanted |= found
    return tuple(block for block in known if block in wanted)


def _named(
    block: Block, networks: Sequence[Backbone], known: Collection[Block], *, numbered: bool
) -> set[Block]:
    """Return the known blocks that a name means; "auto" and "all" are a tap of every network."""
    found: set[Block] = set()
    for k, network in enumerate(networks):
        if numbered and k != block.network:
            continue
        each = dataclasses.replace(block, network=k)
        taps = [block.tap]
        if block.tap in ("all", "auto"):
            taps = [*(stage.name for stage in network.stages), POOLED]
        found |= {_stored(dataclasses.replace(each, tap=tap), known) for tap in taps}
    return found & set(known)


def _unknown(block: Block, networks: Sequence[Backbone], known: Collection[Block]) -> ConfigError:
    names = [str(each) for each in known]
    return ConfigError(
        f"taps: {'+'.join(network.name for network in networks)} has no {block}",
        hint="auto, last, all, all@2, or some of " + ", ".join(nearest(str(block), names) or names),
    )


def _parse_grids(grids: str, default: tuple[int, ...]) -> tuple[int, ...]:
    if grids == "auto":
        return default
    given = [grid.strip() for grid in grids.split(",")]
    allowed = {str(grid): grid for grid in GRIDS}
    wrong = [grid for grid in given if grid not in allowed]
    if wrong:
        raise ConfigError(
            f"grids is {grids}; {wrong[0]!r} is none of {', '.join(allowed)}",
            hint="one or several of them, with commas between: `grids='1,2'`",
        )
    return tuple(allowed[grid] for grid in given)


def _stored(block: Block, known: Collection[Block]) -> Block:
    """Return the block if rows hold it, else its stage at the next coarser grid that they hold."""
    if block.tap == POOLED:
        return dataclasses.replace(block, grid=1)
    same = [each for each in known if (each.tap, each.network) == (block.tap, block.network)]
    coarser = [each for each in same if each.grid <= block.grid]
    return block if block in known or block.grid not in GRIDS else max(coarser, default=block)


def as_map(output: torch.Tensor, stage: Stage) -> torch.Tensor:
    """Return the output of a stage, of any layout, as a map (N, C, H, W); a view if possible."""
    if stage.layout == "nchw":
        return output
    if stage.layout == "nhwc":
        return output.permute(0, 3, 1, 2)
    tokens = output[:, stage.prefix_tokens :]  # (N, H * W, C)
    side = int(tokens.shape[1] ** 0.5)
    if side * side != tokens.shape[1]:  # no square grid: one row, which is only averaged to 1x1
        return tokens.transpose(1, 2)[:, :, None, :]
    n, _, channels = tokens.shape  # len() would fix the batch in an exported graph
    return tokens.transpose(1, 2).reshape(n, channels, side, side)


def pool(cells: torch.Tensor, grid: int) -> torch.Tensor:
    """Average a map to one grid; see ``pool_to``.

    Examples
    --------
    >>> pool(torch.arange(16.0).reshape(1, 1, 4, 4), 2)
    tensor([[ 2.5000,  4.5000, 10.5000, 12.5000]])
    """
    return pool_to(cells, (grid,))[0]


def pool_to(cells: torch.Tensor, grids: Sequence[int]) -> list[torch.Tensor]:
    """Average a map (N, C, H, W) to several grids; return (N, C * grid * grid), float32, of each.

    A result holds cell after cell, row by row, and the C channels of a cell are adjacent. The map
    is read once; that is fast if channels are its innermost axis in memory. Cells overlap by one if
    a side is not divisible, as in ``adaptive_avg_pool2d``, and repeat if the map is smaller than
    the grid. The bits of a grid in ``GRIDS`` do not depend on the other grids.
    """
    x = cells.permute(0, 2, 3, 1)  # (N, H, W, C)
    n, height, width, channels = x.shape
    every = tuple(dict.fromkeys((*GRIDS, *grids)))
    finest = max(every)
    nested = all(finest % grid == 0 for grid in every)
    if nested and height % finest == 0 and width % finest == 0 and height > finest:
        # All cells have one size: sums along rows come first, which is most of the cost.
        size = (height // finest) * (width // finest)
        x = x.reshape(n, finest, height // finest, width * channels).sum(2, dtype=torch.float32)
        x = x.reshape(n, finest, finest, width // finest, channels).sum(3) / size
        height = width = finest
    # One product for all windows of all grids; each averages float32, never rounded values.
    windows = _windows(height, width, every, x.device)
    means = windows @ x.reshape(n, height * width, channels).float()  # (N, windows, C)
    parts = torch.split(means, [grid * grid for grid in every], dim=1)
    return [parts[every.index(grid)].reshape(n, -1) for grid in grids]


def pool_each(cells: torch.Tensor, grids: Sequence[int]) -> list[torch.Tensor]:
    """Average a map to several grids, each by itself; the values are those of ``pool_to``.

    The gradients differ in the last digit, because they are added in another order. Training uses
    this function: a repeated training must give the same bits.
    """
    return [pool(cells, grid) for grid in grids]


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
    with torch.inference_mode(mode=False):  # a training may use the cached tensor later
        return torch.from_numpy(np.stack(rows)).to(device)


def attach_hooks(
    module: nn.Module,
    stages: Sequence[Stage],
    blocks: Sequence[Block],
    pool_map: Callable[[torch.Tensor, Sequence[int]], list[torch.Tensor]] = pool_to,
) -> dict[Block, torch.Tensor]:
    """Attach hooks to the stages of some blocks; return the dictionary that each pass fills.

    The dictionary then has a tensor (N, C * grid * grid), float32, for each block of a stage. The
    caller empties it before a pass, and adds the pooled features after it. ``pool_map`` averages a
    map (N, C, H, W) to some grids: ``pool_to``, or ``pool_each`` in a training.
    """
    found: dict[Block, torch.Tensor] = {}

    def hook_of(stage: Stage, grids: list[int]) -> Callable[..., None]:
        # Pooled here and not after the pass: in-place activations change the map afterwards.
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            for grid, pooled in zip(grids, pool_map(as_map(output, stage), grids), strict=True):
                found[Block(stage.name, grid)] = pooled

        return hook

    for stage in stages:
        grids = [block.grid for block in blocks if block.tap == stage.name]
        if grids:
            module.get_submodule(stage.path).register_forward_hook(hook_of(stage, grids))
    return found


class TapReader:
    """A copy of a backbone that is ready to run: maps images to the feature blocks of its stages.

    Only stages that ``blocks`` name get a hook. Threads may share a reader; they take turns.
    """

    def __init__(self, backbone: Backbone, blocks: Sequence[Block], compute: Compute) -> None:
        self.backbone = backbone
        self.blocks = tuple(blocks)
        self.compute = compute
        self._module = prepare(backbone, compute)
        self._read = attach_hooks(self._module, backbone.stages, self.blocks)
        self._turn = threading.Lock()

    def __call__(
        self, images: torch.Tensor, also: Sequence[Block] = ()
    ) -> dict[Block, NDArray[np.float32]]:
        """Return each of ``blocks`` (N, C * grid * grid), float32, of rendered images.

        Images are (N, 3, S, S), uint8, or (N, V, 3, S, S) with V views; blocks are then averaged
        over the views. ``also`` may have the pooled features, which every pass finds.
        """
        wanted = tuple(dict.fromkeys((*self.blocks, *also)))
        if images.ndim == 4:
            return self._read_one(images, wanted)
        views = [self._read_one(view, wanted) for view in images.unbind(1)]  # as many at once
        return {block: np.mean([view[block] for view in views], axis=0) for block in wanted}

    def _read_one(
        self, images: torch.Tensor, wanted: Sequence[Block]
    ) -> dict[Block, NDArray[np.float32]]:
        device = torch.device(self.compute.device)
        if device.type == "cuda":
            images = images.pin_memory().to(device, non_blocking=True)
        # The hooks fill one dictionary: threads that share a reader take turns.
        with self._turn, torch.inference_mode():
            x = normalise_pixels(images.to(device), self.backbone.preprocess, self.compute.dtype)
            self._read.clear()
            pooled = self._module(x.contiguous(memory_format=torch.channels_last))
            self._read[Block(POOLED)] = pooled.float()
            return {block: self._read[block].cpu().numpy() for block in wanted}


def padded(images: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """Stack images (3, S, S) or (V, 3, S, S), uint8, to a batch of ``size``; zeros at its end.

    Kernels, and with them the bits of the result, depend on the size of the batch. The batch is
    channels_last.
    """
    # Channels are the innermost axis in memory, as in the maps of the network.
    *views, channels, height, width = images[0].shape
    batch = torch.zeros((size, *views, height, width, channels), dtype=torch.uint8).movedim(-1, -3)
    for target, image in zip(batch, images, strict=False):
        target.copy_(image)
    return batch


def round_rows(rows: NDArray[np.float32]) -> list[NDArray[np.floating[Any]]]:
    """Round a block (N, D) of N images as the store does; return a row (D,) for each image.

    A row becomes float16 if all its values fit in it. The same rounding happens without a store and
    in the predictor, so that a cache never changes a result. All images are rounded in one call: a
    call for each of 22 blocks of each image would cost more than the rounding.

    Examples
    --------
    >>> [row.dtype.name for row in round_rows(np.array([[0.1, 2.0], [0.1, 1e6]], np.float32))]
    ['float16', 'float32']
    """
    # Infinite and undefined values do not fit: they stay float32, and are reported later.
    fits = np.abs(rows).max(axis=1, initial=0.0) <= np.finfo(np.float16).max
    with np.errstate(over="ignore"):
        halves = rows.astype(np.float16)
    return [half if small else row for half, row, small in zip(halves, rows, fits, strict=True)]


def side_by_side(blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return blocks (N, D) of N images as one array (N, sum of D), rounded as in the store.

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
    """Return the blocks of rendered images side by side (N, D), rounded as in the store."""
    return side_by_side(list(reader(images).values()))
