"""The fast forward pass gives what the plain one gives, within a stated tolerance."""

import importlib
import threading

import numpy as np
import pytest
import torch
from torch import nn

from regraft.backbones.freeze import state_hash
from regraft.backbones.registry import at_image_size, load_backbone
from regraft.errors import ConfigError
from regraft.features.compute import Compute, choose_compute, fold_norms, has_bfloat16, prepare
from regraft.features.taps import (
    Block,
    TapReader,
    as_map,
    pool,
    pool_to,
    round_rows,
    row_blocks,
    select_blocks,
    side_by_side,
)
from regraft.images.render import normalise


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
    fast = prepare(embedded, Compute("cpu", "float32", 1))
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


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(5)


class Standardised(nn.Conv2d):
    """Its weights are not those that it multiplies with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return nn.functional.conv2d(x, weight, self.bias)


class Doubled(nn.Conv2d):
    """Does more than a convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Borrowed(nn.Module):
    """Uses a convolution's weights without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.conv2d(x, self.convolution.weight))


class Returned(nn.Module):
    """Gives out what lies between convolution and norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        return self.norm(y)[:, :1], y


class TwoNames(nn.Module):
    """One norm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.same = self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.same(self.convolution(x))


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
        (nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), norm()), 1),
        (nn.Sequential(Standardised(3, 5, 1), norm()), 0),
        (nn.Sequential(Doubled(3, 5, 1), norm()), 0),
        (Borrowed(), 0),
        (Returned(), 0),
        (TwoNames(), 0),
    ],
)
def test_norms_fold_only_where_the_graph_proves_it(network, folded):
    torch.manual_seed(0)
    randomise_norms(network)
    network.eval()
    x = torch.rand(2, 3, 9, 9)
    with torch.inference_mode():
        before = network(x)
        assert len(fold_norms(network, x[:1])) == folded
        torch.testing.assert_close(network(x), before, atol=1e-5, rtol=1e-5)


def randomise_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, -1, 1)


@pytest.mark.parametrize("tap", ["0", "inner", "inner.0"])
def test_what_a_tap_reads_keeps_its_meaning(tap):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), norm())
    if tap != "0":
        network = nn.Sequential()
        network.add_module("inner", nn.Sequential(nn.Conv2d(3, 5, 3)))
        network.add_module("norm", norm())
    randomise_norms(network)
    network.eval()
    assert fold_norms(network, torch.zeros(1, 3, 9, 9), [tap]) == []
    assert len(fold_norms(network, torch.zeros(1, 3, 9, 9))) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("timm/ghostnet_050", "timm/test_resnet", "timm/mobilenetv3_small_050", "timm/rexnet_100"),
        *("timm/efficientformer_l1", "torchvision/shufflenet_v2_x0_5", "torchvision/squeezenet1_1"),
    ],
)
def test_every_stage_of_a_folded_network_is_that_of_the_plain_one(name):
    """In float32, 64 pixels (224 where fixed), random weights and statistics; 1e-4 of the norm."""
    backbone = load_backbone(name, "none")
    if not backbone.sizes.fixed:
        backbone = at_image_size(backbone, 64, crop=False)
    torch.manual_seed(0)
    for module in backbone.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.75, 1.25)
    batch = images(2, backbone.preprocess.image_size)
    read: dict[str, np.ndarray] = {}
    hooks = [
        backbone.module.get_submodule(stage.path).register_forward_hook(
            lambda _module, _inputs, output, stage=stage: read.update(
                {stage.name: pool(as_map(output, stage), 2).numpy()}
            )
        )
        for stage in backbone.stages
    ]
    pooled = plain(backbone, batch)
    for hook in hooks:
        hook.remove()
    blocks = [*(Block(stage.name, 2) for stage in backbone.stages), Block("pooled")]
    fast = TapReader(backbone, blocks, Compute("cpu", "float32", 2))(batch)
    assert distance(fast[Block("pooled")], pooled) < 1e-4
    for stage in backbone.stages:
        assert distance(fast[Block(stage.name, 2)], read[stage.name]) < 1e-4, stage.name


def test_networks_of_other_threads_are_not_disturbed_by_folding(embedded):
    """``torch.fx`` changes nn.Module for all threads while it traces."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.rand(1, 3, 16, 16)
    expected = network(x)
    wrong: list[object] = []
    done = threading.Event()

    def keep_running() -> None:
        while not done.is_set():
            try:
                found = network(x)
                if type(found) is not torch.Tensor or not torch.equal(found, expected):
                    wrong.append(found)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                wrong.append(error)

    other = threading.Thread(target=keep_running)
    other.start()
    for _ in range(3):
        prepare(embedded, Compute("cpu", "float32", 1))
    done.set()
    other.join()
    assert not wrong


def test_timm_norms_keep_the_activation_that_they_carry():
    importlib.import_module("regraft.core.torchvision_shim")  # the shim comes before timm
    layers = importlib.import_module("timm.layers")
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4)).eval()
    x = torch.randn(1, 3, 5, 5)
    with torch.inference_mode():
        before = network(x)
        assert len(fold_norms(network, x)) == 1
        assert torch.allclose(network(x), before, atol=1e-6)
        assert bool((before >= 0).all())


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
    with pytest.raises(ConfigError, match="behind @ stands the grid"):
        select_blocks(embedded, "pooled@x")


def test_an_absent_device_is_named():
    with pytest.raises(ConfigError, match="device tpu is not there\nhint: this machine has cpu"):
        choose_compute("tpu", "auto", 1)


@pytest.mark.parametrize(
    ("precision", "batch_size", "told"),
    [
        ("float16", 1, "precision is float16; it must be one of auto, bfloat16, float32"),
        ("auto", 0, "batch_size is 0; it must lie between 1 and 65536"),
        ("auto", 65_537, "batch_size is 65537; it must lie between 1 and 65536"),
    ],
)
def test_wrong_values_are_told(precision, batch_size, told):
    with pytest.raises(ConfigError, match=f"^{told}$"):
        choose_compute("cpu", precision, batch_size)
