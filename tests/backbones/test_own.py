"""Networks of a user as backbones: measured as they are, rebuilt by name where that is same."""

import dataclasses
import json
import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

import regraft
from regraft import Backbone, Classifier, Preprocess
from regraft.backbones.freeze import state_hash
from regraft.backbones.meta_device import build_on_meta
from regraft.backbones.minivgg import MiniVGG
from regraft.backbones.own import _candidates
from regraft.backbones.registry import FAMILIES, build, load_backbone
from regraft.backbones.stages import find_stages
from regraft.bundle.format import read_bundle
from regraft.core.torchvision_shim import load_timm, torchvision
from regraft.errors import BackboneError, BundleError, ConfigError, WeightsError

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

GREY = (0.5, 0.5, 0.5)
SMALL = Preprocess(32, 32, mean=GREY, std=GREY, interpolation="bilinear")
COMPUTE = {"precision": "float32", "workers": 1, "batch_size": 8}
SETTINGS = COMPUTE | {"test_fraction": 0.5}


class Own(nn.Module):
    """A network that no package knows; ``bend`` has no parameters."""

    def __init__(self, bend: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv2d(3, 8, 3, stride=2)
        self.two = nn.Conv2d(8, 16, 3, stride=2)
        self.bend = bend or nn.ReLU()

    def forward(self, x):
        return self.bend(self.two(self.bend(self.one(x)))).mean((2, 3))


def changed(module):
    """Return the module with other parameters, as after a training of its own."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return module


def headless(name):
    module = torchvision.models.get_model(name, weights=None)
    module.fc = nn.Identity()
    return module


@pytest.fixture(scope="module")
def pictures():
    """Sixty pictures of two classes, which brightness tells apart, and their labels."""
    random = np.random.default_rng(0)
    bright = np.repeat([60, 170], 30)[:, None, None, None]
    pixels = (bright + random.integers(-50, 50, (60, 24, 24, 3))).astype(np.uint8)
    return pixels, np.repeat(["dark", "light"], 30)


def test_a_module_is_measured_as_it_is():
    module = Own().double().train()
    backbone = Backbone.from_module(module, stages=["two", "one"], preprocess=SMALL, licence="MIT")
    assert [(stage.path, stage.channels) for stage in backbone.stages] == [("one", 8), ("two", 16)]
    assert (backbone.n_features, backbone.licence, backbone.preprocess) == (16, "MIT", SMALL)
    assert backbone.weights_sha256 == state_hash(Own())
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(backbone.module(image), Own().eval()(image))
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert module.training  # what was given stays as it is
    assert next(module.parameters()).dtype == torch.float64
    assert repr(backbone) == (
        f"Backbone(module/Own at 32 pixels, weights own (sha256 {state_hash(Own())[:12]}), "
        "16 features, stages: one, two)"
    )


def test_a_known_architecture_is_rebuilt_by_name_with_its_parameters():
    timm = load_timm()
    small = {"num_classes": 0, "pretrained": False}
    modules = {
        "timm/test_resnet": changed(timm.create_model("test_resnet", **small)),
        "timm/test_vit": changed(timm.create_model("test_vit", **small)),
        "minivgg/gray": changed(MiniVGG(channels=1)),
        "torchvision/resnet18": headless("resnet18"),
    }
    for name, module in modules.items():
        own = None if name.startswith("timm") else SMALL
        backbone = Backbone.from_module(module, preprocess=own)
        assert (backbone.name, backbone.no_bundle, backbone.arguments) == (name, None, {})
        again = build(name, {}, image_size=backbone.preprocess.image_size)
        again.load_state_dict(backbone.module.state_dict())
        side = backbone.preprocess.image_size
        image = torch.rand(1, 3, side, side)
        assert torch.allclose(again(image), module.eval()(image), atol=1e-5)
    known = load_backbone("timm/test_resnet", "none")
    found = Backbone.from_module(known.module)
    assert (found.stages, found.preprocess) == (known.stages, known.preprocess)
    pooled = timm.create_model("test_resnet", global_pool="max", **small)
    assert Backbone.from_module(pooled).arguments == {"global_pool": "max"}
    transform = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    preprocess = Backbone.from_module(headless("resnet18"), preprocess=transform).preprocess
    assert (preprocess.image_size, preprocess.resize_size) == (224, 256)
    assert preprocess.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    "name", ["resnet34", "shufflenet_v2_x1_0", "vgg11_bn", "regnet_x_8gf", "vit_l_16", "googlenet"]
)
def test_of_a_family_the_architecture_with_as_many_parameters_is_built_first(name):
    """Its largest networks take seconds."""
    family = FAMILIES["torchvision"]
    module = build_on_meta(family, family.record(name, "none"))
    n_features = find_stages(module, 224).n_features
    assert next(_candidates(module, n_features)) == (f"torchvision/{name}", {})


def gelu(module):
    module.relu = nn.GELU()
    return module


@pytest.mark.parametrize(
    ("module", "stages", "reason"),
    [
        (Own, None, "a bundle holds no code, and Own is no architecture of timm, torchvision or"),
        (lambda: nn.Sequential(MiniVGG()), None, "a bundle holds no code, and Sequential is no"),
        (lambda: torchvision.models.get_model("resnet18"), None,
         r"it is not torchvision/resnet18 without its classifier: unexpected \(2\): fc.weight"),
        (lambda: gelu(headless("resnet18")), None,
         "torchvision/resnet18 with the same parameters gives other features"),
        (MiniVGG, ["block2"], "in a bundle the stages of minivgg are block1, block2, block3, and"),
    ],
)  # fmt: skip
def test_what_no_name_builds_has_the_reason(module, stages, reason):
    backbone = Backbone.from_module(module(), stages=stages, preprocess=SMALL)
    assert re.match(reason, backbone.no_bundle)
    assert backbone.name.startswith("module/")


def test_another_forward_pass_with_the_same_parameters_is_another_network():
    """Rows of the store are found by name, arguments and weights: a class alone is not enough."""
    relu, same, gelu = (
        Backbone.from_module(Own(bend), preprocess=SMALL) for bend in (None, nn.ReLU(), nn.GELU())
    )
    assert relu.weights_sha256 == gelu.weights_sha256
    assert relu.arguments == same.arguments != gelu.arguments


@pytest.mark.parametrize(
    ("module", "given", "message"),
    [
        (lambda: "resnet18", {}, "from_module takes an nn.Module, not str"),
        (Own, {"preprocess": None}, "Own does not say how its images are prepared\nhint: prep"),
        (Own, {"preprocess": 224}, "preprocess is int; it must be a regraft.Preprocess, or the"),
        (Own, {"preprocess": dataclasses.replace(SMALL, std=(0, 1, 1))}, "cannot be used\nhint: 1"),
        (Own, {"preprocess": dataclasses.replace(SMALL, resize_size=9)}, "cannot be used\nhint: 1"),
        (Own, {"stages": ["tow"]}, "the network has no submodule 'tow'\nhint: such as two"),
        (lambda: nn.Sequential(Own(), nn.Linear(16, 4)), {"stages": ["1"]}, r"stage 1 gives \(1, "),
        (lambda: Own().one, {}, r"no row of features for an image, but \(1, 8, 15, 15\)\nhint: nn"),
        (lambda: nn.Flatten(0), {}, "no row of features for an image, but"),
        (lambda: nn.Linear(5, 5), {}, "Linear fails on an image of 32 pixels: mat1 and mat2"),
        (lambda: Own(nn.Threshold(9, float("nan"))), {}, "Own gives infinite or undefined feat"),
    ],
)  # fmt: skip
def test_modules_that_cannot_be_used(module, given, message):
    with pytest.raises(BackboneError, match=message):
        Backbone.from_module(module(), **{"preprocess": SMALL, **given})


def test_a_training_writes_everything_but_the_bundle_that_cannot_be(pictures, tmp_path):
    said = []

    class Listening(regraft.Reporter):
        def say(self, text):
            said.append(text)

    own = Backbone.from_module(Own(), stages=["one", "two"], preprocess=SMALL)
    run = regraft.train(pictures, reporter=Listening(), model=own, out=tmp_path / "own", **SETTINGS)
    assert run.metrics["test"]["accuracy"]["value"] == 1
    assert sum(line == f"no bundle will be written: {own.no_bundle}" for line in said) == 1
    assert not (run.folder / "bundle").exists()
    assert {"metrics.json", "predictions.csv", "config.yaml"} <= {
        path.name for path in run.folder.iterdir()
    }
    assert json.loads((run.folder / "metrics.json").read_text())["backbone"]["no_bundle"]
    assert run.summary().endswith(f"without a bundle: {own.no_bundle}")
    with pytest.raises(BundleError, match="is a run without a bundle\nhint: no_bundle in its"):
        regraft.Predictor.load(run.folder)
    again = regraft.train(pictures, model=Backbone.from_module(Own(), stages=["one", "two"],
                          preprocess=SMALL), out=tmp_path / "again", **SETTINGS)  # fmt: skip
    assert again.metrics["features"] == {**run.metrics["features"], "extracted": 0, "reused": 60}
    other = Backbone.from_module(Own(nn.GELU()), stages=["one", "two"], preprocess=SMALL)
    third = regraft.train(pictures, model=other, out=tmp_path / "third", **SETTINGS)
    assert third.metrics["features"]["reused"] == 0
    with pytest.raises(
        BackboneError, match="unknown backbone module/Own\nhint: it was given as an"
    ):
        regraft.train(pictures, model="module/Own", out=tmp_path / "by-name")


def test_a_training_by_a_known_architecture_writes_a_bundle(pictures, tmp_path):
    own = Backbone.from_module(changed(load_backbone("timm/test_resnet", "none").module))
    small = SETTINGS | {"image_size": 32, "taps": "last", "cache": False}
    run = regraft.train(pictures, model=own, out=tmp_path / "run", **small)
    bundle = read_bundle(run.folder)
    model, (network,) = bundle.model, bundle.manifest.networks
    assert (network.name, network.weights) == ("timm/test_resnet", "own")
    assert model.backbone.weights_sha256 == own.weights_sha256
    answer = regraft.Predictor.load(run.folder).predict(pictures[0][0])
    assert answer.label == "dark"
    config = (run.folder / "config.yaml").read_text()
    assert "model: timm/test_resnet\nweights: own\n" in config
    with pytest.raises(WeightsError, match="timm/test_resnet has no weights named own"):
        regraft.train(pictures, model="timm/test_resnet", weights="own", out=tmp_path / "b")


def test_settings_that_contradict_a_network_are_refused(pictures, tmp_path):
    own = Backbone.from_module(Own(), preprocess=SMALL)
    with pytest.raises(ConfigError, match="weights is none, and model is a Backbone"):
        regraft.train(pictures, model=own, weights="none")
    with pytest.raises(
        ConfigError, match="weights is own; it must be default or none where strategy is"
    ):
        regraft.train(pictures, model=own, strategy="scratch", out=tmp_path / "a")


def test_a_classifier_is_cloned_pickled_and_saved_where_it_can_be(pictures, tmp_path):
    own = Backbone.from_module(Own(), stages=["one"], preprocess=SMALL)
    settings = COMPUTE | {"cache": False}
    fitted = clone(Classifier(model=own, **settings)).fit(*pictures)
    assert fitted.score(*pictures) == 1
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - our own
    assert np.array_equal(again.predict_proba(pictures[0]), fitted.predict_proba(pictures[0]))
    with pytest.raises(BundleError, match="module/Own cannot be in a bundle: a bundle holds no"):
        fitted.save(tmp_path / "own")
    assert not list(tmp_path.iterdir())
    known = Backbone.from_module(changed(MiniVGG()), preprocess=SMALL)
    fitted = Classifier(model=known, taps="last", **settings).fit(*pictures)
    fitted.save(tmp_path / "known")
    again = Classifier.load(tmp_path / "known")
    assert again.get_params()["model"] == "minivgg"
    assert np.array_equal(again.predict(pictures[0]), fitted.predict(pictures[0]))
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - our own
    assert np.array_equal(again.predict(pictures[0]), fitted.predict(pictures[0]))
