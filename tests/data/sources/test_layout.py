"""Class folders are found in a list of names, however they are wrapped."""

import pytest

from regraft.data.sources.layout import arrange
from regraft.data.sources.members import Members, has_image_magic
from regraft.errors import DataError


def ids(*names):
    """Return id, label and part of each name, in the order of the names."""
    arrangement = arrange(names, "data")
    by_position = dict(zip(arrangement.positions, arrangement.entries, strict=True))
    return [
        (by_position[at].id, by_position[at].label, by_position[at].part)
        for at in sorted(by_position)
    ]


def test_class_folders():
    assert ids("b/1.jpg", "a/1.jpg", "a/sub/2.jpg") == [
        ("b/1.jpg", "b", None),
        ("a/1.jpg", "a", None),
        ("a/sub/2.jpg", "a", None),
    ]


def test_the_order_of_an_archive_changes_nothing():
    names = ["b/1.jpg", "a/1.jpg", "a/sub/2.jpg"]
    arrangement = arrange(names, "data")
    assert [entry.id for entry in arrangement.entries] == ["a/1.jpg", "a/sub/2.jpg", "b/1.jpg"]
    assert arrangement.positions == [1, 2, 0]
    assert arrange(names[::-1], "data").entries == arrangement.entries


@pytest.mark.parametrize("top", ["", "top/"])
def test_one_class_is_no_error_of_the_layout(top):
    assert ids(f"{top}a/1.jpg", f"{top}a/2.jpg") == [
        ("a/1.jpg", "a", None),
        ("a/2.jpg", "a", None),
    ]


@pytest.mark.parametrize("top", ["flowers/", "archive/flowers/", "a/b/c/d/"])
def test_single_folders_are_skipped_and_do_not_change_ids(top):
    plain = ["a/1.jpg", "b/1.jpg"]
    assert ids(*[top + name for name in plain]) == ids(*plain)


@pytest.mark.parametrize(
    ("folder", "part"),
    [("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("val", "val"),
     ("valid", "val"), ("Validation", "val"), ("test", "test"), ("Testing", "test")],
)  # fmt: skip
def test_part_folders(folder, part):
    other = "val" if part == "train" else "train"
    found = ids(f"{folder}/a/1.jpg", f"{folder}/b/1.jpg", f"{other}/a/1.jpg", f"{other}/b/1.jpg")
    assert found[0] == (f"{folder}/a/1.jpg", "a", part)
    assert {part_of for _, _, part_of in found} == {part, other}


def test_a_class_that_is_missing_from_a_part_shifts_nothing():
    found = ids("train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "test/c/1.jpg", "test/a/1.jpg")
    assert found[3:] == [("test/c/1.jpg", "c", "test"), ("test/a/1.jpg", "a", "test")]


def test_a_single_class_of_a_part_is_not_skipped():
    found = ids("train/a/x/1.jpg", "train/b/1.jpg", "test/a/x/2.jpg")
    assert found[-1] == ("test/a/x/2.jpg", "a", "test")


def test_a_single_folder_inside_a_part_folder_is_skipped():
    found = ids("train/train/a/1.jpg", "train/train/b/1.jpg", "test/test/a/1.jpg")
    assert [label for _, label, _ in found] == ["a", "b", "a"]
    assert found[0][0] == "train/train/a/1.jpg"


def test_a_single_part_folder_is_split_like_any_other_data():
    arrangement = arrange(["train/a/1.jpg", "train/b/1.jpg"], "data")
    assert [(entry.id, entry.part) for entry in arrangement.entries] == [
        ("a/1.jpg", None),
        ("b/1.jpg", None),
    ]
    assert arrangement.notes == (
        "train is the only part folder, so it is split like any other data",
    )


def test_a_train_among_vehicles_is_a_class():
    assert [label for _, label, _ in ids("bus/1.jpg", "train/1.jpg")] == ["bus", "train"]


def test_part_folders_beside_others_are_ambiguous():
    with pytest.raises(DataError, match="data holds the part folders test, train and others beside "
                       "them: cars"):  # fmt: skip
        arrange(["train/a/1.jpg", "test/a/1.jpg", "cars/1.jpg"], "data")


def test_images_beside_class_folders_are_refused():
    arrangement = arrange(["a/1.jpg", "loose.jpg", "b/1.jpg"], "data")
    assert [entry.id for entry in arrangement.entries] == ["a/1.jpg", "b/1.jpg"]
    assert arrangement.positions == [0, 2]
    (refused,) = arrangement.refused
    assert (refused.path, refused.status, refused.kind) == (
        "loose.jpg", "refused", "beside class folders",
    )  # fmt: skip


def test_images_beside_a_folder_that_is_skipped_are_refused_once():
    arrangement = arrange(["top/a/1.jpg", "loose.jpg", "top/b/1.jpg", "top/2.jpg"], "data")
    assert [entry.path for entry in arrangement.refused] == ["loose.jpg", "top/2.jpg"]


def test_the_second_of_two_equal_names_is_refused():
    arrangement = arrange(["a/1.jpg", "b/1.jpg", "a/1.jpg"], "data")
    assert arrangement.positions == [0, 1]
    assert [(e.path, e.kind) for e in arrangement.refused] == [("a/1.jpg", "duplicate name")]


def test_a_part_without_class_folders_is_named():
    with pytest.raises(DataError, match="data: test holds 2 images and no class folders"):
        arrange(["train/a/1.jpg", "train/b/1.jpg", "test/1.jpg", "test/2.jpg"], "data")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "data holds no images"),
        (["1.jpg", "2.jpg"], "data holds 2 images and no class folders, so the labels are"),
    ],
)
def test_what_is_no_set_of_class_folders(names, message):
    with pytest.raises(DataError, match=message):
        arrange(names, "data")


def test_images_of_its_own_make_a_folder_a_class():
    """Years above the classes are a stop; not so where a year has images of its own."""
    years = [f"{year}/{name}/1.jpg" for year in (2023, 2024) for name in ("daisy", "rose")]
    with pytest.raises(DataError, match="folders of the same names in 2023, 2024: daisy, rose"):
        arrange(years, "data")
    own = arrange([*years, "2023/1.jpg"], "data")
    assert {entry.label for entry in own.entries} == {"2023", "2024"}
    strays = [f"{year}/{name}/{n}.jpg" for year in (2023, 2024) for name in "ab" for n in range(5)]
    with pytest.raises(DataError, match="folders of the same names in 2023, 2024: a, b"):
        arrange([*strays, "2023/cover.jpg"], "data")


@pytest.mark.parametrize(
    "name", ["/etc/a.png", "../a.png", "a/../../b.png", "C:/a.png", "a\\b.png", "a\0.png"]
)
def test_unsafe_member_names_are_refused(name):
    members = Members()
    assert members.allow(name) is None
    assert [(e.status, e.kind) for e in members.left_out] == [("refused", "unsafe name")]


@pytest.mark.parametrize("name", [".a.png", "__MACOSX/rose/._1.png", "a/.git/b.png", "Thumbs.db"])
def test_hidden_members_are_passed_over(name):
    members = Members()
    assert members.allow(name) is None
    assert [(e.status, e.kind) for e in members.left_out] == [("passed over", "hidden file")]


def test_names_are_brought_into_one_form():
    members = Members()
    assert members.allow("./a//b/./c.png") == "a/b/c.png"
    members.add("ro\u0301se/1.png", None, bytes)
    assert members.names == ["r\u00f3se/1.png"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\udcff.png", r"\udcff.png"),
        ("\x1b[31m.png", r"\x1b[31m.png"),
        ("1\n.png", r"1\n.png"),
        ("gnp.\u202e.png", r"gnp.\u202e.png"),
        ("deep\r/1.png", r"deep\r/1.png"),
    ],
)
def test_names_that_cannot_be_printed_are_refused(name, shown):
    arrangement = arrange([f"rose/{name}", "rose/1.png", "tulip/1.png"], "data")
    assert [entry.id for entry in arrangement.entries] == ["rose/1.png", "tulip/1.png"]
    (entry,) = arrangement.refused
    assert (entry.path, entry.kind) == (f"rose/{shown}", "unreadable name")


def test_names_of_all_languages_can_be_printed():
    names = ["\u82b1/\u0645\u06cc\u200c\u0631.png", "\U0001f339/a b.png", "\u00e9/\u00a0.png"]
    assert len(arrange(names, "data").entries) == 3


def test_a_name_of_thousands_of_characters_is_refused_and_cut():
    members = Members()
    assert members.allow("a/" + "x" * 5000) is None
    (entry,) = members.left_out
    assert (entry.kind, entry.reason) == ("unsafe name", "its name has 5,002 characters")
    assert len(entry.path) == 203


def test_the_content_decides_where_the_suffix_says_nothing():
    members = Members()
    members.add("a/1", "key", lambda: b"\xff\xd8\xff\xe0")
    members.add("a/notes.txt", "key", lambda: b"BMW and other brands")
    assert members.names == ["a/1"]
    assert [(e.status, e.kind) for e in members.left_out] == [("passed over", "not an image")]


def test_an_image_of_a_format_that_is_not_read_is_not_passed_over():
    members = Members()
    members.add("a/1.HEIC", "key", bytes)
    assert members.names == ["a/1.HEIC"]


def test_a_bitmap_is_known_by_its_reserved_bytes():
    assert has_image_magic(b"BM\x10\0\0\0\0\0\0\0\x36\0\0\0")
    assert not has_image_magic(b"BM")
