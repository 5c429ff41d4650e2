"""A class of which nothing is read does not disappear; the reasons are named."""

import os

import pytest

from image_trees import FLOWERS, encoded, write_tar, write_tree, write_zip
from regraft.config.train_config import TrainConfig
from regraft.data.ledger import LedgerEntry
from regraft.data.scan import scan
from regraft.data.sources.lost import UNREAD_SUFFIXES, no_images
from regraft.data.sources.members import IMAGE_SUFFIXES
from regraft.data.sources.registry import open_source
from regraft.data.sources.unlabelled import open_unlabelled
from regraft.errors import DataError

CONFIG = TrainConfig(workers=1)
CONTAINERS = {
    "folder": lambda root, files: write_tree(root / "data", files),
    "zip": lambda root, files: write_zip(root / "data.zip", files),
    "tar": lambda root, files: write_tar(root / "data.tgz", files, "w:gz"),
}
PPM = b"P6 1 1 255\n\1\2\3"
HINT = (
    "put images into the folder (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC and JPEG 2000 are "
    "read), or remove it; `exclude='daisy'` leaves a class out"
)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("above", ["", "top/"])
def test_a_class_of_files_that_are_not_read_is_a_stop(tmp_path, container, above):
    files = {**FLOWERS, "daisy/1.ppm": PPM, "daisy/deep/2.ppm": PPM, "daisy/notes.txt": b""}
    data = CONTAINERS[container](tmp_path, {f"{above}{name}": files[name] for name in files})
    for least in (1, 2):
        with pytest.raises(DataError) as caught:
            scan(data, CONFIG, least_classes=least)
        assert caught.value.message == (
            f"{data}: 1 class has no image that is read: daisy: 2 files of a format that is not "
            "read (.ppm)"
        )
        assert (caught.value.hint, caught.value.exit_code) == (HINT, 2)


@pytest.mark.parametrize("choice", [{"exclude": "daisy"}, {"classes": "rose,tulip"}])
def test_a_class_that_is_not_wanted_is_not_missed(tmp_path, choice):
    data = write_tree(tmp_path, {**FLOWERS, "daisy/1.ppm": PPM})
    assert scan(data, CONFIG.replace(**choice)).classes == ("rose", "tulip")
    (tmp_path / "daisy" / "1.ppm").unlink()
    assert scan(data, CONFIG.replace(**choice)).classes == ("rose", "tulip")


def test_an_empty_class_is_a_stop_for_training_and_a_note_for_measuring(tmp_path):
    folder = write_tree(tmp_path / "folder", {**FLOWERS, "daisy/.DS_Store": b"x"})
    (folder / "aster").mkdir()
    zipped = write_zip(tmp_path / "a.zip", {**FLOWERS, "aster/": b"", "daisy/.DS_Store": b"x"})
    for data in (folder, zipped):
        with pytest.raises(DataError, match=r"2 classes have no image that is read: aster: it is "
                           "empty; daisy: it is empty\n"):  # fmt: skip
            scan(data, CONFIG)
        samples = scan(data, CONFIG, least_classes=1)
        assert samples.notes == ("no images are in aster, daisy: these folders are empty",)


@pytest.mark.skipif(os.name == "nt", reason="links cannot be made everywhere")
def test_class_folders_that_are_links_are_not_followed_and_not_forgotten(tmp_path):
    write_tree(tmp_path / "elsewhere", {"1.png": encoded(1)})
    data = write_tree(
        tmp_path / "data", {**FLOWERS, **{f"rose/{n}.png": encoded(n) for n in range(30)}}
    )
    (data / "daisy").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="1 class has no image that is read: daisy: 1 file refused: "
                       "link out of the tree: it leads to "):  # fmt: skip
        scan(data, CONFIG)


def test_an_empty_class_in_one_part_is_there_in_the_other(tmp_path):
    data = write_tree(tmp_path, {f"train/{name}": image for name, image in FLOWERS.items()})
    write_tree(tmp_path, {f"test/{name}": image for name, image in FLOWERS.items()})
    (tmp_path / "test" / "tulip" / "empty").mkdir()
    (tmp_path / "val").mkdir()
    assert scan(data, CONFIG).classes == ("rose", "tulip")
    (tmp_path / "train" / "daisy").mkdir()
    with pytest.raises(DataError, match="daisy: it is empty"):
        scan(data, CONFIG)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_folder_of_other_files_is_no_class_and_noted(tmp_path, container):
    files = {**FLOWERS, "docs/readme.md": b"x", "src/a.py": b"x", "LICENSE": b"x"}
    source = open_source(CONTAINERS[container](tmp_path, files))
    assert source.notes == ("no images are in docs, src: not taken for a class",)
    assert {entry.label for entry in source.entries} == {"rose", "tulip"}


@pytest.mark.skipif(os.name == "nt", reason="links cannot be made everywhere")
def test_where_all_files_were_refused_the_reasons_are_named(tmp_path):
    write_tree(tmp_path / "elsewhere", {"1.png": encoded(1)})
    data = write_tree(tmp_path / "data", {"rose/note.txt": b"x"})
    for name in ("rose/1.png", "rose/2.png"):
        (data / name).symlink_to(tmp_path / "elsewhere" / "1.png")
    with pytest.raises(DataError) as caught:
        open_source(data)
    assert caught.value.message.startswith(
        f"{data} holds no images: 2 files are refused (2 link out of the tree); the first is "
        "rose/1.png: it leads to "
    )
    assert caught.value.hint == "copy the files, or give the folder to which the links lead"
    with pytest.raises(DataError, match=r"there are no images in .*: 2 files are refused"):
        open_unlabelled([str(data)])


def test_backslashes_and_encryption_are_named_with_their_counts(tmp_path):
    data = write_zip(tmp_path / "a.zip", {f"rose\\{n}.png": encoded(n) for n in range(3)})
    with pytest.raises(DataError, match=r"3 files are refused \(3 unsafe name\); the first is "
                       r"rose\\0.png: its name holds a backslash") as caught:  # fmt: skip
        open_source(data)
    assert "make the archive again" in caught.value.hint
    content = bytearray(write_zip(tmp_path / "b.zip", {"rose/1.png": b"secret"}).read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # a flag in the central directory
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"1 file is refused \(1 encrypted\)") as caught:
        open_source(tmp_path / "b.zip")
    assert caught.value.hint == "unpack it with its password, and give the folder"


def test_reasons_are_counted_and_the_most_frequent_has_the_hint():
    def entry(kind, status="refused"):
        return LedgerEntry("a.png", status, kind, "reason")

    error = no_images("nothing", [entry("link"), entry("encrypted"), entry("encrypted"),
                                  entry("not an image", "passed over")])  # fmt: skip
    assert error.message == (
        "nothing: 3 files are refused (2 encrypted, 1 link); the first is a.png: reason"
    )
    assert error.hint == "unpack it with its password, and give the folder"
    passed = no_images("nothing", [entry("not an image", "passed over"),
                                   entry("hidden file", "passed over")])  # fmt: skip
    assert "1 file is passed over (1 not an image)" in passed.message
    assert "JPEG" in passed.hint


def test_a_suffix_is_that_of_an_image_or_of_what_is_not_read():
    assert not IMAGE_SUFFIXES & UNREAD_SUFFIXES
