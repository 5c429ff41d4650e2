"""Convolutions that clamp their own output: the same bits, and only where nothing else is read."""

import pytest
import torch
from torch import nn

from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.features.compute import Compute, has_bfloat16, prepare
from regraft.features.fold import fold_norms
from regraft.features.fuse import _Clamping, fuse_clamps
from regraft.features.taps import TapReader, row_blocks

pytestmark = pytest.mark.skipif(
    not has_bfloat16("cpu"), reason="oneDNN refuses bfloat16 where the processor has none"
)


def clamping(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, _Clamping)]


def sequence() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1), nn.SiLU()).eval()


@pytest.mark.parametrize(
    ("tap", "clamped"),
    [("0", ["3"]), ("1", ["3"]), ("2", ["0", "3"]), ("3", ["0"]), ("4", ["0", "3"])],
)
def test_what_a_tap_reads_keeps_its_meaning(tap, clamped):
    network = sequence()
    folded = fold_norms(network, torch.zeros(1, 3, 9, 9), [tap])
    network.bfloat16()
    x = torch.randn(2, 3, 9, 9).bfloat16()

    def read():
        seen = []
        handle = network.get_submodule(tap).register_forward_hook(
            lambda _module, _inputs, output: seen.append(output.clone())
        )
        with torch.inference_mode():
            network(x)
        handle.remove()
        return seen[0]

    before = read()
    fuse_clamps(network, folded, [tap], x)
    assert torch.equal(read(), before)
    assert clamping(network) == clamped


class ReadsBetween(nn.Module):
    """Uses what a convolution gives before it is clamped, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.layers[0](x)


class OneClampForAll(nn.Module):
    """As torchvision's ResNet has it."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("network", [ReadsBetween(), OneClampForAll()])
def test_what_cannot_be_fused_is_left_alone(network):
    x = torch.randn(2, 3, 5, 5).bfloat16()
    network.bfloat16()
    with torch.inference_mode():
        before = network(x)
        assert fuse_clamps(network, [], [], x) == 0
        assert torch.equal(network(x), before)
    assert not clamping(network)


@pytest.mark.parametrize(
    ("name", "count"),
    [("embedded", 33), ("torchvision/mobilenet_v2", 35),
     ("torchvision/vgg11", 8), ("timm/regnetx_002", 27), ("timm/vit_tiny_patch16_224", 0)],
)  # fmt: skip
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_row_of_a_network_is_the_same_to_the_bit(name, count, precision, monkeypatch):
    """Random weights, 64 pixels (224 where fixed), three images, on the processor."""
    backbone = load_backbone(name) if name == "embedded" else load_backbone(name, "none")
    if not backbone.sizes.fixed:
        backbone = at_image_size(backbone, 64, crop=False)
    compute = Compute("cpu", precision, 3)
    side = backbone.preprocess.image_size
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    assert len(clamping(prepare(backbone, compute))) == (count if precision == "bfloat16" else 0)
    fused = TapReader(backbone, row_blocks(backbone), compute)(images)
    monkeypatch.setattr("regraft.features.compute.fuse_clamps", lambda *_: 0)
    plain = TapReader(backbone, row_blocks(backbone), compute)(images)
    for block, values in plain.items():
        assert (fused[block] == values).all(), block
