"""Class folders on a disk: what is read, and what is refused without opening it."""

import os
import socket

import pytest

from image_trees import FLOWERS, encoded, left_out, read_all, write_tree
from regraft.data.sources import folder
from regraft.data.sources.folder import open_folder, read_file
from regraft.data.sources.options import SourceOptions
from regraft.errors import DataError, ImageError

OPTIONS = SourceOptions()


def can_link(tmp_path):
    try:
        (tmp_path / "link").symlink_to(tmp_path / "nothing")
    except OSError:
        return False
    (tmp_path / "link").unlink()
    return True


@pytest.fixture
def linked(tmp_path):
    """A tree and a folder outside of it, where links can be made."""
    if not can_link(tmp_path):
        pytest.skip("links cannot be made here")
    write_tree(tmp_path / "outside", {"secret.png": encoded(9)})
    return write_tree(tmp_path / "tree", FLOWERS)


def test_the_order_is_that_of_the_names(tmp_path):
    source = open_folder(write_tree(tmp_path, FLOWERS), OPTIONS)
    assert [entry.id for entry in source.entries] == sorted(FLOWERS)
    assert read_all(source) == FLOWERS
    assert not source.refused


def test_the_parent_folder_gives_the_same_ids(tmp_path):
    write_tree(tmp_path / "a" / "flowers", FLOWERS)
    assert open_folder(tmp_path, OPTIONS).entries == open_folder(
        tmp_path / "a" / "flowers", OPTIONS
    ).entries  # fmt: skip


def test_other_files_are_passed_over(tmp_path):
    files = {
        **FLOWERS,
        "README.md": b"# Flowers",
        "rose/notes.txt": b"thorns",
        "rose/.hidden.png": encoded(7),
        "__MACOSX/rose/._1.png": b"x",
        "rose/3": encoded(8),
    }
    source = open_folder(write_tree(tmp_path, files), OPTIONS)
    assert {entry.id for entry in source.entries} == {*FLOWERS, "rose/3"}
    assert left_out(source) == {
        "README.md": ("passed over", "not an image"),
        "rose/notes.txt": ("passed over", "not an image"),
        "rose/.hidden.png": ("passed over", "hidden file"),
        "__MACOSX": ("passed over", "hidden file"),
    }


def test_links_inside_the_tree_are_followed(linked):
    (linked / "tulip" / "3.png").symlink_to(linked / "rose" / "1.png")
    source = open_folder(linked, OPTIONS)
    assert read_all(source)["tulip/3.png"] == FLOWERS["rose/1.png"]


def test_other_links_are_refused(linked):
    (linked / "rose" / "out.png").symlink_to(linked.parent / "outside" / "secret.png")
    (linked / "rose" / "up").symlink_to(linked.parent / "outside")
    (linked / "rose" / "round").symlink_to(linked)
    (linked / "rose" / "broken.png").symlink_to(linked / "nothing.png")
    (linked / "rose" / "loop.png").symlink_to(linked / "rose" / "loop.png")
    source = open_folder(linked, OPTIONS)
    assert {entry.id for entry in source.entries} == set(FLOWERS)
    assert left_out(source) == {
        "rose/out.png": ("refused", "link out of the tree"),
        "rose/up": ("refused", "link out of the tree"),
        "rose/round": ("refused", "link to a folder"),
        "rose/broken.png": ("refused", "broken link"),
        "rose/loop.png": ("refused", "link loop"),
    }


def test_the_folder_itself_may_be_a_link(linked):
    link = linked.parent / "link"
    link.symlink_to(linked)
    assert read_all(open_folder(link, OPTIONS)) == FLOWERS


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_pipes_and_sockets_are_refused_without_opening(tmp_path, monkeypatch):
    write_tree(tmp_path, FLOWERS)
    os.mkfifo(tmp_path / "rose" / "pipe.png")  # opening it would block for ever
    monkeypatch.chdir(tmp_path / "rose")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        source = open_folder(tmp_path, OPTIONS)
    assert left_out(source) == {
        "rose/pipe.png": ("refused", "not a regular file"),
        "rose/socket.png": ("refused", "not a regular file"),
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_pipe_that_replaced_an_image_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_file(str(tmp_path / "1.png"))


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="permissions do not hold here",
)
def test_what_must_not_be_read_is_refused(tmp_path):
    write_tree(tmp_path, {**FLOWERS, "rose/locked/3.png": encoded(7)})
    (tmp_path / "rose" / "1.png").chmod(0)
    (tmp_path / "rose" / "locked").chmod(0)
    try:
        source = open_folder(tmp_path, OPTIONS)
        assert left_out(source) == {"rose/locked": ("refused", "unreadable folder")}
        with pytest.raises(ImageError, match="unreadable: Permission denied"):
            read_file(str(tmp_path / "rose" / "1.png"))
    finally:
        (tmp_path / "rose" / "locked").chmod(0o700)


def test_a_file_that_is_gone_is_missing(tmp_path):
    source = open_folder(write_tree(tmp_path, FLOWERS), OPTIONS)
    (tmp_path / "rose" / "1.png").unlink()
    (_, load), *_ = source.stream([0])
    with pytest.raises(ImageError, match="missing: there is no such file"):
        load()


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "LARGEST_FILE", 10)
    (tmp_path / "1.png").write_bytes(bytes(11))
    with pytest.raises(ImageError, match="too large: it has 11 bytes; at most 10 are read"):
        read_file(str(tmp_path / "1.png"))


def test_a_folder_without_class_folders_says_what_to_do(tmp_path):
    write_tree(tmp_path, {"1.png": encoded(1)})
    with pytest.raises(DataError, match="no class folders") as caught:
        open_folder(tmp_path, OPTIONS)
    assert caught.value.hint.startswith("put the images of each class into a folder")
    assert caught.value.exit_code == 2


def test_user_files_stay_as_they_are(tmp_path):
    write_tree(tmp_path, FLOWERS)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_mode) for p in tmp_path.rglob("*")}
    read_all(open_folder(tmp_path, OPTIONS))
    assert {p: (p.stat().st_mtime_ns, p.stat().st_mode) for p in tmp_path.rglob("*")} == before


@pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
def test_names_are_brought_into_one_form_and_still_opened(tmp_path):
    write_tree(tmp_path, {"ro\u0301se/1.png": encoded(1), "tulip/1.png": encoded(2)})
    source = open_folder(tmp_path, OPTIONS)
    assert [entry.label for entry in source.entries] == ["r\u00f3se", "tulip"]
    assert len(read_all(source)) == 2
