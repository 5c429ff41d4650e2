"""Networks by name and their weights, offline; one entry adds a family."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regraft.backbones.backbone import ImageSizes
from regraft.backbones.describe import describe_backbone, list_backbones
from regraft.backbones.family import Family, Record
from regraft.backbones.freeze import state_hash
from regraft.backbones.registry import FAMILIES, build, load_backbone, name_note, resolve
from regraft.backbones.stages import STAGES, at
from regraft.core.torchvision_shim import torchvision
from regraft.errors import BackboneError, WeightsError
from regraft.images.render import Preprocess


@pytest.fixture(scope="module")
def small():
    return load_backbone("timm/test_resnet", "none")


# --- families --------------------------------------------------------------------------------
class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, x):
        return self.second(self.first(x)).mean((2, 3))


def test_a_family_is_one_entry_and_its_stages_are_one_line(monkeypatch):
    def record(name, weights):
        grey = (0.5, 0.5, 0.5)
        preprocess = Preprocess(32, 32, grey, grey, "bilinear")
        return Record(name, weights, preprocess, licence=None, sizes=ImageSizes())

    family = Family(lambda: ["net"], record, lambda _name, _arguments, _size: Tiny())
    with pytest.raises(BackboneError):
        load_backbone("mine/net")
    monkeypatch.setitem(FAMILIES, "mine", family)
    assert load_backbone("mine/net").stages == ()
    package = Tiny.__module__.partition(".")[0]
    monkeypatch.setitem(STAGES, f"{package}.Tiny", at("first", "second"))
    backbone = load_backbone("mine/net", image_size=64)
    assert (backbone.name, backbone.weights) == ("mine/net", "none (seed 0)")
    assert [(stage.name, stage.channels) for stage in backbone.stages] == [
        ("first", 4), ("second", 6),
    ]  # fmt: skip
    assert backbone.n_features == 6
    assert [entry.name for entry in list_backbones("mine/")] == ["mine/net"]
    assert "second: 6 channels" in describe_backbone("mine/net")
    assert state_hash(build("mine/net", {}, image_size=None)) != backbone.weights_sha256
    with pytest.raises(BackboneError, match="unknown backbone mine/nett") as caught:
        load_backbone("mine/nett")
    assert "mine/net" in caught.value.hint


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
    assert "`model='embedded'`" in caught.value.hint
    assert "`weights=FILE`" in caught.value.hint
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


# --- building --------------------------------------------------------------------------------
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
