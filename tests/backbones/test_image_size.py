"""Image sizes: chosen for the images, given, or refused."""

import numpy as np
import pytest

from regraft.backbones.image_size import adapt_to_images, at_image_size, automatic_image_size
from regraft.backbones.registry import load_backbone
from regraft.errors import BackboneError


@pytest.fixture(scope="module")
def small():
    return load_backbone("timm/test_resnet", "none")


@pytest.mark.parametrize(
    ("side", "expected"),
    [(8, 128), (16, 128), (28, 128), (32, 128), (50, 192), (79, 160), (80, 160), (1000, 160)],
)
def test_automatic_size_enlarges_small_images_fourfold_to_128_at_least(small, side, expected):
    sizes = np.array([[side, side * 3]] * 3 + [[4000, 4000]])
    size, reason = automatic_image_size(small, sizes)
    assert size == min(expected, 160)
    assert f"image size {size}" in reason
    assert at_image_size(small, size, crop=False).preprocess.resize_size == size


def test_automatic_size_keeps_to_what_the_network_takes():
    tiny = np.array([[16, 16]])
    fixed = load_backbone("timm/test_vit", "none")
    size, reason = automatic_image_size(fixed, tiny)
    assert size == fixed.preprocess.image_size
    assert "built for" in reason
    inception = load_backbone("torchvision/inception_v3", "none")
    assert automatic_image_size(inception, tiny)[0] == 128
    assert automatic_image_size(inception, np.empty((0, 2)))[0] == 299


@pytest.mark.parametrize("automatic", [False, True])
def test_images_that_are_enlarged_twofold_are_shown_whole(small, automatic):
    """At a size that was given, at a network's only one, and at the automatic one."""
    for backbone in (small, load_backbone("timm/test_vit", "none")):
        size = backbone.preprocess.image_size
        for side in (size // 2, size // 3, 20):
            fitted, _ = adapt_to_images(backbone, np.array([[side, 300]]), automatic=automatic)
            assert fitted.preprocess.resize_size == fitted.preprocess.image_size
        for sizes in ([[size // 2 + 1, 300]], [[1000, 800]], np.empty((0, 2))):
            fitted, _ = adapt_to_images(backbone, np.asarray(sizes), automatic=automatic)
            assert fitted.preprocess == backbone.preprocess


def test_explicit_sizes_keep_the_crop_ratio_or_are_refused(small):
    own = small.preprocess
    changed = at_image_size(small, 80)
    assert changed.preprocess.resize_size == 80 * own.resize_size // own.image_size
    assert changed.module is small.module
    assert small.preprocess == own
    with pytest.raises(BackboneError, match="32 to 4096 pixels, not 8"):
        at_image_size(small, 8)
    with pytest.raises(BackboneError, match="160 pixels only, not 96"):
        at_image_size(load_backbone("timm/test_vit", "none"), 96)
