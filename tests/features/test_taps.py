"""Blocks by name, maps pooled to grids, rows rounded as the store keeps them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from regraft.backbones.registry import load_backbone
from regraft.errors import ConfigError
from regraft.features.taps import (
    POOLED,
    Block,
    attach_hooks,
    block_widths,
    pool,
    pool_each,
    pool_to,
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
    assert [str(b) for b in select_blocks((embedded,), "last")] == ["pooled@1"]
    assert len(select_blocks((embedded,), "all")) == len(embedded.stages) + 1
    finer = select_blocks((embedded,), "all@2")
    assert {b.grid for b in finer[:-1]} == {2}
    assert len(finer) == len(embedded.stages) + 1
    stage = embedded.stages[3].name
    chosen = select_blocks((embedded,), f"pooled, {stage}@2")
    assert [str(b) for b in chosen] == [f"{stage}@2", "pooled@1"]
    unknown = "taps: embedded has no poled@1\nhint: auto, last, all, all@2, or"
    with pytest.raises(ConfigError, match=unknown):
        select_blocks((embedded,), "poled")
    with pytest.raises(ConfigError, match="after @ comes the grid"):
        select_blocks((embedded,), "pooled@x")


def test_hooks_fill_one_tensor_for_each_block_of_a_stage(embedded):
    stage = embedded.stages[2]
    blocks = (Block(stage.name, 1), Block(stage.name, 4), Block(POOLED))
    module = copy.deepcopy(embedded.module)
    found = attach_hooks(module, embedded.stages, blocks)
    with torch.inference_mode():
        module(torch.rand(2, 3, 64, 64))
    widths = block_widths((embedded,), blocks)
    assert {block: values.shape for block, values in found.items()} == {
        block: (2, widths[block]) for block in blocks[:2]
    }


def test_widths_are_those_of_the_row(embedded):
    channels = {stage.name: stage.channels for stage in embedded.stages}
    channels[POOLED] = embedded.n_features
    for block, width in block_widths((embedded,), row_blocks(embedded)).items():
        assert width == channels[block.tap] * block.grid**2


def test_grids_pooled_one_by_one_have_the_values_of_one_reading():
    x = torch.randn(5, 24, 14, 14, generator=torch.Generator().manual_seed(0))
    for alone, together in zip(pool_each(x, (1, 2, 4)), pool_to(x, (1, 2, 4)), strict=True):
        assert alone.equal(together)


@pytest.fixture(scope="module")
def two(embedded):
    return embedded, load_backbone("timm/test_resnet", "none")


def test_the_blocks_of_two_networks_come_one_network_after_the_other(two):
    assert [str(block) for block in select_blocks(two, "last")] == ["pooled@1", "2:pooled@1"]
    every = [str(block) for block in select_blocks(two, "all")]
    assert every[:8] == [str(block) for block in select_blocks(two[:1], "all")]
    assert every[8:] == [f"2:{block}" for block in select_blocks(two[1:], "all")]


def test_a_tap_without_a_number_is_of_each_network_that_has_it(two):
    chosen = [str(block) for block in select_blocks(two, "blocks.3, 2:pooled, layer2@2")]
    assert chosen == ["blocks.3@1", "2:layer2@2", "2:pooled@1"]
    assert [str(b) for b in select_blocks(two, "pooled")] == ["pooled@1", "2:pooled@1"]
    assert [str(b) for b in select_blocks(two, "1:pooled")] == ["pooled@1"]


@pytest.mark.parametrize("taps", ["2:blocks.3", "3:pooled", "1:layer2", "layer9"])
def test_a_tap_that_no_network_has_is_an_error_with_the_nearest(two, taps):
    with pytest.raises(ConfigError, match=r"^taps: embedded\+timm/test_resnet has no ") as caught:
        select_blocks(two, taps)
    assert any(name in caught.value.hint for name in ("pooled@1", "layer", "blocks"))


def test_widths_of_blocks_are_those_of_their_network(two):
    widths = block_widths(two, select_blocks(two, "last"))
    assert list(widths.values()) == [network.n_features for network in two]


@pytest.mark.parametrize("block", [Block("a.b", 4), Block("pooled"), Block("x", 2, 3)])
def test_a_block_is_read_from_its_text(block):
    assert Block.parse(str(block)) == block
