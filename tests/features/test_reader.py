"""Images to the features that a head reads, by one network or by several side by side."""

import numpy as np
import pytest
import torch

from regraft.backbones.registry import load_backbone
from regraft.features.compute import Compute
from regraft.features.reader import FeatureReader
from regraft.features.taps import POOLED, Block, TapReader, read_features, select_blocks

COMPUTE = Compute("cpu", "float32", 2)


@pytest.fixture(scope="module")
def two():
    return load_backbone("embedded"), load_backbone("timm/test_resnet", "none")


def images(*shape):
    random = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("taps", ["last", "blocks.3@2", "blocks.3@2,pooled"])
@pytest.mark.parametrize("views", [(), (3,)])
def test_pooled_features_are_read_beside_the_blocks(two, taps, views):
    """Whether the head reads them or not, and the blocks stay as they are."""
    embedded, x = two[0], images(*views, 3, 64, 64)
    blocks = select_blocks((embedded,), taps)
    features, pooled = FeatureReader((embedded,), blocks, COMPUTE)([x])
    alone = TapReader(embedded, blocks, COMPUTE)
    np.testing.assert_array_equal(features, read_features(alone, x))
    expected = read_features(TapReader(embedded, (Block(POOLED),), COMPUTE), x)
    np.testing.assert_array_equal(pooled, expected)


@pytest.mark.parametrize("taps", ["last", "all", "2:layer2@2,blocks.3"])
def test_features_of_two_networks_are_side_by_side_each_of_its_own_rendering(two, taps):
    large, small = images(3, 96, 96), images(3, 64, 64)
    features, pooled = FeatureReader(two, select_blocks(two, taps), COMPUTE)([large, small])
    one, other = (
        read_features(
            TapReader(network, [b.alone for b in select_blocks(two, taps) if b.network == k],
                      COMPUTE), x
        )
        for k, (network, x) in enumerate(zip(two, (large, small), strict=True))
    )  # fmt: skip
    np.testing.assert_array_equal(features, np.hstack([one, other]))
    assert pooled.shape == (2, two[0].n_features)


def test_blocks_are_in_the_order_that_is_asked_for(two):
    blocks = (Block("layer2", 1, 1), Block("blocks.3"), Block(POOLED, 1, 1))
    x = images(3, 64, 64)
    features, _ = FeatureReader(two, blocks, COMPUTE)([x, x])
    sorted_blocks = (blocks[1], blocks[0], blocks[2])
    other, _ = FeatureReader(two, sorted_blocks, COMPUTE)([x, x])
    first = two[1].stages[1].channels
    width = two[0].stages[3].channels
    expected = np.hstack(
        [other[:, width : width + first], other[:, :width], other[:, width + first :]]
    )
    np.testing.assert_array_equal(features, expected)


def test_a_network_without_a_block_gives_nothing(two):
    x = images(3, 64, 64)
    features, pooled = FeatureReader(two, (Block(POOLED, 1, 1),), COMPUTE)([x, x])
    assert features.shape == (2, two[1].n_features)
    assert pooled.shape == (2, two[0].n_features)
