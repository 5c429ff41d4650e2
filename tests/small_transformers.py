"""timm's transformers under their own names, with few channels: one of each family, for tests."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch

from regraft.backbones.registry import load_backbone
from regraft.core.torchvision_shim import load_timm

DEPTH = 8  # blocks of each transformer: two in a stage


class Case(NamedTuple):
    """One network of a family."""

    name: str  # in timm
    patch: int  # pixels
    prefix: int  # class and register tokens

    @property
    def full(self):
        return f"timm/{self.name}"

    @property
    def side(self):
        """Pixels of five by five patches."""
        return 5 * self.patch


CASES = (
    Case("vit_tiny_patch16_224", 16, 1),
    Case("vit_little_patch16_reg4_gap_256", 16, 4),
    Case("deit_tiny_distilled_patch16_224", 16, 2),
    Case("deit3_small_patch16_224", 16, 1),
    Case("vit_small_patch14_dinov2", 14, 1),
    Case("vit_small_patch14_reg4_dinov2", 14, 5),
    Case("vit_small_patch16_dinov3", 16, 5),  # positions by rotation, of any size
    Case("vit_betwixt_patch16_rope_reg4_gap_256", 16, 4),  # by rotation, of one size
    Case("eva02_tiny_patch14_224", 14, 1),  # by rotation and learnt
    Case("vit_pe_core_tiny_patch16_384", 16, 1),  # the same, and pooled by attention
    Case("vit_base_patch16_siglip_224", 16, 0),  # pooled by attention
    Case("vit_base_patch16_siglip_gap_224", 16, 0),
    Case("naflexvit_base_patch16_siglip", 16, 0),  # positions interpolated in each pass
    Case("beit_base_patch16_224", 16, 1),  # positions in each attention
)

# Other networks whose features are maps, as a cross-check: their stages have fewer and fewer cells.
OTHERS = (
    Case("swin_tiny_patch4_window7_224", 4, 0),
    Case("convnextv2_atto", 1, 0),
)


def _arguments(name, depth):
    if name.startswith("maxvit"):
        return {}
    if name.startswith("swin"):
        return {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)}
    if name.startswith("convnext"):
        return {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
    return {"embed_dim": 32, "depth": depth, "num_heads": 2}


@contextmanager
def few_channels(depth=DEPTH):
    """Give timm's networks few channels, and so many blocks, however they are built."""
    timm = load_timm()
    full = timm.create_model

    def create(name, **options):
        return full(name, **options, **_arguments(name, depth))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", create)
        yield


@functools.cache
def _loaded(name, side):
    return load_backbone(name, "none", image_size=side)


def loaded(case, side=None):
    """Return a network with random weights, as ``few_channels`` makes it."""
    return _loaded(case.full, case.side if side is None else side)


def by_timm(backbone, **options):
    """Return timm's own network with the same parameters, and with a classifier."""
    if backbone.sizes.fixed:
        options["img_size"] = backbone.preprocess.image_size
    name = backbone.name.removeprefix("timm/")
    module = load_timm().create_model(name, num_classes=3, **options).eval()
    lacking = module.load_state_dict(backbone.module.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    assert {key.partition(".")[0] for key in lacking.missing_keys} <= {"head", "head_dist"}
    return module


def pictures(side, count=4):
    """Return smooth images (count, 3, side, side), uint8."""
    small = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)
