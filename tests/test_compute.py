"""The fast forward pass gives what the plain one gives, within a stated tolerance."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from regraft.backbones.freeze import state_hash
from regraft.backbones.preprocess import normalise
from regraft.backbones.registry import load_backbone
from regraft.errors import ConfigError
from regraft.features.compute import Compute, choose_compute, fold_norms, has_bfloat16, prepare
from regraft.features.taps import (
    Block,
    TapReader,
    pool,
    round_block,
    row_blocks,
    select_blocks,
)


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def images(count: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(small, size=(side, side), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """Largest relative distance of a row."""
    return float((np.linalg.norm(left - right, axis=1) / np.linalg.norm(right, axis=1)).max())


def plain(backbone, batch: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return backbone.module(normalise(batch, backbone.preprocess, torch.float32)).numpy()


def test_float32_fast_path_equals_the_plain_network(embedded):
    batch = images(4)
    fast = TapReader(embedded, row_blocks(embedded), Compute("cpu", "float32", 4))(batch)
    assert distance(fast[Block("pooled")], plain(embedded, batch)) < 1e-4


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_bfloat16_is_within_its_tolerance_and_not_exact(embedded):
    batch = images(8)
    fast = TapReader(embedded, row_blocks(embedded), Compute("cpu", "bfloat16", 8))(batch)
    exact = TapReader(embedded, row_blocks(embedded), Compute("cpu", "float32", 8))(batch)
    distances = {str(block): distance(fast[block], exact[block]) for block in fast}
    # The first stage ends in a linear layer: its channels' means nearly cancel, so that what is
    # left of them is small beside the rounding.
    assert all(1e-5 < value < 0.3 for value in distances.values()), distances
    assert distances["pooled@1"] < 0.1


def test_rows_do_not_depend_on_their_place_in_the_batch(embedded):
    """To the bit, for one batch size, machine and thread count; that is why batches are padded."""
    compute = choose_compute("cpu", "auto", 8)
    reader = TapReader(embedded, row_blocks(embedded), compute)
    batch = images(8)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    straight, shuffled = reader(batch), reader(batch[order])
    for block, values in straight.items():
        assert np.array_equal(values[order.numpy()], shuffled[block]), block


def test_all_norms_of_the_embedded_network_fold_and_the_backbone_is_untouched(embedded):
    before = state_hash(embedded.module)
    fast = prepare(embedded.module, Compute("cpu", "float32", 1))
    assert not [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert state_hash(embedded.module) == before == embedded.weights_sha256


class Twice(nn.Module):
    """A convolution used twice must not be folded into the norm behind one of its uses."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(self.convolution(x)))


class Branch(nn.Module):
    """A convolution whose output is also used without the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        return y + self.norm(y)


class Untraceable(nn.Module):
    """Control flow that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("network", "folded"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)), 1),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, affine=False)), 1),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.BatchNorm2d(5)), 0),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False)), 0),
        (Twice(), 0),
        (Branch(), 0),
        (Untraceable(), 0),
    ],
)
def test_norms_fold_only_where_the_graph_proves_it(network, folded):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, -1, 1)
    network.eval()
    x = torch.rand(2, 3, 9, 9)
    with torch.inference_mode():
        before = network(x)
        assert fold_norms(network) == folded
        assert torch.allclose(network(x), before, atol=1e-5)


def test_timm_norms_keep_the_activation_that_they_carry():
    importlib.import_module("regraft.backbones.vision")  # the shim comes before timm
    layers = importlib.import_module("timm.layers")
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4)).eval()
    x = torch.randn(1, 3, 5, 5)
    with torch.inference_mode():
        before = network(x)
        assert fold_norms(network) == 1
        assert torch.allclose(network(x), before, atol=1e-6)
        assert bool((before >= 0).all())


def test_pooling_equals_adaptive_average_pooling():
    for side, grid in ((7, 1), (7, 2), (8, 2), (14, 4), (1, 2)):
        x = torch.randn(2, 3, side, side)
        expected = nn.functional.adaptive_avg_pool2d(x, grid).flatten(1)
        assert torch.allclose(pool(x, grid), expected, atol=1e-6), (side, grid)


def test_rounding_keeps_what_float16_cannot_hold():
    big = np.asarray([1.0, 70_000.0], np.float32)
    assert round_block(big).dtype == np.float32
    assert round_block(big[:1]).dtype == np.float16
    assert round_block(np.asarray([np.nan], np.float32)).dtype == np.float32


def test_taps_by_name(embedded):
    assert [str(b) for b in select_blocks(embedded, "last")] == ["pooled@1"]
    assert len(select_blocks(embedded, "all")) == len(embedded.stages) + 1
    finer = select_blocks(embedded, "all@2")
    assert {b.grid for b in finer[:-1]} == {2}
    assert len(finer) == len(embedded.stages) + 1
    stage = embedded.stages[3].name
    chosen = select_blocks(embedded, f"pooled, {stage}@2")
    assert [str(b) for b in chosen] == [f"{stage}@2", "pooled@1"]
    unknown = "taps: embedded has no poled@1\nhint: last, all, all@2, or"
    with pytest.raises(ConfigError, match=unknown):
        select_blocks(embedded, "poled")
    with pytest.raises(ConfigError, match="behind @ stands the grid"):
        select_blocks(embedded, "pooled@x")


def test_an_absent_device_is_named():
    with pytest.raises(ConfigError, match="device tpu is not there\nhint: this machine has cpu"):
        choose_compute("tpu", "auto", 1)
