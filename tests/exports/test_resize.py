"""Resizing inside a graph: nearly the pixels of the training, for images of any size."""

import numpy as np
import pytest

from regraft.exports.onnx_file import make_onnx
from regraft.exports.resize import _front, with_resize
from regraft.images.render import Preprocess, render
from tiny_bundles import tiny_model

onnxruntime = pytest.importorskip("onnxruntime")

SIZES = [
    (1, 1), (1, 500), (3, 2), (28, 28), (56, 56), (57, 56), (60, 80), (480, 640), (333, 1000),
    (900, 55), (48, 48),
]  # fmt: skip


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_size", [48, 55])
def test_squares_differ_by_at_most_two_of_255(interpolation, resize_size):
    grey = (0.5, 0.5, 0.5)
    look = Preprocess(48, resize_size, grey, grey, interpolation)
    session = onnxruntime.InferenceSession(_front(look, 0).SerializeToString())
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        board = np.where(np.add.outer(np.arange(height), np.arange(width)) // 5 % 2, 255, 0)
        edges = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)  # bicubic overshoots
        for image in (noise, edges):
            (found,) = session.run(None, {"image": image})
            wanted = render(image, look).numpy()
            difference = np.abs(found[0].astype(int) - wanted.astype(int)).max()
            assert difference <= 2, (height, width)


def test_all_networks_read_one_image():
    model = tiny_model(two=True)
    plain = make_onnx(model, None)
    whole = with_resize(plain, model)
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    assert [each.name for each in session.get_inputs()] == ["image"]
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    squares = {
        f"pixels-{k + 1}": render(image, each.preprocess).contiguous().numpy()[None]
        for k, each in enumerate(model.networks)
    }
    given = onnxruntime.InferenceSession(plain.SerializeToString()).run(None, squares)
    for found, wanted in zip(session.run(None, {"image": image}), given, strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())
