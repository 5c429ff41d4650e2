"""One rendering: torchvision's own for ordinary images, bounded for extreme ones."""

import dataclasses
import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from regraft.core.torchvision_shim import torchvision
from regraft.images.render import Preprocess, normalise_pixels, render

functional = importlib.import_module("torchvision.transforms.v2.functional")

PREPROCESS = Preprocess(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "size", [(240, 320), (333, 251), (256, 256), (28, 28), (1, 4), (100, 400), (700, 501)]
)
def test_equals_torchvision_up_to_four_to_one(size, interpolation):
    image = noise(*size)
    preprocess = dataclasses.replace(PREPROCESS, interpolation=interpolation)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    mode = torchvision.transforms.InterpolationMode(interpolation)
    expected = functional.center_crop(
        functional.resize(tensor, [256], interpolation=mode, antialias=True), [224]
    )
    assert torch.equal(render(image, preprocess), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 65535), (65535, 1), (3, 40001), (2, 9)])
def test_extreme_shapes_give_the_square_without_gigabytes(size):
    image = np.full((*size, 3), 200, dtype=np.uint8)
    rendered = render(image, PREPROCESS)
    assert rendered.shape == (3, 224, 224)
    assert (rendered == 200).all()
    if sys.platform == "linux":  # in kilobytes there; the whole long side would be 13 GB
        resource = importlib.import_module("resource")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20


def test_cut_of_a_long_side_keeps_the_centre():
    # A bright column exactly in the middle must stay in the middle, for odd and even lengths.
    for width in (1001, 1000):
        image = np.zeros((100, width, 3), dtype=np.uint8)
        image[:, (width - 1) // 2 : width // 2 + 1] = 255
        columns = render(image, PREPROCESS)[0].float().sum(0)
        centre = (columns * torch.arange(224)).sum() / columns.sum()
        assert centre.item() == pytest.approx(111.5, abs=1.0)


def test_accepts_views_and_read_only_pixels_and_lets_them_go():
    image = noise(60, 80)
    expected = render(image, PREPROCESS)
    read_only = image.copy()
    read_only.setflags(write=False)
    assert torch.equal(render(read_only, PREPROCESS), expected)
    flipped = np.ascontiguousarray(image[::-1])
    assert torch.equal(render(image[::-1], PREPROCESS), render(flipped, PREPROCESS))
    exact = noise(224, 224)
    out = render(exact, Preprocess(224, 224, (0, 0, 0), (1, 1, 1), "bilinear"))
    exact[:] = 0
    assert out.float().mean() > 100
    assert out.permute(1, 2, 0).is_contiguous()


def test_same_pixels_in_every_thread():
    images = [noise(50 + n, 70, seed=n) for n in range(16)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda image: render(image, PREPROCESS), images))
    assert all(
        torch.equal(one, render(image, PREPROCESS))
        for one, image in zip(threaded, images, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalise_is_torchvisions_and_keeps_the_memory_format(dtype):
    batch = torch.stack([render(noise(40, 40, seed), PREPROCESS) for seed in range(2)])
    batch = batch.contiguous(memory_format=torch.channels_last)
    before = batch.clone()
    out = normalise_pixels(batch, PREPROCESS, dtype)
    expected = functional.normalize(batch.float() / 255, PREPROCESS.mean, PREPROCESS.std)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, before)
    torch.testing.assert_close(out.float(), expected, atol=2e-2, rtol=1e-2)
    if dtype == torch.float32:
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
