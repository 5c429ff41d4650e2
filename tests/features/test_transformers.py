"""What is read of transformers: maps without extra tokens, pooled features, exact repeats."""

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from regraft.bundle.golden import FEATURE_TOLERANCE
from regraft.features.compute import Compute
from regraft.features.taps import GRIDS, POOLED, Block, TapReader, row_blocks
from regraft.images.render import normalise_pixels
from small_transformers import CASES, OTHERS, by_timm, few_channels, loaded, pictures

every = pytest.mark.parametrize("case", [*CASES, *OTHERS], ids=lambda case: case.name)


@pytest.fixture(scope="module", autouse=True)
def _small():
    with few_channels():
        yield


def backbone_of(case):
    return loaded(case, 128 if case in OTHERS else None)


def read(backbone, images, precision="float32", blocks=None):
    wanted = row_blocks(backbone) if blocks is None else blocks
    return TapReader(backbone, wanted, Compute("cpu", precision, len(images)))(images)


def distance(left, right):
    """Largest relative distance of a row."""
    return float((np.linalg.norm(left - right, axis=1) / np.linalg.norm(right, axis=1)).max())


@every
def test_grids_and_pooled_features_are_those_of_timm(case):
    backbone = backbone_of(case)
    images = pictures(backbone.preprocess.image_size)
    found = read(backbone, images)
    module = by_timm(backbone)
    x = normalise_pixels(images, backbone.preprocess, torch.float32)
    with torch.inference_mode():
        pooled = module.forward_head(module.forward_features(x), pre_logits=True)
        maps = module.forward_intermediates(
            x,
            indices=[int(stage.path.rpartition(".")[2]) for stage in backbone.stages],
            norm=False, output_fmt="NCHW", intermediates_only=True,
        )  # fmt: skip
    assert distance(found[Block(POOLED)], pooled.numpy()) < 1e-5
    for stage, cells in zip(backbone.stages, maps, strict=True):  # (N, C, H, W)
        for grid in GRIDS:
            expected = adaptive_avg_pool2d(cells, grid).permute(0, 2, 3, 1).flatten(1)
            assert distance(found[Block(stage.name, grid)], expected.numpy()) < 1e-5, stage


@every
def test_what_changes_in_a_quarter_of_the_image_changes_its_cell_most(case):
    backbone = backbone_of(case)
    side = backbone.preprocess.image_size
    plain = torch.full((1, 3, side, side), 128, dtype=torch.uint8)
    images = plain.repeat(5, 1, 1, 1)
    third = side // 3
    for number, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        rows = slice(side - third, side) if top else slice(0, third)
        columns = slice(side - third, side) if left else slice(0, third)
        images[number, 0, rows, columns] = 255
    first = Block(backbone.stages[0].name, 2)
    cells = read(backbone, images, blocks=[first])[first].reshape(5, 4, -1)
    moved = np.linalg.norm(cells[:4] - cells[4], axis=2)  # (quarter, cell)
    assert moved.argmax(axis=1).tolist() == [0, 1, 2, 3]


@every
def test_features_repeat_to_the_bit_whatever_else_is_in_the_batch(case):
    backbone = backbone_of(case)
    images = pictures(backbone.preprocess.image_size)
    order = [2, 0, 3, 1]
    for precision in ("float32", "bfloat16"):
        first, other = read(backbone, images, precision), read(backbone, images[order], precision)
        alone = read(
            backbone, torch.cat([images[1:2], torch.zeros_like(images[1:])]), precision
        )  # as a batch of one image is padded
        for block, rows in first.items():
            assert np.array_equal(rows[order], other[block]), block
            assert np.array_equal(rows[1], alone[block][0]), block
        fewer = [Block(backbone.stages[1].name, 2), Block(POOLED)]
        for block, rows in read(backbone, images, precision, fewer).items():
            assert np.array_equal(rows, first[block]), block


@every
def test_bfloat16_is_within_the_tolerance_of_a_bundle(case):
    backbone = backbone_of(case)
    images = pictures(backbone.preprocess.image_size)
    exact, rounded = read(backbone, images), read(backbone, images, "bfloat16")
    lost = {str(block): distance(rounded[block], rows) for block, rows in exact.items()}
    assert all(0 < each < FEATURE_TOLERANCE["bfloat16"] for each in lost.values()), lost
