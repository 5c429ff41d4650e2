"""Bundles are read as they were written; each way in which one can be wrong is an error."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import regraft
from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.bundle.format import read_bundle, write_bundle
from regraft.bundle.golden import golden_images
from regraft.bundle.predictor import Predictor
from regraft.cli.output import write_predictions
from regraft.errors import BundleError, ImageError
from regraft.features.compute import Compute, has_bfloat16
from regraft.features.taps import Block, block_widths, select_blocks
from regraft.heads.modules import KnnHead, LinearHead
from regraft.model import Model
from tiny_bundles import edit_manifest, edit_tensors, replace_file

CLASSES = ("cat", "dog", "fish")


def make_model(taps: str = "all", weights: str = "default") -> Model:
    backbone = at_image_size(load_backbone("embedded", weights), 64, crop=False)
    blocks = select_blocks((backbone,), taps)
    width = sum(block_widths((backbone,), blocks).values())
    generator = torch.Generator().manual_seed(0)
    head = LinearHead(
        mean=torch.rand(width, generator=generator),
        scale=torch.rand(width, generator=generator),
        weight=torch.randn(3, width, generator=generator) / width**0.5,
        bias=torch.randn(3, generator=generator),
    )
    return Model(backbone, blocks, head, 1.3, CLASSES, 10**6)


def write(folder, model: Model, precision: str = "float32"):
    write_bundle(folder, model, Compute("cpu", precision, 8), None)
    return folder


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bundles") / "bundle", make_model())


@pytest.fixture
def bundle(original, tmp_path):
    return shutil.copytree(original, tmp_path / "bundle")


def photograph(number: int = 0) -> np.ndarray:
    y, x = np.mgrid[0:90, 0:120]
    wave = np.sin(x / (5 + number)) + np.cos(y / (3 + number))
    return (127 + 60 * wave[..., None] * [1, 0.5, -1]).clip(0, 255).astype(np.uint8)


# --- a good bundle ----------------------------------------------------------------------------


def test_a_bundle_of_an_earlier_version_gives_the_same_answers(tmp_path):
    """The bundle was written by commit 900496f: timm/test_convnext at 32 pixels, random weights."""
    with zipfile.ZipFile(Path(__file__).parent / "written-by-900496f.zip") as archive:
        archive.extractall(tmp_path)
    predictor = Predictor.load(tmp_path, device="cpu", precision="float32")  # and checks its images
    answers = predictor.predict_many([tmp_path / "golden/wide.jpg", tmp_path / "golden/alpha.png"])
    assert [answer.label for answer in answers] == ["cat", "fish"]
    np.testing.assert_allclose(answers[0].probabilities, [0.5778, 0, 0.4222], atol=1e-2)


@pytest.mark.parametrize("taps", ["last", "all", "blocks.3@2,pooled"])
def test_written_and_read_again_it_is_the_same_model(tmp_path, taps):
    model = make_model(taps)
    bundle = read_bundle(write(tmp_path / "bundle", model))
    again, features = bundle.model, bundle.golden.features
    assert bundle.manifest.classes == list(CLASSES)
    assert (again.blocks, again.temperature, again.classes) == (
        model.blocks, 1.3, CLASSES
    )  # fmt: skip
    assert again.backbone.preprocess == model.backbone.preprocess
    assert again.backbone.stages == model.backbone.stages
    assert np.array_equal(again.logits(features), model.logits(features))


def test_a_run_folder_can_be_given_for_its_bundle(original):
    assert Predictor.load(original).classes == CLASSES
    assert Predictor.load(original.parent).classes == CLASSES


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor has no bfloat16")
@pytest.mark.parametrize("written", ["float32", "bfloat16"])
@pytest.mark.parametrize("read", ["float32", "bfloat16"])
def test_a_bundle_of_one_precision_loads_in_another(tmp_path, written, read):
    folder = write(tmp_path / "bundle", make_model(), written)
    label = Predictor.load(folder, precision=read).predict(photograph()).label
    assert label == Predictor.load(folder, precision=written).predict(photograph()).label


def test_what_was_trained_in_float32_answers_in_float32(original):
    assert Predictor.load(original).compute.precision == "float32"


def test_every_kind_of_input_gives_the_same_answer(original, tmp_path):
    predictor = Predictor.load(original)
    pixels = photograph()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    file = tmp_path / "photograph.png"
    file.write_bytes(buffer.getvalue())
    answers = [
        predictor.predict(image).probabilities
        for image in (pixels, buffer.getvalue(), file, str(file), Image.fromarray(pixels))
    ]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_an_opened_picture_keeps_its_orientation(original):
    predictor = Predictor.load(original)
    data = golden_images()["golden/rotated.jpg"]
    opened = predictor.predict(Image.open(io.BytesIO(data)))
    assert np.allclose(opened.probabilities, predictor.predict(data).probabilities, atol=0.02)
    assert opened.label == predictor.predict(data).label


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_single_and_batch_answer_alike_within_1e_4(tmp_path, precision):
    used = "bfloat16" if precision == "auto" and has_bfloat16("cpu") else "float32"
    predictor = Predictor.load(write(tmp_path / "bundle", make_model(), used), batch_size=8)
    images = [photograph(number) for number in range(11)]
    together = predictor.predict_many(images)
    for image, answer in zip(images, together, strict=True):
        alone = predictor.predict(image)
        assert alone.label == answer.label
        assert np.abs(alone.probabilities - answer.probabilities).max() < 1e-4


def test_the_answer_lists_the_best_classes(original):
    answer = Predictor.load(original).predict(photograph(), top_k=2)
    assert answer.top[0][0] == answer.label
    assert answer.top[0][1] == answer.probability == answer.probabilities.max()
    assert len(answer.top) == 2
    assert abs(answer.probabilities.sum() - 1) < 1e-5


def test_in_a_batch_an_unreadable_image_spoils_no_other(original):
    answers = Predictor.load(original).predict_many([photograph(), b"no image", photograph(1)])
    assert [answer.error is None for answer in answers] == [True, False, True]
    assert answers[1].label is None
    with pytest.raises(ImageError):
        Predictor.load(original).predict(b"no image")


def test_the_public_name_is_the_predictor():
    assert regraft.Predictor is Predictor


# --- a wrong bundle ---------------------------------------------------------------------------


def refused(folder, match: str) -> None:
    with pytest.raises(BundleError, match=match):
        Predictor.load(folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    refused(tmp_path, r"is neither a run nor a bundle\nhint: regraft train writes a run folder")
    refused(tmp_path / "nowhere", r"nowhere does not exist\nhint: regraft train writes")


@pytest.mark.parametrize(
    "name",
    ["network-1.safetensors", "head.safetensors", "golden/wide.jpg", "golden.safetensors"],
)  # fmt: skip
def test_one_flipped_byte_in_any_file_is_noticed(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, "is not what the manifest says")


@pytest.mark.parametrize("name", ["network-1.safetensors", "golden/alpha.png"])
def test_a_missing_or_short_or_long_file_is_refused(bundle, name):
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[:-1])
    refused(bundle, "is not what the manifest says")
    (bundle / name).write_bytes(data + b"\0")
    refused(bundle, "larger|is not what")
    (bundle / name).unlink()
    refused(bundle, "No such file")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("name", ["head.safetensors", "golden/wide.jpg", "golden"])
def test_a_link_instead_of_a_file_is_refused(bundle, tmp_path, name):
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    refused(bundle, "golden is a link" if name == "golden" else "is not a regular file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_fifo_instead_of_a_file_does_not_hang(bundle):
    (bundle / "head.safetensors").unlink()
    os.mkfifo(bundle / "head.safetensors")
    refused(bundle, "head.safetensors is not a regular file")


@pytest.mark.parametrize(
    "name",
    ["network-1.safetensors", "head.safetensors", "golden.safetensors", "golden/wide.jpg"],
)  # fmt: skip
def test_a_huge_sparse_file_is_not_read(bundle, name):
    edit_manifest(bundle, _set("files", name, "bytes", 2**40))
    with contextlib.suppress(OSError):  # a disk without such files: the manifest alone says it
        os.truncate(bundle / name, 2**40)
    refused(bundle, r"has 1,099,511,627,776 bytes; by the other fields it can have at")


@pytest.mark.skipif(sys.platform == "win32", reason="a file of 8 GB is not sparse there")
def test_a_file_that_is_larger_than_the_manifest_says_is_not_read(bundle):
    with (bundle / "head.safetensors").open("r+b") as file:
        file.truncate(2**33)
    refused(bundle, r"head.safetensors is larger than [\d,]+ bytes")


def test_an_image_size_that_the_network_does_not_take_is_refused(bundle):
    """torchvision's ViT asserts that patches fill the image."""

    def change(manifest):
        manifest["networks"][0]["name"] = "torchvision/vit_b_16"
        manifest["networks"][0]["preprocess"] |= {"image_size": 225, "resize_size": 225}

    edit_manifest(bundle, change)
    refused(bundle, "torchvision/vit_b_16 at 225 pixels: Input shape indivisible by patch size")


def test_a_network_with_huge_buffers_is_refused_before_it_is_built(bundle):
    """LeViT keeps tables of relative positions that are in no file: 79 GiB at this size."""

    def change(manifest):
        manifest["networks"][0]["name"] = "timm/levit_128s"
        manifest["networks"][0]["preprocess"] |= {"image_size": 4096, "resize_size": 4096}

    edit_manifest(bundle, change)
    refused(bundle, r"timm/levit_128s at 4096 pixels takes [\d,]+ MiB for 33 MiB of tensors")


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    model = make_model()
    rows = torch.zeros(1, 1).expand(2**20, 1040)  # no memory
    head = KnnHead(torch.zeros(1040), torch.ones(1040), rows, torch.zeros(2**20), 1, 3)
    with pytest.raises(BundleError, match=r"the head has 4.\d GiB; in a bundle it has at most 4"):
        write(tmp_path / "bundle", dataclasses.replace(model, head=head))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["minivgg", "minivgg/gray", "timm/test_vit"])
def test_a_network_of_any_family_can_be_read_again(tmp_path, name):
    backbone = load_backbone(name, "none")
    blocks = (Block("pooled"),)
    width = backbone.n_features
    head = LinearHead(torch.zeros(width), torch.ones(width), torch.zeros(3, width), torch.zeros(3))
    model = Model(backbone, blocks, head, 1.0, CLASSES, 10**6)
    again = Predictor.load(write(tmp_path / "bundle", model)).model.backbone
    assert (again.name, again.stages) == (backbone.name, backbone.stages)


def test_a_network_whose_constructor_calculates_can_be_read_again(tmp_path):
    """On the meta device torchvision's RegNet cannot be built."""
    backbone = at_image_size(load_backbone("torchvision/regnet_y_400mf", "none"), 64, crop=False)
    head = LinearHead(torch.zeros(440), torch.ones(440), torch.zeros(3, 440), torch.zeros(3))
    model = Model(backbone, (Block("pooled"),), head, 1.0, CLASSES, 10**6)
    again = Predictor.load(write(tmp_path / "bundle", model)).model.backbone
    assert again.stages == backbone.stages


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "manifest.json: "),
        ("[]", "manifest.json: Expected `object`"),
        ("{", "manifest.json: "),
        ("[" * 100_000, "manifest.json: "),
        ('{"schema_version": 4}', r"version 4; this regraft reads 2 and 3\nhint: pip install"),
        ('{"schema_version": 1}', r"version 1; this regraft reads 2 and 3\nhint: train again"),
        ('{"schema_version": 2}', "missing required field"),
        ('{"schema_version": 3}', "missing required field"),
        ('{"schema_version": ' + "9" * 5000 + "}", "manifest.json: "),
        ('{"schema_version": NaN}', "manifest.json: "),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(bundle, text, match):
    (bundle / "manifest.json").write_text(text, encoding="utf-8")
    refused(bundle, match)


def _set(*path_and_value):
    *path, key, value = path_and_value

    def change(manifest):
        for step in path:
            manifest = manifest[step]
        manifest[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_set("extra", 1), "unknown field `extra`"),
        (_set("task", "multi-label"), r"Invalid enum value 'multi-label' - at `\$.task`"),
        (_set("classes", ["dog", "cat", "fish"]), "not sorted by code point"),
        (_set("classes", ["cat", "cat", "dog"]), "not sorted by code point"),
        (_set("classes", ["cat"]), r"length >= 2 - at `\$.classes`"),
        (_set("classes", ["cat", "dog"]), "to 3 classes; the manifest has"),
        (
            _set("networks", 0, "name", "timm/../../x"),
            r"matching regex .* - at `\$.networks\[0\].name`",
        ),
        (_set("networks", 0, "name", "hf-hub:someone/model"), r"at `\$.networks\[0\].name`"),
        (_set("networks", 0, "name", "timm/no_such_network"), "network: .*no_such_network"),
        (
            _set("networks", 0, "name", "torchvision/resnet18"),
            "the stages or n_features are not",
        ),
        (
            _set("networks", 0, "name", "timm/vit_giant_patch14_224"),
            "the stages or n_features are not",
        ),
        (_set("networks", 0, "arguments", {"pretrained": True}), "network: .*pretrained"),
        (_set("networks", 0, "arguments", {"a.b": 1}), "arguments have a name that is not allowed"),
        (_set("networks", 0, "weights_sha256", "0" * 64), "not those of the training"),
        (_set("networks", 0, "weights_sha256", "xyz"), "matching regex"),
        (_set("networks", 0, "preprocess", "image_size", 10**9), "<= 4096"),
        (
            _set("networks", 0, "preprocess", "resize_size", 32),
            "resize_size 32 is below image_size",
        ),
        (_set("networks", 0, "preprocess", "resize_size", 641), "more than 10 times as large"),
        (_set("networks", 0, "weights_sha256", "0" * 64 + "\n"), "matching regex"),
        (_set("networks", 0, "name", "embedded\n"), "matching regex"),
        (_set("golden", "images", ["golden/wide.jpg\n"]), "matching regex"),
        (_set("networks", 0, "preprocess", "std", [0, 1, 1]), "> 0.0"),
        (_set("networks", 0, "preprocess", "mean", [0, 0, 1e300]), "<= 1000"),
        (
            _set("networks", 0, "stages", 0, "path", "os.system"),
            "the stages or n_features are not",
        ),
        (_set("networks", 0, "stages", 0, "name", "pooled"), "same name"),
        (_set("networks", 0, "stages", 0, "channels", 17), "the stages or n_features are not"),
        (_set("networks", 0, "n_features", 7), "the stages or n_features are not"),
        (_set("blocks", 0, "grid", 3), "does not have the blocks that it names"),
        (
            _set("blocks", 0, "tap", "nowhere"),
            "blocks name a tap twice, or an unknown tap",
        ),
        (_set("blocks", 0, "grid", 0), ">= 1"),
        (_set("blocks", 0, "width", 17), "width does not follow from its stage"),
        (_set("head", "kind", "pickle"), "there is no head 'pickle'"),
        (_set("head", "temperature", 0), ">= 0.001"),
        (_set("files", {}), "these files are missing or unexpected"),
        (
            _set("files", "../../etc/passwd", {"sha256": "0" * 64, "bytes": 1}),
            "unexpected: .*passwd",
        ),
        (_set("golden", "images", ["golden/../../x.png"]), "matching regex"),
        (_set("golden", "images", []), "length >= 1"),
        (_set("networks", 0, "feature_tolerance", {}), "feature_tolerance has no float32"),
    ],
)
def test_a_wrong_manifest_is_refused(bundle, change, match):
    edit_manifest(bundle, change)
    refused(bundle, match)


def test_names_of_classes_do_not_steer_a_terminal(bundle, capsys):
    """Training uses the name of any folder as a class; control characters are escaped in output."""
    edit_manifest(bundle, _set("classes", ["cat", "dog", "fish\x1b[2J\x9b1m"]))
    predictor = Predictor.load(bundle)
    assert predictor.classes[2] == "fish\x1b[2J\x9b1m"
    for json_lines in (False, True):
        write_predictions([predictor.predict(photograph(), top_k=3)], csv=None, json=json_lines)
        shown = capsys.readouterr().out.rstrip("\n")
        assert "fish" in shown
        assert shown.isprintable()
    assert json.loads(shown)["top"][2]["label"] in predictor.classes
    edit_manifest(bundle, _set("\x1b[2J", 1))
    refused(bundle, r"unknown field `\\x1b\[2J`")


def test_a_file_that_is_no_safetensors_file_is_refused(bundle):
    replace_file(bundle, "head.safetensors", b"\x80\x04pickle")
    refused(bundle, "head.safetensors: ")


def test_a_tensor_that_is_missing_or_of_another_shape_is_refused(bundle):
    def change(tensors):
        del tensors["conv_stem.weight"]

    edit_tensors(bundle, "network-1.safetensors", change)
    refused(bundle, "1 tensor missing, unexpected or of another shape or type: conv_stem.weig")


def test_a_head_for_other_features_is_refused(bundle):
    def change(tensors):
        return {
            name: t[..., :-1].contiguous() if name != "bias" else t for name, t in tensors.items()
        }

    edit_tensors(bundle, "head.safetensors", change)
    refused(bundle, "head.safetensors: ")


def test_values_that_are_not_finite_are_refused(bundle):
    def change(tensors):
        tensors["weight"][1, 2] = float("nan")

    edit_tensors(bundle, "head.safetensors", change)
    refused(bundle, "head.safetensors: ")


def test_messages_stay_short_whatever_names_a_file_holds(bundle):
    edit_tensors(bundle, "golden.safetensors", lambda t: {**t, "a" * 10**6: torch.zeros(1)})
    with pytest.raises(BundleError) as caught:
        Predictor.load(bundle)
    assert len(str(caught.value)) < 1000


def test_huge_golden_features_overflow_nothing(bundle):
    edit_tensors(bundle, "golden.safetensors", lambda t: {**t, "features": t["features"] * 1e30})
    refused(bundle, "the features differ by 1 of their norm")


# --- golden images: each step by itself -------------------------------------------------------


def test_golden_pixels_that_differ_are_refused(bundle):
    def change(tensors):
        tensors["pixels-1"][1, :, 30, 30] += 100

    edit_tensors(bundle, "golden.safetensors", change)
    refused(bundle, r"golden/rotated.jpg: a pixel differs by \d+ of 255 when it is decoded here; 4")


def test_golden_features_that_differ_are_refused(bundle):
    def change(tensors):
        tensors["features"][2] *= 1.5

    edit_tensors(bundle, "golden.safetensors", change)
    refused(bundle, "golden/alpha.png: the features differ by 0.33 of their norm in float32")


def test_golden_logits_that_differ_are_refused(bundle):
    def change(tensors):
        tensors["logits"] += 1

    edit_tensors(bundle, "golden.safetensors", change)
    refused(bundle, "from the same features the logits differ by")


def test_another_normalisation_is_noticed(bundle):
    """A common mistake: mean and std of ImageNet for a network that has its own."""
    edit_manifest(bundle, _set("networks", 0, "preprocess", "mean", [0.485, 0.456, 0.406]))
    edit_manifest(bundle, _set("networks", 0, "preprocess", "std", [0.229, 0.224, 0.225]))
    refused(bundle, "the features differ by")


@pytest.mark.parametrize(
    "change",
    [
        _set("networks", 0, "stages", 0, "layout", "nhwc"),
        _set("networks", 0, "stages", 0, "layout", "tokens"),
        _set("networks", 0, "stages", 0, "path", "global_pool"),
    ],
)
def test_stages_that_do_not_fit_the_network_are_refused(bundle, change):
    edit_manifest(bundle, change)
    refused(bundle, "the stages or n_features are not those of embedded")


def test_threads_that_share_a_predictor_get_their_own_answers(original):
    predictor = Predictor.load(original)
    images = [photograph(number) for number in range(8)]
    expected = [predictor.predict(image).probabilities for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            answers = list(pool.map(predictor.predict, images))
            for answer, alone in zip(answers, expected, strict=True):
                assert np.abs(answer.probabilities - alone).max() < 1e-4
