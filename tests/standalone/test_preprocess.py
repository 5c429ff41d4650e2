"""The exported renderer: the very bits of the training, without torch and without regraft."""

import ast
import hashlib
import itertools
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from odd_pictures import SIZES, black_and_white, noise, odd_pictures
from regraft.core.keyed_random import generator
from regraft.errors import ConfigError
from regraft.exports.views import check_views, recorded_draws
from regraft.images import augment
from regraft.images.render import Preprocess, render
from regraft.standalone import preprocess as standalone

FOLDER = Path(str(files("regraft.standalone")))
INTERPOLATIONS = ("bicubic", "bilinear")
HALF = (0.5, 0.5, 0.5)


def preprocess_of(size, resize, interpolation, **others):
    return Preprocess(size, resize, HALF, HALF, interpolation, **others)


def input_of(preprocess):
    """Return the part of meta.json, as it comes out of the file."""
    fields = {"image_size", "resize_size", "interpolation"}
    recorded = {name: value for name, value in preprocess.recorded().items() if name in fields}
    return json.loads(json.dumps(recorded | {"draws": recorded_draws(preprocess)}))


# --- rendering ------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("size", "resize"), SIZES)
def test_every_odd_picture_is_rendered_in_the_same_bits(size, resize, interpolation):
    preprocess = preprocess_of(size, resize, interpolation)
    names = []
    for name, image in odd_pictures():
        here = standalone.render(image, size, resize, interpolation)
        np.testing.assert_array_equal(here, render(image, preprocess).numpy(), err_msg=name)
        names.append(name)
    assert len({*names}) == len(names) > 100


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_photograph_of_twelve_megapixels_is_rendered_in_the_same_bits(interpolation):
    image = noise(3000, 4000)
    here = standalone.render(image, 224, 256, interpolation)
    assert here.dtype == np.uint8
    expected = render(image, preprocess_of(224, 256, interpolation)).numpy()
    np.testing.assert_array_equal(here, expected)


@settings(max_examples=150)
@given(before=st.integers(1, 5000), after=st.integers(1, 520), mode=st.sampled_from(INTERPOLATIONS))
def test_any_side_becomes_any_other_as_in_torch(before, after, mode):
    image = noise(24, before, seed=before)
    image[::2] = black_and_white(12, before)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = interpolate(pixels, size=(24, after), mode=mode, antialias=True)[0].numpy()
    here = standalone._mix_columns(image, standalone.taps_of(before, after, mode))
    np.testing.assert_array_equal(here, expected)
    down = standalone._mix_rows(image.transpose(2, 1, 0), standalone.taps_of(before, after, mode))
    np.testing.assert_array_equal(down, expected.transpose(0, 2, 1))


def test_pixels_in_any_order_in_memory_are_read_and_not_written():
    image = noise(60, 80)
    expected = standalone.render(image.copy(), 32, 37, "bicubic")
    image.setflags(write=False)
    wide = np.repeat(image, 2, axis=1)[:, ::2]
    for same in (image, wide, np.asfortranarray(image), image[::-1].copy()[::-1]):
        np.testing.assert_array_equal(standalone.render(same, 32, 37, "bicubic"), expected)


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (np.zeros((4, 4), np.uint8), (4, 4, "bicubic"), "shape (4, 4)"),
        (np.zeros((4, 4, 4), np.uint8), (4, 4, "bicubic"), "shape (4, 4, 4)"),
        (np.zeros((4, 0, 3), np.uint8), (4, 4, "bicubic"), "shape (4, 0, 3)"),
        (np.zeros((4, 4, 3)), (4, 4, "bicubic"), "float64"),
        (np.zeros((4, 4, 3), np.uint8), (5, 4, "bicubic"), "image_size 5"),
        (np.zeros((4, 4, 3), np.uint8), (0, 4, "bicubic"), "image_size 0"),
        (np.zeros((4, 4, 3), np.uint8), (4, 4, "nearest"), "'nearest' must be one of"),
    ],
)
def test_what_cannot_be_rendered_is_named(image, arguments, message):
    with pytest.raises(ValueError, match="must be") as caught:
        standalone.render(image, *arguments)
    assert message in str(caught.value)


# --- views ----------------------------------------------------------------------------------------

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 3), (28, 28), (1, 500), (500, 1), (90, 120), (48, 48),
          (211, 97), (64, 64), (300, 20)]  # fmt: skip


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_views_are_those_of_the_bundle(interpolation):
    preprocess = preprocess_of(48, 54, interpolation, views=20, augment="light")
    meta_input = input_of(preprocess)
    for height, width in SHAPES:
        image = noise(height, width)
        expected = augment.render_views(image, preprocess).numpy()
        here = standalone.render_views(image, meta_input)
        assert here.shape == (21, 3, 48, 48)
        assert here.flags.c_contiguous
        np.testing.assert_array_equal(here, expected, err_msg=f"{height} x {width}")


def test_the_shapes_above_reach_every_branch_of_a_view():
    draws = recorded_draws(preprocess_of(48, 54, "bicubic", views=20, augment="light"))
    parts = [
        (height, width, *standalone._part(height, width, draw))
        for height, width in SHAPES
        for draw in draws
    ]
    assert {part[6] for part in parts} == {False, True}
    heights = {(height, part_height) for height, _, _, _, part_height, _, _ in parts}
    assert any(height > part_height for height, part_height in heights)
    assert any(height == part_height > 1 for height, part_height in heights)  # no number is drawn
    assert (1, 1) in heights  # the centre of an image that is too narrow


def test_views_without_augmentation_are_the_plain_image():
    preprocess = preprocess_of(48, 54, "bicubic", views=2)
    image = noise(70, 90)
    expected = augment.render_views(image, preprocess).numpy()
    np.testing.assert_array_equal(standalone.render_views(image, input_of(preprocess)), expected)


def test_without_views_there_is_one_image():
    meta_input = input_of(preprocess_of(48, 54, "bicubic"))
    assert meta_input["draws"] == []
    del meta_input["draws"]
    assert standalone.render_views(noise(70, 90), meta_input).shape == (3, 48, 48)


@pytest.mark.parametrize("bound", [1, 2, 3, 1000, 3 << 30, (1 << 31) + 1, (1 << 32) - 1])
def test_recorded_words_give_the_numbers_of_numpy(bound):
    """The large bounds need words again and again, which the sides of an image hardly ever do."""
    raw = generator("words").bit_generator.random_raw(200).tolist()
    words = standalone._Words([half for word in raw for half in (word & 0xFFFFFFFF, word >> 32)], 0)
    random = generator("words")
    for _ in range(30):
        assert words.below(bound) == random.integers(bound)
    assert words.is_below_half() == (random.random() < 0.5)


def test_used_up_words_are_an_error():
    with pytest.raises(ValueError, match="the 4 recorded words of a view are used up"):
        standalone._Words([0] * 4, 0).below(3 << 30)


def test_as_many_attempts_are_recorded_as_training_makes():
    [draw] = recorded_draws(preprocess_of(8, 8, "bicubic", views=1, augment="light"))
    assert len(draw["shares"]) == len(draw["aspects"]) == augment._ATTEMPTS
    assert len(draw["words"]) >= 4 * augment._ATTEMPTS + 4


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_views_that_cannot_be_exported_are_refused_in_one_line(name):
    check_views(preprocess_of(8, 8, "bicubic", augment=name))  # without views
    preprocess = preprocess_of(8, 8, "bicubic", views=1, augment=name)
    if name in {"none", "light"}:
        check_views(preprocess)
        return
    for refuse in (check_views, recorded_draws):
        with pytest.raises(ConfigError) as caught:
            refuse(preprocess)
        assert caught.value.message == f"views with augment={name!r} cannot be exported"
        assert caught.value.hint == "train with `augment='light'`, or without `tta`"


# --- on its own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_the_copied_files_import_neither_regraft_nor_torch(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    roots = {
        alias.name.split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    roots |= {
        (node.module or ".").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)
    }
    siblings = {other.stem for other in FOLDER.glob("*.py")}
    assert roots <= {*sys.stdlib_module_names, *siblings, "numpy", "PIL", "onnxruntime"}
    if path.name == "preprocess.py":
        assert roots <= {"__future__", "math", "typing", "numpy", "collections"}


ALONE = """
import hashlib, json, sys
for name in ("torch", "torchvision", "regraft", "simplejpeg"):
    sys.modules[name] = None  # an import of it fails
sys.path.insert(0, sys.argv[1])
import decode, preprocess
image = decode.decode(sys.argv[2])
pixels = preprocess.render_views(image, json.loads(sys.argv[3]))
print(pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest())
"""


def test_the_copied_files_run_without_torch_and_regraft(tmp_path):
    for name in ("preprocess.py", "decode.py"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    Image.fromarray(noise(50, 70)).save(tmp_path / "a.png")
    preprocess = preprocess_of(32, 37, "bicubic", views=3, augment="light")
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path), str(tmp_path / "a.png")]
    done = subprocess.run(
        [*command, json.dumps(input_of(preprocess))], capture_output=True, text=True, check=False
    )
    assert not done.stderr
    expected = augment.render_views(noise(50, 70), preprocess).numpy()
    digest = hashlib.sha256(np.ascontiguousarray(expected).tobytes()).hexdigest()
    assert done.stdout == f"(4, 3, 32, 32) {digest}\n"


def test_the_weights_of_a_long_side_are_cut_as_a_whole():
    """The precision follows from all outputs of a side, not from those inside of the square."""
    for mode, (before, after) in itertools.product(INTERPOLATIONS, [(7, 29), (300, 60), (61, 60)]):
        taps = standalone.taps_of(before, after, mode)
        inner = standalone.window(taps, 3, 9)
        assert inner.precision == taps.precision
        np.testing.assert_array_equal(inner.weights, taps.weights[3:12])
        assert np.abs(taps.weights).max() < 1 << 15
