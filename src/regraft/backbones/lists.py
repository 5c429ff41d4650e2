"""Lists of networks for ``regraft race``: which are worth a try, and under which licence.

One table; the names of timm exist in the version that constraints.txt has, and the licences are as
timm's records state them (tests/backbones/test_lists.py). It imports no torch.
"""

from __future__ import annotations

from typing import NamedTuple


class Listed(NamedTuple):
    """One network of a list."""

    name: str
    licence: str
    reason: str


LISTS = {
    "offline": (
        Listed("embedded", "apache-2.0", "installed with regraft, the default"),
        Listed("embedded-1", "apache-2.0", "installed by regraft[lite]"),
        Listed("embedded-2", "apache-2.0", "installed by regraft[lite], sees more pixels"),
    ),
    "small": (
        Listed("embedded", "apache-2.0", "the default"),
        Listed(
            "timm/mobilenetv4_conv_small.e2400_r224_in1k", "apache-2.0",
            "2.5 million parameters, made for telephones",
        ),
        Listed("timm/efficientnet_b0.ra4_e3600_r224_in1k", "apache-2.0", "4 million, trained long"),
        Listed("timm/resnet18.a1_in1k", "apache-2.0", "11 million, plain convolutions"),
        Listed("timm/convnextv2_atto.fcmae_ft_in1k", "cc-by-nc-4.0", "3 million, masked images"),
        Listed("timm/eva02_tiny_patch14_336.mim_in22k_ft_in1k", "mit", "6 million, 336 pixels"),
        Listed(
            "timm/vit_small_patch16_dinov3.lvd1689m", "dinov3-license",
            "22 million, learnt without labels from 1.7 billion images",
        ),
    ),
    "medium": (
        Listed("embedded", "apache-2.0", "the default"),
        Listed("timm/mobilenetv4_conv_medium.e500_r256_in1k", "apache-2.0", "8 million, fast"),
        Listed("timm/efficientnet_b3.ra2_in1k", "apache-2.0", "11 million, 288 pixels"),
        Listed("timm/resnet50.a1_in1k", "apache-2.0", "24 million, the usual one, trained better"),
        Listed(
            "timm/convnextv2_tiny.fcmae_ft_in22k_in1k", "cc-by-nc-4.0", "28 million, ImageNet-22k"
        ),
        Listed("timm/convnext_tiny.dinov3_lvd1689m", "dinov3-license", "28 million, no labels"),
        Listed(
            "timm/vit_small_patch14_reg4_dinov2.lvd142m", "apache-2.0",
            "22 million, no labels, 518 pixels",
        ),
        Listed("timm/eva02_small_patch14_336.mim_in22k_ft_in1k", "mit", "22 million, 336 pixels"),
        Listed(
            "timm/vit_base_patch16_siglip_224.v2_webli", "apache-2.0",
            "93 million, SigLIP 2: learnt from captions",
        ),
    ),
    "large": (
        Listed("embedded", "apache-2.0", "the default"),
        Listed("timm/mobilenetv4_hybrid_large.ix_e600_r384_in1k", "apache-2.0", "37 million"),
        Listed("timm/efficientnet_b5.sw_in12k_ft_in1k", "apache-2.0", "28 million, 448 pixels"),
        Listed("timm/resnet152.a1h_in1k", "apache-2.0", "58 million"),
        Listed(
            "timm/convnextv2_base.fcmae_ft_in22k_in1k", "cc-by-nc-4.0", "88 million, ImageNet-22k"
        ),
        Listed("timm/vit_base_patch16_dinov3.lvd1689m", "dinov3-license", "86 million, no labels"),
        Listed(
            "timm/vit_base_patch14_reg4_dinov2.lvd142m", "apache-2.0",
            "87 million, no labels, 518 pixels",
        ),
        Listed(
            "timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", "mit", "86 million, 448 pixels"
        ),
        Listed(
            "timm/vit_so400m_patch16_siglip_256.v2_webli", "apache-2.0",
            "428 million, SigLIP 2: learnt from captions",
        ),
    ),
}  # fmt: skip


def expand(words: list[str]) -> list[str]:
    """Return the networks that some words name, each once; a word is a network or a list.

    Examples
    --------
    >>> expand(["offline", "timm/resnet18", "embedded"])
    ['embedded', 'embedded-1', 'embedded-2', 'timm/resnet18']
    """
    names: list[str] = []
    for word in words:
        names += [each.name for each in LISTS[word]] if word in LISTS else [word]
    return [*dict.fromkeys(names)]


def forbids_commerce(licence: str | None) -> bool:
    """Return whether a licence forbids commercial use, by its name.

    Examples
    --------
    >>> forbids_commerce("cc-by-nc-4.0"), forbids_commerce("fair-noncommercial-research-license")
    (True, True)
    >>> forbids_commerce("apache-2.0"), forbids_commerce(None)
    (False, False)
    """
    name = (licence or "").lower()
    return "nc" in name.split("-") or "noncommercial" in name.replace("-", "")
