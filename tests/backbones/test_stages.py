"""Every classification family builds, and gives features and stages of the declared size."""

import dataclasses

import pytest
import torch

from regraft.backbones.backbone import Stage
from regraft.backbones.meta_device import build_on_meta
from regraft.backbones.registry import FAMILIES, build, load_backbone
from regraft.backbones.stages import find_stages
from regraft.errors import BackboneError

# One of each family, at the smallest size that it takes: n_features, channels of the stages.
TORCHVISION = {
    "alexnet": (64, 4096, [64, 192, 256]),
    "convnext_tiny": (32, 768, [96, 192, 384, 768]),
    "densenet121": (32, 1024, [256, 512, 1024, 1024]),
    "efficientnet_b0": (32, 1280, [16, 24, 40, 80, 112, 192, 320]),
    "googlenet": (32, 1024, [64, 192, 480, 832, 1024]),
    "inception_v3": (75, 2048, [64, 192, 288, 768, 2048]),
    "maxvit_t": (224, 512, [64, 128, 256, 512]),
    "mnasnet0_5": (32, 1280, [8, 16, 24, 40, 48, 96, 160]),
    "mobilenet_v2": (32, 1280, [16, 24, 32, 96, 320]),
    "mobilenet_v3_small": (32, 1024, [16, 24, 48, 96]),
    "regnet_y_400mf": (32, 440, [48, 104, 208, 440]),
    "resnet18": (32, 512, [64, 128, 256, 512]),
    "resnext50_32x4d": (32, 2048, [256, 512, 1024, 2048]),
    "shufflenet_v2_x0_5": (32, 1024, [48, 96, 192]),
    "squeezenet1_1": (32, 512, [64, 128, 256, 512]),
    "swin_t": (64, 768, [96, 192, 384, 768]),
    "vgg11_bn": (32, 4096, [64, 128, 256, 512, 512]),
    "vit_b_32": (64, 768, [768] * 4),
    "wide_resnet50_2": (32, 2048, [256, 512, 1024, 2048]),
}
TIMM = {
    "convnext_atto": (32, 320, [40, 80, 160, 320]),
    "mobilenetv3_small_050": (32, 1024, [8, 16, 24, 24, 48, 288]),
    "test_resnet": (32, 96, [32, 48, 192, 96]),
    "vit_tiny_patch16_224": (64, 192, [192] * 4),
    "deit_tiny_distilled_patch16_224": (64, 192, [192] * 4),
    "swin_tiny_patch4_window7_224": (224, 768, [96, 192, 384, 768]),
    "levit_128s": (224, 384, [128, 256, 384]),  # the general rule: timm's list of features
    "mixer_s32_224": (224, 512, [512] * 4),  # the general rule: four groups of blocks
    "pit_ti_224": (224, 256, []),  # the general rule: no maps, only pooled features
}
CASES = [(f"torchvision/{name}", *case) for name, case in TORCHVISION.items()] + [
    (f"timm/{name}", *case) for name, case in TIMM.items()
]


def on_meta(name, size):
    """Build a network with shapes only: no random numbers, no arithmetic."""
    prefix, _, short = name.partition("/")
    record = FAMILIES[prefix].record(short, "none")
    preprocess = dataclasses.replace(record.preprocess, image_size=size)
    return build_on_meta(FAMILIES[prefix], dataclasses.replace(record, preprocess=preprocess))


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "mobilenet_v3_small"])
def test_real_features_are_finite_and_differ_between_images(name):
    backbone = load_backbone(f"torchvision/{name}", "none", image_size=32)
    with torch.inference_mode():
        features = backbone.module(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, backbone.n_features)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])


def test_the_list_above_has_every_family_of_torchvision():
    def family(name):
        return "".join(sign for sign in name.partition("_")[0] if not sign.isdigit())

    known = {family(name) for name in FAMILIES["torchvision"].names()}
    assert known - {family(name) for name in TORCHVISION} == set()


@pytest.mark.parametrize(("name", "size", "width", "channels"), CASES)
def test_features_and_stages_are_what_is_declared(name, size, width, channels):
    module = on_meta(name, size)
    shapes = find_stages(module, size)
    assert shapes.n_features == width
    assert [stage.channels for stage in shapes.stages] == channels
    order, seen = [], {}

    def remember(stage):
        def hook(_module, _inputs, output):
            order.append(stage.path)
            seen[stage.path] = output.shape

        return hook

    for stage in shapes.stages:
        module.get_submodule(stage.path).register_forward_hook(remember(stage))
    with torch.inference_mode():
        features = module(torch.empty(2, 3, size, size, device="meta"))
    assert features.shape == (2, width)
    assert order == [stage.path for stage in shapes.stages]
    areas = []
    for stage in shapes.stages:
        shape = seen[stage.path]
        axis = {"nchw": 1, "nhwc": 3, "tokens": 2}[stage.layout]
        assert shape[axis] == stage.channels
        spatial = [n for number, n in enumerate(shape[1:], start=1) if number != axis]
        areas.append(torch.tensor(spatial).prod().item() - stage.prefix_tokens)
        assert areas[-1] == round(areas[-1] ** 0.5) ** 2
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("timm/deit_tiny_distilled_patch16_224", 64, ("blocks.2", "tokens", 2)),
        ("torchvision/vit_b_32", 64, ("encoder.layers.encoder_layer_2", "tokens", 1)),
        # as many channels as rows: the shape does not show which axis is which
        ("torchvision/swin_t", 384, ("features.1", "nhwc", 0)),
    ],
)
def test_layouts(name, size, expected):
    stage = find_stages(on_meta(name, size), size).stages[0]
    assert (stage.path, stage.layout, stage.prefix_tokens) == expected


def test_blocks_of_unequal_number_are_grouped_without_loss():
    module = build("timm/test_vit", {}, image_size=None)
    blocks = len(module.blocks)
    paths = [stage.path for stage in find_stages(module, 160).stages]
    assert paths[-1] == f"blocks.{blocks - 1}"
    assert len(set(paths)) == len(paths) == min(4, blocks)


def test_inception_maps_imagenets_range_to_its_own():
    # Its weights expect pixels from -1 to 1, its record gives ImageNet's mean and std.
    backbone = load_backbone("torchvision/inception_v3", "none", image_size=75)
    seen = []
    backbone.module.Conv2d_1a_3x3.register_forward_pre_hook(
        lambda _m, inputs: seen.append(inputs[0])
    )
    mean = torch.tensor(backbone.preprocess.mean).view(1, 3, 1, 1)
    std = torch.tensor(backbone.preprocess.std).view(1, 3, 1, 1)
    pixels = torch.rand(1, 3, 75, 75)
    with torch.inference_mode():
        backbone.module((pixels - mean) / std)
    torch.testing.assert_close(seen[0], pixels * 2 - 1, atol=1e-5, rtol=1e-5)


def test_a_network_without_pooled_features_is_refused():
    with pytest.raises(BackboneError, match="no row of features"):
        find_stages(torch.nn.Conv2d(3, 4, 3), 32)


def test_no_parameter_changes_while_stages_are_found():
    first = load_backbone("timm/test_resnet", "none")
    assert all(isinstance(stage, Stage) for stage in first.stages)
    assert not any(module._forward_hooks for module in first.module.modules())
