"""Blocks by name, maps pooled to grids, rows rounded as the store keeps them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from regraft.backbones.registry import load_backbone
from regraft.errors import ConfigError
from regraft.features.compute import Compute
from regraft.features.taps import (
    POOLED,
    Block,
    TapReader,
    attach_hooks,
    block_widths,
    pool,
    pool_each,
    pool_to,
    read_features,
    read_with_pooled,
    round_rows,
    row_blocks,
    select_blocks,
    side_by_side,
)


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


@pytest.mark.parametrize("side", [3, 7, 14, 28, 30])
def test_the_bits_of_a_grid_do_not_depend_on_what_else_is_read(side):
    """Scope: one machine, one batch shape."""
    x = torch.randn(5, 24, side, side, generator=torch.Generator().manual_seed(side))
    together = pool_to(x, (1, 2, 4))
    for grid, pooled in zip((1, 2, 4), together, strict=True):
        assert pool(x, grid).equal(pooled)
    assert pool_to(x, (4, 1))[1].equal(together[0])


def cell_by_cell(x, grid):
    return nn.functional.adaptive_avg_pool2d(x, grid).flatten(2).transpose(1, 2).flatten(1)


def test_pooling_equals_adaptive_average_pooling():
    for side, grid in ((7, 1), (7, 2), (8, 2), (14, 4), (1, 2)):
        x = torch.randn(2, 3, side, side)
        expected = cell_by_cell(x, grid)
        assert torch.allclose(pool(x, grid), expected, atol=1e-6), (side, grid)


@pytest.mark.parametrize("shape", [(112, 112), (14, 14), (7, 7), (8, 4), (3, 9), (1, 50), (2, 2)])
def test_three_grids_in_one_reading_are_those_of_three_readings(shape):
    x = torch.randn(2, 3, *shape).to(memory_format=torch.channels_last)
    for grid, pooled in zip((1, 2, 4), pool_to(x, (1, 2, 4)), strict=True):
        expected = cell_by_cell(x, grid)
        assert torch.allclose(pooled, expected, atol=1e-6), grid
    halves = pool_to(x.bfloat16(), (4,))[0]
    exact = cell_by_cell(x.bfloat16().float(), 4)
    assert halves.dtype == torch.float32
    assert torch.allclose(halves, exact, atol=1e-6)


def test_rounding_keeps_what_float16_cannot_hold():
    rows = np.asarray([[1.0, 70_000.0], [1.0, 65_504.0], [np.nan, 1.0], [0.1, -1e-9]], np.float32)
    rounded = round_rows(rows)
    assert [row.dtype.name for row in rounded] == ["float32", "float16", "float32", "float16"]
    for row, values in zip(rounded, rows, strict=True):
        np.testing.assert_array_equal(row, values.astype(row.dtype))
    np.testing.assert_array_equal(
        side_by_side([rows[:, :1], rows[:, 1:]])[0], np.float32([1.0, 70_000.0])
    )


def test_taps_by_name(embedded):
    assert [str(b) for b in select_blocks(embedded, "last")] == ["pooled@1"]
    assert len(select_blocks(embedded, "all")) == len(embedded.stages) + 1
    finer = select_blocks(embedded, "all@2")
    assert {b.grid for b in finer[:-1]} == {2}
    assert len(finer) == len(embedded.stages) + 1
    stage = embedded.stages[3].name
    chosen = select_blocks(embedded, f"pooled, {stage}@2")
    assert [str(b) for b in chosen] == [f"{stage}@2", "pooled@1"]
    unknown = "taps: embedded has no poled@1\nhint: auto, last, all, all@2, or"
    with pytest.raises(ConfigError, match=unknown):
        select_blocks(embedded, "poled")
    with pytest.raises(ConfigError, match="after @ comes the grid"):
        select_blocks(embedded, "pooled@x")


def test_hooks_fill_one_tensor_for_each_block_of_a_stage(embedded):
    stage = embedded.stages[2]
    blocks = (Block(stage.name, 1), Block(stage.name, 4), Block(POOLED))
    module = copy.deepcopy(embedded.module)
    found = attach_hooks(module, embedded.stages, blocks)
    with torch.inference_mode():
        module(torch.rand(2, 3, 64, 64))
    widths = block_widths(embedded, blocks)
    assert {block: values.shape for block, values in found.items()} == {
        block: (2, widths[block]) for block in blocks[:2]
    }


def test_widths_are_those_of_the_row(embedded):
    channels = {stage.name: stage.channels for stage in embedded.stages}
    channels[POOLED] = embedded.n_features
    for block, width in block_widths(embedded, row_blocks(embedded)).items():
        assert width == channels[block.tap] * block.grid**2


def test_grids_pooled_one_by_one_have_the_values_of_one_reading():
    x = torch.randn(5, 24, 14, 14, generator=torch.Generator().manual_seed(0))
    for alone, together in zip(pool_each(x, (1, 2, 4)), pool_to(x, (1, 2, 4)), strict=True):
        assert alone.equal(together)


@pytest.mark.parametrize("taps", ["last", "blocks.3@2", "blocks.3@2,pooled"])
@pytest.mark.parametrize("views", [(), (3,)])
def test_pooled_features_are_read_beside_the_blocks_of_a_reader(embedded, taps, views):
    """Whether the reader has them or not, and the blocks stay as they are."""
    images = torch.randint(0, 256, (2, *views, 3, 64, 64), dtype=torch.uint8)
    compute = Compute("cpu", "float32", 2)
    reader = TapReader(embedded, select_blocks(embedded, taps), compute)
    features, pooled = read_with_pooled(reader, images)
    np.testing.assert_array_equal(features, read_features(reader, images))
    expected = read_features(TapReader(embedded, (Block(POOLED),), compute), images)
    np.testing.assert_array_equal(pooled, expected)
