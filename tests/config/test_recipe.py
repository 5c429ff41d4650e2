"""Recipes: what they say, what goes before them, and that each runs to its bundle."""

import csv
import dataclasses
import re
from pathlib import Path

import pytest

from conftest import CLASSES, make_photographs
from regraft.backbones.describe import describe_backbone
from regraft.backbones.registry import resolve
from regraft.bundle.predictor import Predictor
from regraft.cli.main import app, main
from regraft.cli.options import combine
from regraft.config.recipe import TEXTS, explain, list_recipes, read_recipe, recipe_names
from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import read_config, to_yaml
from regraft.data.sources.named import NAMED
from regraft.errors import ConfigError, InputError
from regraft.images.augment import AUGMENTATIONS
from regraft.runs.metrics_file import read_metrics

NAMES = [
    *("cifar10-resnet18", "cifar10-vgg16", "flowers-densenet121", "flowers-inception-v3"),
    *("flowers-resnet18", "mnist-minivgg", "mnist-resnet50", "mnist-vgg16", "resnet18-last-stages"),
]

#: Recipes whose own network is run, and its image size; a tiny ResNet stands in for the others'.
AS_THEY_ARE = {"resnet18-last-stages": "32", "mnist-minivgg": "28"}

OWN = """\
title: Two kinds of leaves
data: leaves
about: As in the herbarium.
expected:
model: timm/test_resnet
epochs: 3
"""

EXPLAINED = """\
{name}: Two kinds of leaves

As in the herbarium.

To expect: not measured

Settings that differ from the defaults:
  model: timm/test_resnet
  epochs: 3

Run it: regraft train --recipe {name}"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    return path


def settings_of(config):
    return {line for line in to_yaml(config).splitlines() if not line.startswith("schema")}


# --- what they say ----------------------------------------------------------------------------


def test_the_tutorials_jobs_are_there():
    assert recipe_names() == NAMES
    assert [each.recipe for each in list_recipes()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_does_and_no_setting_that_is_the_default(name):
    recipe = read_recipe(name)
    assert recipe.title
    assert recipe.about
    assert recipe.data in {"", "kaggle:alxmamaev/flowers-recognition", *NAMED}
    assert resolve(recipe.config.model) == recipe.config.model
    text = "".join(explain(recipe).partition("Settings that differ")[1:])
    shown = re.findall(r"^  (\w+):", text, re.MULTILINE)
    config = dataclasses.asdict(recipe.config)
    default = dataclasses.asdict(TrainConfig())
    assert shown == [key for key in config if config[key] != default[key]]


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_only_promised_where_it_says_what_it_was_measured_on(name):
    recipe = read_recipe(name)
    assert recipe.measured
    if recipe.config.model.startswith("torchvision/"):  # weights that nobody here has had
        assert not recipe.expected


def test_the_corrections_are_in_the_settings():
    """What the originals did wrong and a setting could still do."""
    digits = AUGMENTATIONS[read_recipe("mnist-resnet50").config.augment]
    assert digits.turn == 10
    assert not digits.flip
    assert "  layer4: 2048 channels" in describe_backbone("torchvision/resnet50").splitlines()
    assert read_recipe("cifar10-resnet18").config.image_size == "auto"  # not 32 pixels


# --- what goes before them --------------------------------------------------------------------


def flags_of(*words):
    _, bound, _ = app.parse_args(["train", *words], exit_on_error=False)
    return bound.arguments


def test_flags_go_before_the_file_the_file_before_the_recipe(own, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("epochs: 4\nseed: 1\n", encoding="utf-8")
    base = read_recipe(str(own)).config
    flags = flags_of("--recipe", str(own), "--seed", "2")["flags"]
    assert combine(None, None, base) == TrainConfig(model="timm/test_resnet", epochs=3)
    assert combine(file, None, base) == TrainConfig(model="timm/test_resnet", epochs=4, seed=1)
    assert combine(file, flags, base) == TrainConfig(model="timm/test_resnet", epochs=4, seed=2)


def test_data_may_be_given_in_either_way():
    assert flags_of("photos", "--recipe", "mnist-vgg16")["data"] == "photos"
    assert flags_of("--recipe", "mnist-vgg16", "--data", "photos")["data"] == "photos"
    assert "data" not in flags_of("--recipe", "mnist-vgg16")


def test_a_file_of_ones_own_is_a_recipe(own):
    recipe = read_recipe(str(own))
    assert recipe.needed_data() == "leaves"
    assert explain(recipe) == EXPLAINED.format(name=own)


def test_a_runs_configuration_is_a_recipe_without_data(tmp_path):
    config = TrainConfig(seed=4, head="knn")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert read_recipe(str(path)).config == config
    with pytest.raises(InputError) as caught:
        read_recipe(str(path)).needed_data()
    assert caught.value.message == f"the recipe {path} needs DATA: it names none"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("tilte: a", "line 1: unknown setting tilte", "did you mean title?"),
        ("title: a\ntitle: b", "line 2: title is set twice", None),
        ("data: [a]", "line 1: settings are written as `name: value`, not nested", None),
        ("epochs: 0", "epochs is 0; it must be between 1 and 100000", None),
        ("epochs: few", "line 1: epochs is few; it must be a whole number", None),
    ],
)
def test_an_error_in_a_file_names_the_line(text, message, hint, tmp_path):
    path = tmp_path / "own.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_recipe(str(path))
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["recipes", "mnist-resnet5"],
            "error: there is no recipe mnist-resnet5\nhint: did you mean mnist-resnet50?\n",
        ),
        (
            ["train", "--recipe", "zzz"],
            """\
error: there is no recipe zzz
hint: regraft recipes lists all; the name of a file of your own ends in .yaml
""",
        ),
        (
            ["train", "--recipe", "resnet18-last-stages", "--epochs", "1"],
            """\
error: the recipe resnet18-last-stages needs DATA: it names none
hint: regraft train DATA --recipe resnet18-last-stages
""",
        ),
    ],
)
def test_what_is_missing_is_named(words, said, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err == said


def test_the_command_line_lists_and_explains_them(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["recipe", *NAMES]
    assert main(["recipes", "mnist-resnet50"]) == 0
    out = capsys.readouterr().out
    assert "unfreeze: layer4" in out
    assert main(["recipes", "show", "mnist-resnet50"]) == 0  # as it was written before
    assert capsys.readouterr().out == out
    assert "The original's figure: test accuracy 0.9933" in out
    assert out.endswith("Run it: regraft train --recipe mnist-resnet50\n")


def test_the_page_names_real_tests_and_every_recipe_it_runs():
    page = Path(__file__).parents[2] / "docs" / "tutorials.md"
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\[test\]\(([^)]+)\), `(test_\w+)`", text)
    assert len(named) >= 8
    for path, name in named:
        assert f"def {name}(" in (page.parent / path).read_text(encoding="utf-8"), name
    run = set(re.findall(r"^regraft train --recipe (\S+)", text, re.MULTILINE))
    assert run == {"mnist-resnet50", "mnist-vgg16"} < {*NAMES}


def test_texts_have_no_name_of_a_setting():
    assert not set(TEXTS) & {field.name for field in dataclasses.fields(TrainConfig)}


# --- that they run ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_photographs(tmp_path_factory.mktemp("images"), a_class=12)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Images of the same classes that no run has seen, as QMNIST's are to a model of MNIST."""
    return make_photographs(tmp_path_factory.mktemp("others"), a_class=4, first=100)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_runs_to_its_bundle(name, images, others, tmp_path, capsys):
    recipe, out = read_recipe(name), tmp_path / "run"
    model = recipe.config.model if name in AS_THEY_ARE else "timm/test_resnet"
    size = AS_THEY_ARE.get(name, "32")
    words = ["train", "--recipe", name, "--data", str(images), "--out", str(out)]
    words += ["--model", model, "--weights", "none", "--image-size", size, "--workers", "1"]
    changed = {"model": model, "weights": "none", "image_size": size, "workers": 1}
    changed |= {"precision": "float32"}
    if recipe.config.strategy != "probe":  # which has no epochs
        words, changed = [*words, "--epochs", "1"], {**changed, "epochs": 1}
    assert main([*words, "--precision", "float32"]) == 0

    if recipe.config.augment == "auto":  # what it came to stands in the run
        changed["augment"] = "light"
    assert read_config(out / "config.yaml") == recipe.config.replace(**changed)
    assert read_metrics(out)["test"]["n"] > 0
    with (out / "history.csv").open(encoding="utf-8", newline="") as file:
        history = list(csv.DictReader(file))
    if recipe.config.strategy != "probe":  # a row for each epoch, and for the start
        assert [row["epoch"] for row in history] == ["0", "1"]
    assert (out / "curves.png").exists()
    assert (out / "predictions.png").exists()
    capsys.readouterr()
    assert main(["evaluate", str(out), str(others)]) == 0  # deployment on data never seen
    assert '"n": 12' in capsys.readouterr().out
    assert Predictor.load(out).classes == CLASSES
