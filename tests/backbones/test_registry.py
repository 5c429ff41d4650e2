"""Names, weights, image sizes and descriptions, all of them offline."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from regraft.backbones import timm_models
from regraft.backbones.describe import describe_backbone, list_backbones
from regraft.backbones.freeze import state_hash
from regraft.backbones.image_size import adapt_to_images, at_image_size, automatic_image_size
from regraft.backbones.registry import FAMILIES, build, load_backbone, name_note, resolve
from regraft.core.torchvision_shim import load_timm, torchvision
from regraft.errors import BackboneError, WeightsError


@pytest.fixture(scope="module")
def small():
    return load_backbone("timm/test_resnet", "none")


# --- names -----------------------------------------------------------------------------------
def test_bare_names_mean_torchvisions_and_say_so():
    assert resolve("resnet50") == "torchvision/resnet50"
    assert name_note("resnet50")
    assert resolve("timm/resnet50") == "timm/resnet50"
    assert resolve("resnet50.a1_in1k") == "timm/resnet50.a1_in1k"
    assert resolve("convnext_atto") == "timm/convnext_atto"
    assert name_note("convnext_atto") is None
    assert name_note("embedded") is None


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5", "torchvision/resnet50"),
        ("timm/vit_bas_patch16_224", "timm/vit_base_patch16_224"),
        ("torchvision/vit_b16", "torchvision/vit_b_16"),
        ("embeded", "embedded"),
    ],
)
def test_unknown_names_list_their_nearest_matches(name, near):
    with pytest.raises(BackboneError, match=f"^unknown backbone {name}") as caught:
        load_backbone(name)
    assert near in caught.value.hint
    assert caught.value.exit_code == 2


def test_names_like_nothing_point_to_the_list():
    with pytest.raises(BackboneError) as caught:
        resolve("§§§")
    assert caught.value.hint == "regraft backbones lists all of them"


def test_list_by_part_and_by_pattern():
    assert [entry.name for entry in list_backbones("embedded")] == ["embedded"]
    both = {entry.name for entry in list_backbones("RESNET50")}
    assert {"torchvision/resnet50", "timm/resnet50"} <= both
    assert all(entry.name.startswith("timm/vit_") for entry in list_backbones("timm/vit_*"))
    assert list_backbones("no-such-network") == []
    everything = list_backbones()
    assert len(everything) == sum(len(family.names()) for family in FAMILIES.values())


# --- weights ---------------------------------------------------------------------------------
def test_random_weights_are_seeded_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = load_backbone("timm/test_resnet", "none", seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert one.weights == "none (seed 1)"
    assert one.licence is None
    assert one.weights_sha256 == load_backbone("timm/test_resnet", "none", seed=1).weights_sha256
    assert one.weights_sha256 != load_backbone("timm/test_resnet", "none", seed=2).weights_sha256


@pytest.mark.parametrize("name", ["torchvision/squeezenet1_1", "timm/test_resnet", "embedded"])
def test_a_bundle_rebuilds_the_same_module(name):
    backbone = load_backbone(name, "none")
    again = build(backbone.name, backbone.arguments, image_size=backbone.preprocess.image_size)
    again.load_state_dict(backbone.module.state_dict(), strict=True)
    assert state_hash(again) == backbone.weights_sha256
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(image), backbone.module(image))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "hf-hub:timm/nothing"])
def test_where_nothing_can_be_downloaded_the_ways_on_are_named(name, tmp_path, monkeypatch, capfd):
    # A proxy that refuses every connection: the real client, on a machine without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(WeightsError, match="cannot download the weights") as caught:
        load_backbone(name)
    assert "--model embedded" in caught.value.hint
    assert "--weights FILE" in caught.value.hint
    assert capfd.readouterr() == ("", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "known"), [("torchvision/resnet50", "IMAGENET1K_V2"), ("timm/resnet50", "a1_in1k")]
)
def test_unknown_weights_list_the_known_ones(name, known):
    with pytest.raises(WeightsError, match="has no weights named V9") as caught:
        load_backbone(name, "V9")
    assert known in caught.value.hint


@pytest.mark.parametrize("layout", ["safetensors", "plain", "wrapped", "parallel", "classifier"])
def test_local_files_of_all_layouts_load_the_same_weights(small, tmp_path, layout):
    state = small.module.state_dict()
    if layout == "safetensors":
        file = tmp_path / "w.safetensors"
        save_file(state, file)
    else:
        file = tmp_path / "w.pth"
        content = dict(state)
        if layout == "classifier":
            content |= {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
        if layout == "parallel":
            content = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": content, "epoch": 3} if layout == "wrapped" else content, file)
    loaded = load_backbone("timm/test_resnet", str(file))
    assert loaded.weights_sha256 == small.weights_sha256
    assert loaded.weights == f"file {file.name}"
    assert load_backbone("timm/test_resnet", "none", seed=9).weights_sha256 != small.weights_sha256


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "densenet121"])
def test_full_files_of_torchvision_load_without_their_heads(tmp_path, name):
    options = {} if name == "densenet121" else {"init_weights": False}
    full = torchvision.models.get_model(name, weights=None, **options)
    state = full.state_dict()
    assert name == "densenet121" or any(key.lower().startswith("aux") for key in state)
    # The names that torchvision's own published file of DenseNet has.
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    old = {pattern.sub(r"\1.\2", key): tensor for key, tensor in state.items()}
    file = tmp_path / "full.safetensors"
    save_file(old, file)
    loaded = load_backbone(f"torchvision/{name}", str(file)).module.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())


# --- saved by timm ---------------------------------------------------------------------------
def save_folder(folder, **changes):
    model = load_timm().create_model("test_resnet", num_classes=3)
    save_file(model.state_dict(), folder / "model.safetensors")
    configuration = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "pretrained_cfg": {
            "input_size": [3, 96, 96], "crop_pct": 0.75, "interpolation": "bilinear",
            "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
            "classifier": "fc", "license": "mit", "tag": "mine",
        },
    }  # fmt: skip
    configuration.update(changes)
    (folder / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    return model


def test_local_folder_keeps_its_own_preprocessing_and_can_be_rebuilt(tmp_path):
    model = save_folder(tmp_path)
    backbone = load_backbone(f"local-dir:{tmp_path}")
    assert backbone.name == "timm/test_resnet"
    assert backbone.weights == f"local-dir {tmp_path.name}"
    assert backbone.licence == "mit"
    preprocess = backbone.preprocess
    assert (preprocess.image_size, preprocess.resize_size, preprocess.interpolation) == (
        96, 128, "bilinear",
    )  # fmt: skip
    assert preprocess.mean == (0.1, 0.2, 0.3)
    model.reset_classifier(0)
    assert state_hash(model) == backbone.weights_sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "os.system"}, "does not have: os.system"),
        ({"architecture": ["x"]}, "does not have"),
        ({"pretrained_cfg": 3}, "not an object"),
        ({"pretrained_cfg": {"input_size": [1, 28, 28]}}, "takes 1 channels"),
        ({"pretrained_cfg": {"input_size": [3, 64]}}, "malformed"),
        ({"pretrained_cfg": {"mean": ["a", "b", "c"]}}, "malformed"),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, "interpolation"),
        ({"pretrained_cfg": {"crop_pct": 1e-9}}, "crop"),
        ({"model_args": {"block": "x"}}, "cannot be built with block"),
        ({"model_args": [1]}, "not an object"),
    ],
)
def test_folders_that_ask_for_something_else_are_refused(tmp_path, changes, message):
    save_folder(tmp_path, **changes)
    with pytest.raises(BackboneError, match=re.escape(message)):
        load_backbone(f"local-dir:{tmp_path}")


def test_missing_folder(tmp_path):
    with pytest.raises(BackboneError, match="cannot read") as caught:
        load_backbone(f"local-dir:{tmp_path / 'none'}")
    assert "config.json" in caught.value.hint


# --- building for bundles --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("embedded", {"pretrained": True}, 224),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, 224),
        ("timm/test_resnet", {"pretrained_cfg": "x"}, 160),
        ("timm/test_resnet", {"global_pool": "../x"}, 160),
        ("timm/test_resnet", {"tag": "nope"}, 160),
        ("timm/test_vit", {}, 10**9),
        ("timm/local-dir:/tmp", {}, None),
        ("local-dir:/tmp", {}, None),
        ("hf-hub:timm/resnet18", {}, None),
        ("embedded/x", {}, None),
        ("", {}, None),
    ],
)
def test_build_takes_registry_names_and_known_arguments_only(name, arguments, size):
    with pytest.raises(BackboneError):
        build(name, arguments, image_size=size)


# --- image sizes -----------------------------------------------------------------------------
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
    assert "only one" in reason
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


def test_networks_of_fixed_size_are_built_for_another_one(tmp_path):
    own = load_backbone("timm/test_vit", "none")
    file = tmp_path / "w.safetensors"
    save_file(own.module.state_dict(), file)
    # Learnt positions are resampled by timm's own rule.
    other = load_backbone("timm/test_vit", str(file), image_size=96)
    assert other.preprocess.image_size == 96
    assert other.n_features == own.n_features
    assert torch.equal(other.module.patch_embed.proj.weight, own.module.patch_embed.proj.weight)
    again = build(other.name, other.arguments, image_size=96)
    again.load_state_dict(other.module.state_dict(), strict=True)
    with pytest.raises(BackboneError, match="takes images of 224 pixels only, not 96"):
        load_backbone("torchvision/vit_b_32", "default", image_size=96)


# --- descriptions ----------------------------------------------------------------------------
def test_description_has_layers_stages_and_parameters(capfd):
    text = describe_backbone("resnet50")
    assert text.startswith("torchvision/resnet50\n")
    for part in ("layer4: 2048 channels", "features: 2048", "Non-trainable params: 23,508,032",
                 "Trainable params: 0", "[1, 64, 112, 112]", "232", "bilinear"):  # fmt: skip
        assert part in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["embedded", "regnet_y_400mf", "timm/test_vit"])
def test_description_of_each_family(name):
    assert "Non-trainable params" in describe_backbone(name)


@pytest.mark.parametrize(("name", "published"), [("resnet50", 4089), ("vit_b_16", 17564)])
def test_multiply_adds_are_those_that_torchvision_publishes(name, published):
    """Attention's too; without the classifier, which is taken off (1,000 classes)."""
    last = describe_backbone(f"torchvision/{name}").splitlines()[-1]
    words = re.fullmatch(r"Multiply-adds of one image: ([\d,.]+) million", last)
    assert abs(float(words[1].replace(",", "")) - published) < 3


def test_every_record_of_timm_can_be_read_or_says_why_not():
    # Hundreds of records differ in odd ways; none may end in a traceback.
    refused = []
    for name in timm_models.FAMILY.names():
        try:
            preprocess = timm_models.FAMILY.record(name, "none").preprocess
        except BackboneError as error:
            refused.append(str(error))
        else:
            assert preprocess.resize_size >= preprocess.image_size > 0
    assert len(refused) < 20
    assert all("only square colour images" in message for message in refused)
