"""Models saved by timm: their own preprocessing, and nothing but timm's architectures."""

import json
import re

import pytest
from safetensors.torch import save_file

from regraft.backbones.freeze import state_hash
from regraft.backbones.registry import build, load_backbone
from regraft.core.torchvision_shim import load_timm
from regraft.errors import BackboneError, WeightsError


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
    with pytest.raises(BackboneError, match=r"config\.json cannot be read: No such file") as caught:
        load_backbone(f"local-dir:{tmp_path / 'none'}")
    assert "config.json" in caught.value.hint


def test_saved_models_have_default_weights_or_random_ones(tmp_path):
    save_folder(tmp_path)
    random = load_backbone(f"local-dir:{tmp_path}", "none", seed=3)
    assert (random.weights, random.licence) == ("none (seed 3)", None)
    assert random.preprocess.image_size == 96
    with pytest.raises(WeightsError, match="has no weights named a1_in1k"):
        load_backbone(f"local-dir:{tmp_path}", "a1_in1k")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds none of model"):
        load_backbone(f"local-dir:{tmp_path}")


def test_arguments_that_change_the_network_are_recorded(tmp_path):
    save_folder(tmp_path, global_pool="max", model_args={"drop_rate": 0.5, "img_size": 96})
    backbone = load_backbone(f"local-dir:{tmp_path}")
    assert backbone.arguments == {"global_pool": "max"}
    again = build(backbone.name, backbone.arguments, image_size=None)
    assert again.global_pool.pool_type == "max"
