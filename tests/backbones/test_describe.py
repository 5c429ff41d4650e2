"""Lists and descriptions of networks, without their weights."""

import re

import pytest

from regraft.backbones.describe import describe_backbone, list_backbones
from regraft.backbones.registry import FAMILIES


def test_list_by_part_and_by_pattern():
    names = ["embedded", "embedded-1", "embedded-2"]
    assert [entry.name for entry in list_backbones("embedded")] == names
    both = {entry.name for entry in list_backbones("RESNET50")}
    assert {"torchvision/resnet50", "timm/resnet50"} <= both
    assert all(entry.name.startswith("timm/vit_") for entry in list_backbones("timm/vit_*"))
    assert list_backbones("no-such-network") == []
    everything = list_backbones()
    assert len(everything) == sum(len(family.names()) for family in FAMILIES.values())


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


def test_description_and_list_have_the_licence_of_the_default_weights():
    assert "licence: apache-2.0" in describe_backbone("embedded").splitlines()
    assert "licence: not stated" in describe_backbone("minivgg").splitlines()
    assert [entry.licence for entry in list_backbones("embedded")] == ["apache-2.0"] * 3
