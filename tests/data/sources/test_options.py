"""Groups are named by a part of the id, its folder or a pattern; a group in a table wins."""

import pytest

from image_trees import FLOWERS, write_tree
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import ConfigError


def groups(folder, group_by):
    source = open_source(folder, SourceOptions(group_by=group_by))
    return [entry.group for entry in source.entries], source.notes


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        (None, [None, None, None, None]),
        ("parent", ["rose", "rose", "tulip", "tulip/deep/er"]),
        ("0", ["rose", "rose", "tulip", "tulip"]),
        ("2", [None, None, None, "er"]),
        (r"(\d)\.png", ["1", "2", "1", "2"]),
        (r"\d\.png", ["1.png", "2.png", "1.png", "2.png"]),
        ("tulip/(deep)?", [None, None, None, "deep"]),
    ],
)
def test_groups_of_ids(tmp_path, group_by, expected):
    write_tree(tmp_path, FLOWERS)
    assert groups(tmp_path, group_by)[0] == expected


def test_images_without_a_group_are_counted(tmp_path):
    write_tree(tmp_path, FLOWERS)
    assert groups(tmp_path, "tulip")[1] == (
        "group_by 'tulip': 1 group; 2 images without a match, each a group of its own",
    )


@pytest.mark.parametrize("group_by", ["patient", "7", "-1"])
def test_what_groups_nothing_is_an_error(tmp_path, group_by):
    write_tree(tmp_path, FLOWERS)
    with pytest.raises(ConfigError, match=r"names no group in .*: the first id is 'rose/1\.png'"):
        groups(tmp_path, group_by)


def test_a_bad_pattern_is_named(tmp_path):
    write_tree(tmp_path, FLOWERS)
    with pytest.raises(ConfigError, match=r"group_by is '\(', which is not a regular expression"):
        groups(tmp_path, "(")


def test_a_tables_groups_hold_unless_others_are_asked_for(tmp_path):
    write_tree(tmp_path, FLOWERS)
    (tmp_path / "a.csv").write_text(
        "path,label,group\nrose/1.png,rose,p1\ntulip/1.png,tulip,p2\n", "utf-8"
    )
    assert groups(tmp_path / "a.csv", None)[0] == ["p1", "p2"]
    assert groups(tmp_path / "a.csv", "parent")[0] == ["rose", "tulip"]
