"""Images to predict are found wherever a user points to."""

import io

import pytest

from image_trees import FLOWERS, encoded, left_out, read_all, write_tar, write_tree, write_zip
from regraft.data.sources.unlabelled import open_unlabelled
from regraft.errors import ArchiveError, DataError, ImageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of flowers, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_tree(tmp_path, FLOWERS)


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["rose/1.png"], ["rose/1.png"]),
        (["tulip/1.png", "rose/2.png"], ["tulip/1.png", "rose/2.png"]),
        (["tulip"], ["tulip/1.png", "tulip/deep/er/2.png"]),
        (["tulip/"], ["tulip/1.png", "tulip/deep/er/2.png"]),
        (["rose/*.png"], ["rose/1.png", "rose/2.png"]),
        (["**/2.png"], ["rose/2.png", "tulip/deep/er/2.png"]),
    ],
)
def test_files_folders_and_patterns(here, paths, ids):
    source = open_unlabelled(paths)
    assert list(read_all(source)) == ids
    assert read_all(source) == {name: FLOWERS[name] for name in ids}
    assert {entry.label for entry in source.entries} == {""}


def test_archives(here):
    write_zip(here / "a.zip", {**FLOWERS, "loose.png": encoded(9), "notes.txt": b"x"})
    write_tar(here / "b.tgz", {"one.png": encoded(8)}, "w:gz")
    source = open_unlabelled(["b.tgz", "a.zip", "rose/1.png"])
    read = read_all(source)
    assert list(read) == [
        "b.tgz/one.png", *(f"a.zip/{name}" for name in FLOWERS), "a.zip/loose.png", "rose/1.png",
    ]  # fmt: skip
    assert read["b.tgz/one.png"] == encoded(8)
    assert read["a.zip/loose.png"] == encoded(9)
    assert left_out(source) == {"notes.txt": ("passed over", "not an image")}


def test_some_of_several_containers_are_streamed(here):
    write_zip(here / "a.zip", FLOWERS)
    source = open_unlabelled(["rose", "a.zip", "tulip/1.png"])
    wanted = [1, 2, 5, 6]
    assert [index for index, _ in source.stream(wanted)] == wanted
    names = [source.entries[index].id.removeprefix("a.zip/") for index in wanted]
    assert [load() for _, load in source.stream(wanted)] == [FLOWERS[name] for name in names]


def test_a_file_that_is_named_is_read_whatever_it_is(here):
    (here / "notes.txt").write_bytes(b"text")
    assert read_all(open_unlabelled(["notes.txt"])) == {"notes.txt": b"text"}


def test_every_question_is_answered_in_order(here):
    """A second path of an image was passed over without a word: rows did not match the paths."""
    source = open_unlabelled(["rose/2.png", "rose", "./rose/1.png", "rose/2.png"])
    asked = ["rose/2.png", "rose/1.png", "rose/2.png", "rose/1.png", "rose/2.png"]
    assert [entry.id for entry in source.entries] == asked
    read = [(source.entries[index].id, load()) for index, load in source.stream(range(5))]
    assert read == [(name, FLOWERS[name]) for name in asked]
    assert left_out(source) == {}


def test_standard_input_holds_an_image():
    source = open_unlabelled(["-"], io.BytesIO(FLOWERS["rose/1.png"]))
    assert read_all(source) == {"-": FLOWERS["rose/1.png"]}


@pytest.mark.parametrize("content", ["rose/1.png\ntulip\n", "\ufeffrose/1.png\r\n\r\ntulip"])
def test_standard_input_holds_paths(here, content):
    source = open_unlabelled(["-"], io.BytesIO(content.encode()))
    assert list(read_all(source)) == ["rose/1.png", "tulip/1.png", "tulip/deep/er/2.png"]


def test_standard_input_that_is_neither_is_named():
    with pytest.raises(DataError, match="standard input is neither an image nor a list of paths"):
        open_unlabelled(["-"], io.BytesIO(b"\xff\xfe\xfa"))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["none.png"], "'none.png' does not exist"),
        (["rose/1.png", "none"], "'none' does not exist"),
        (["*.gif"], r"'\*\.gif' matches nothing"),
        (["empty"], "there are no images in empty"),
        ([], "there are no images in an empty list of paths"),
        (["a\0b"], "does not exist"),
        ([""], "'' does not exist"),
    ],
)
def test_what_is_not_there_is_named(here, paths, message):
    (here / "empty").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        open_unlabelled(paths)
    assert caught.value.exit_code == 2


def test_a_damaged_archive_is_named(here):
    (here / "a.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(ArchiveError, match=r"a\.zip cannot be read as a zip"):
        open_unlabelled(["a.zip"])


def test_a_file_that_goes_away_is_an_error_of_that_file(here):
    source = open_unlabelled(["rose"])
    (here / "rose" / "1.png").unlink()
    loads = dict(source.stream([0, 1]))
    with pytest.raises(ImageError, match="missing"):
        loads[0]()
    assert loads[1]() == FLOWERS["rose/2.png"]
