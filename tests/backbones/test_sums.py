"""Several networks in one setting."""

import pytest

from regraft.backbones.sums import check_sum, split_sum
from regraft.errors import BackboneError, ConfigError


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("embedded", ["embedded"]),
        ("embedded+timm/resnet18.a1_in1k", ["embedded", "timm/resnet18.a1_in1k"]),
        ("a+b+c", ["a", "b", "c"]),
        ("hf-hub:me/net+embedded", ["hf-hub:me/net", "embedded"]),
        ("embedded+", ["embedded", ""]),
    ],
)
def test_a_plus_separates_names(model, names):
    assert split_sum(model) == names


def test_a_plus_in_the_path_of_a_saved_network_is_part_of_it(tmp_path):
    folder = tmp_path / "a+b" / "c"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    name = f"local-dir:{folder}"
    assert split_sum(f"{name}+embedded") == [name, "embedded"]
    assert split_sum(f"embedded+{name}") == ["embedded", name]
    assert split_sum(f"{name}+{name}+x") == [name, name, "x"]


def test_the_longest_path_that_is_there_is_read(tmp_path):
    for name in ("a", "a+embedded"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert split_sum(f"local-dir:{tmp_path / 'a+embedded'}") == [f"local-dir:{tmp_path}/a+embedded"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("embedded+", "default", "probe"),
            BackboneError,
            "model is embedded+: there is no name before or after a +",
        ),
        (
            ("a+b+a", "default", "probe"),
            BackboneError,
            "model is a+b+a: a network is named twice",
        ),
        (
            ("a+b+c+d+e", "default", "probe"),
            BackboneError,
            "model is a+b+c+d+e: these are 5 networks; at most 4 are read side by side",
        ),
        (
            ("a+b", "default", "finetune"),
            ConfigError,
            "model is a+b and strategy is finetune: only one network can be trained",
        ),
        (
            ("a+b", "own.pth", "probe"),
            ConfigError,
            "model is a+b and weights is own.pth: weights of several networks are default or none",
        ),
    ],
)
def test_a_sum_that_cannot_be_had_is_refused(arguments, error, message):
    with pytest.raises(error) as caught:
        check_sum(*arguments)
    assert caught.value.message == message


@pytest.mark.parametrize("weights", ["default", "none"])
def test_a_sum_for_a_probe_is_taken(weights):
    check_sum("a+b", weights, "probe")


def test_one_network_is_taken_with_anything():
    check_sum("a", "own.pth", "finetune")
