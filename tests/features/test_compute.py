"""The fast forward pass gives what the plain one gives, within a stated tolerance."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from regraft.backbones.freeze import state_hash
from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.errors import ConfigError
from regraft.features.compute import Compute, choose_compute, has_bfloat16, prepare
from regraft.features.taps import (
    Block,
    TapReader,
    as_map,
    pool,
    row_blocks,
)
from regraft.images.render import normalise_pixels


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
        return backbone.module(normalise_pixels(batch, backbone.preprocess, torch.float32)).numpy()


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


def test_rows_do_not_depend_on_their_position_in_the_batch(embedded):
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


def test_an_absent_device_is_named():
    with pytest.raises(ConfigError, match="device tpu is not there\nhint: this machine has cpu"):
        choose_compute("tpu", "auto", 1)


@pytest.mark.parametrize(
    ("precision", "batch_size", "message"),
    [
        ("float16", 1, "precision is float16; it must be one of auto, bfloat16, float32"),
        ("auto", 0, "batch_size is 0; it must be between 1 and 65536"),
        ("auto", 65_537, "batch_size is 65537; it must be between 1 and 65536"),
    ],
)
def test_wrong_values_are_refused(precision, batch_size, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        choose_compute("cpu", precision, batch_size)
