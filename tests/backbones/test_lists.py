"""The lists of networks of a race: every name exists, with the licence that is stated."""

import subprocess
import sys
from pathlib import Path

import pytest

from regraft.backbones.lists import LISTS, expand, forbids_commerce
from regraft.backbones.registry import record_of, resolve
from regraft.core.torchvision_shim import load_timm

EACH = [pytest.param(each, id=each.name) for each in {*sum(LISTS.values(), ())}]


@pytest.mark.parametrize("each", EACH)
def test_names_exist_with_published_weights_and_their_licence(each):
    key, record = record_of(resolve(each.name), "default")
    assert record.fetch is not None
    assert record.licence == each.licence
    assert each.reason
    if key == "timm":
        assert each.name.removeprefix("timm/") in load_timm().list_models(pretrained=True)


def test_no_list_names_a_network_twice_and_each_has_the_default():
    for listed in LISTS.values():
        names = [each.name for each in listed]
        assert len({*names}) == len(names)
        assert names[0] == "embedded"


def test_a_list_and_names_are_joined():
    assert expand(["minivgg", "offline", "minivgg"]) == [
        *("minivgg", "embedded", "embedded-1", "embedded-2")
    ]


def test_licences_against_commerce():
    found = {each.licence for listed in LISTS.values() for each in listed}
    assert {each for each in found if forbids_commerce(each)} == {"cc-by-nc-4.0"}


def test_the_table_imports_nothing_slow():
    code = "import sys, regraft.backbones.lists; print({'torch', 'timm', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_page_has_the_table():
    page = Path(__file__).parents[2].joinpath("docs", "race.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`" in line]
    assert rows == [
        f"| {name} | `{each.name}` | {each.licence} | {each.reason} |"
        for name, listed in LISTS.items()
        for each in listed
    ]
