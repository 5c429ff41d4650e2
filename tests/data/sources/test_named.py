"""Datasets by name, read from small files in the official layouts."""

import pickle

import numpy as np
import pytest

from image_trees import pixels, read_all, write_idx
from regraft.data.sources.idx import read_idx
from regraft.data.sources.named import IDX_SETS, NAMED, list_datasets, open_named
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import DataError

NAMES = [
    "digits",
    "mnist",
    "qmnist",
    "fashion-mnist",
    "kmnist",
    "emnist",
    "cifar10",
    "cifar100",
    "svhn",
    "flowers102",
    "food101",
    "oxford-pets",
    "stl10",
    "eurosat",
    "dtd",
    "imagenette",
]


@pytest.fixture
def no_network(monkeypatch):
    """Make every download fail at once, with or without a network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: no server
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def write_set(folder, name, *, zipped=True, n_train=4, n_test=2):
    """Write one of the MNIST family as its authors publish it."""
    dataset = IDX_SETS[name]
    written = {}
    for part, word in dataset.parts.items():
        count = n_train if part == "train" else n_test
        images = np.stack([pixels((part == "test") * 100 + i, 7, 5, 0) for i in range(count)])
        labels = np.arange(count, dtype=np.uint8)
        if dataset.label_columns > 1:
            labels = np.stack([labels.astype(np.int32)] + [labels * 0 + 99] * 7, axis=1)
            labels = labels.astype(np.int32)
        write_idx(folder / dataset.images.format(word), images, zipped=zipped)
        write_idx(folder / dataset.labels.format(word), labels, zipped=zipped)
        written[part] = images
    return written


def open_in(root, name):
    return open_named(name, SourceOptions(data_root=root))


def test_the_list_is_complete():
    assert [dataset.name for dataset in list_datasets()] == NAMES
    assert all(dataset.classes > 1 and dataset.train > 0 for dataset in list_datasets())
    assert {name for name in NAMES if NAMED[name].download == 0} == {"digits"}


def test_other_data_are_not_opened():
    assert open_named("photos", SourceOptions()) is None
    assert open_named((1, 2), SourceOptions()) is None


def test_digits_use_the_whole_range():
    source = open_in(None, "digits")
    images = read_all(source)
    assert len(images) == 1797
    assert {entry.label for entry in source.entries} == set("0123456789")
    assert {entry.part for entry in source.entries} == {None}
    assert images["0"].shape == (8, 8)
    assert images["0"].dtype == np.uint8
    assert {int(v) for image in images.values() for v in image.ravel()} == {
        round(v * 255 / 16) for v in range(17)
    }


@pytest.mark.parametrize("name", IDX_SETS)
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_sets(tmp_path, name, zipped):
    written = write_set(tmp_path / IDX_SETS[name].folder / "raw", name, zipped=zipped)
    source = open_in(tmp_path, name)
    read = read_all(source)
    assert list(read) == ["train/0", "train/1", "train/2", "train/3", "test/0", "test/1"]
    assert [entry.part for entry in source.entries] == ["train"] * 4 + ["test"] * 2
    assert [entry.label for entry in source.entries][:4] == list(IDX_SETS[name].classes[:4])
    expected = written["test"][1]
    assert np.array_equal(read["test/1"], expected.T if name == "emnist" else expected)
    assert source.notes[0].startswith(f"{name} is read from {tmp_path}")


def test_emnist_says_that_it_turns_the_images(tmp_path):
    write_set(tmp_path, "emnist")
    assert "upright" in open_in(tmp_path, "emnist").notes[1]
    assert len(IDX_SETS["emnist"].classes) == NAMED["emnist"].classes


@pytest.mark.parametrize("folder", [".", "raw", "MNIST/raw"])
def test_idx_files_are_found_in_three_folders(tmp_path, folder):
    write_set(tmp_path / folder, "mnist")
    assert len(open_in(tmp_path, "mnist").entries) == 6


# --- QMNIST's test part out of MNIST's images -----------------------------------------------


def write_qmnist_test(root, labels, qmnist_labels):
    mnist = root / "MNIST" / "raw"
    images = np.stack([pixels(i, 7, 5, 0) for i in range(len(labels))])
    write_idx(mnist / "t10k-images-idx3-ubyte", images, zipped=True)
    write_idx(mnist / "t10k-labels-idx1-ubyte", np.array(labels, np.uint8), zipped=True)
    columns = np.zeros((len(qmnist_labels), 8), np.int32)
    columns[:, 0] = qmnist_labels
    columns[:, 1:] = 70_000
    write_idx(root / "qmnist-test-labels-idx2-int", columns, zipped=True)
    return images


def test_qmnists_first_test_digits_are_mnists(tmp_path):
    images = write_qmnist_test(tmp_path, [7, 2, 1], [7, 2, 1, 0, 4])
    source = open_in(tmp_path, "qmnist")
    assert [(e.id, e.label, e.part) for e in source.entries] == [
        ("test/0", "7", "test"),
        ("test/1", "2", "test"),
        ("test/2", "1", "test"),
    ]
    assert np.array_equal(read_all(source)["test/2"], images[2])
    assert source.notes[1].startswith("qmnist: only a test part of 3 is here: MNIST's test images")


def test_qmnist_labels_of_other_digits_are_noticed(tmp_path):
    write_qmnist_test(tmp_path, [7, 2, 1], [7, 2, 3, 0, 4])
    with pytest.raises(DataError, match="are not labels of the same digits"):
        open_in(tmp_path, "qmnist")


# --- damaged IDX files ----------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with ; an IDX file of 1 dimensions begins with 00 00, a type and 01"),
        (b"\0\0\x08\x03" + bytes(12), "begins with 00 00 08 03"),
        (b"\0\0\x0d\x01" + bytes(4), "begins with 00 00 0d 01"),
        (b"\0\0\x08\x01\0\0", "ends within its header"),
        (b"\0\0\x08\x01\0\0\0\x05abcd", "holds 4 of the 5 bytes"),
        (b"\0\0\x08\x01\0\0\0\x05abcdef", "holds more than the 5 bytes"),
        (b"\0\0\x0c\x01\xff\xff\xff\xff", "declares 17179869180 bytes"),
        (b"\x1f\x8b and no gzip", "cannot be read"),
    ],
)
def test_what_is_no_idx_file_is_named(tmp_path, content, message):
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(tmp_path / "labels", 1)
    assert str(tmp_path / "labels") in caught.value.message


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"labels does not exist, and neither does labels\.gz"):
        read_idx(tmp_path / "labels", 1)


def test_a_gzipped_file_that_is_cut_short_is_named(tmp_path):
    path = write_idx(tmp_path / "labels", np.arange(200, dtype=np.uint8), zipped=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"labels\.gz cannot be read: Compressed file ended"):
        read_idx(tmp_path / "labels", 1)


def test_parts_of_different_length_are_named(tmp_path):
    write_set(tmp_path, "mnist")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8), zipped=True)
    with pytest.raises(DataError, match="t10k has 2 images and 3 labels"):
        open_in(tmp_path, "mnist")


def test_labels_that_are_no_classes_are_named(tmp_path):
    write_set(tmp_path, "mnist")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([3, 10], np.uint8), zipped=True)
    with pytest.raises(DataError, match="holds labels from 3 to 10; there are 10 classes"):
        open_in(tmp_path, "mnist")


# --- what torchvision reads ------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_without_files_and_network_the_folder_is_named(tmp_path, no_network, name):
    with pytest.raises(DataError) as caught:
        open_in(tmp_path, name)
    assert caught.value.message.startswith(f"{name} is not complete in {tmp_path}")
    assert "could not be downloaded: " in caught.value.message
    assert caught.value.hint.startswith(f"put its files into {tmp_path}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_pickle_with_another_hash_is_never_loaded(tmp_path, no_network, name):
    """CIFAR's files are pickles; loading this one would leave a mark."""
    mark = tmp_path / "executed"
    hostile = f"cbuiltins\nexec\n(S'open({str(mark)!r}, \"w\").close()'\ntR.".encode()
    pickle.loads(hostile)  # noqa: S301 - it does what it is meant to do
    mark.unlink()
    folder = tmp_path / NAMED[name].looked_for
    folder.mkdir()
    files = [f"data_batch_{n}" for n in range(1, 6)]
    files += ["test_batch", "batches.meta", "train", "test", "meta"]
    for file in files:
        (folder / file).write_bytes(hostile)
    with pytest.raises(DataError, match=f"{name} is not complete"):
        open_in(tmp_path, name)
    assert not mark.exists()


IMAGE = b"the bytes of a file; decoding is another's business"


def test_food101(tmp_path):
    base = tmp_path / "food-101"
    for name in ("pizza/1.jpg", "pizza/2.jpg", "ramen/3.jpg"):
        (base / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "images" / name).write_bytes(IMAGE + name.encode())
    (base / "meta").mkdir()
    (base / "meta" / "train.json").write_text('{"ramen": ["ramen/3"], "pizza": ["pizza/1"]}')
    (base / "meta" / "test.json").write_text('{"pizza": ["pizza/2"]}')
    source = open_in(tmp_path, "food101")
    assert sorted((e.id, e.label, e.part) for e in source.entries) == [
        ("food-101/images/pizza/1.jpg", "pizza", "train"),
        ("food-101/images/pizza/2.jpg", "pizza", "test"),
        ("food-101/images/ramen/3.jpg", "ramen", "train"),
    ]
    assert read_all(source)["food-101/images/ramen/3.jpg"] == IMAGE + b"ramen/3.jpg"


def test_oxford_pets(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    (base / "annotations" / "trainval.txt").write_text("Sphynx_1 34 1 1\nbasset_hound_7 2 2 1\n")
    (base / "annotations" / "test.txt").write_text("basset_hound_8 2 2 1\n")
    (base / "images" / "basset_hound_8.jpg").write_bytes(IMAGE)
    source = open_in(tmp_path, "oxford-pets")
    assert [(e.label, e.part) for e in source.entries] == [
        ("Sphynx", "train"), ("basset hound", "train"), ("basset hound", "test"),
    ]  # fmt: skip
    (_, load), *_ = source.stream([2])
    assert load() == IMAGE


def test_dtd(tmp_path):
    base = tmp_path / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for part, line in {"train": "banded/1.jpg\nwoven/1.jpg", "val": "woven/2.jpg",
                       "test": "woven/3.jpg"}.items():  # fmt: skip
        (base / "labels" / f"{part}1.txt").write_text(line + "\n")
    assert [(e.label, e.part) for e in open_in(tmp_path, "dtd").entries] == [
        ("banded", "train"), ("woven", "train"), ("woven", "val"), ("woven", "test"),
    ]  # fmt: skip


def test_eurosat(tmp_path):
    for label in ("Forest", "River"):
        (tmp_path / "eurosat" / "2750" / label).mkdir(parents=True)
        (tmp_path / "eurosat" / "2750" / label / f"{label}_1.jpg").write_bytes(IMAGE)
    source = open_in(tmp_path, "eurosat")
    assert [(e.id, e.label, e.part) for e in source.entries] == [
        ("eurosat/2750/Forest/Forest_1.jpg", "Forest", None),
        ("eurosat/2750/River/River_1.jpg", "River", None),
    ]


def test_imagenette(tmp_path):
    for part in ("train", "val"):
        for wnid in ("n01440764", "n03028079"):
            folder = tmp_path / "imagenette2-320" / part / wnid
            folder.mkdir(parents=True)
            (folder / "1.JPEG").write_bytes(IMAGE)
    source = open_in(tmp_path, "imagenette")
    assert [(e.label, e.part) for e in source.entries] == [
        ("tench", "train"), ("church", "train"), ("tench", "val"), ("church", "val"),
    ]  # fmt: skip


def test_with_a_data_root_the_name_is_the_dataset_though_a_folder_has_it_too(tmp_path, monkeypatch):
    write_set(tmp_path, "mnist")  # into a folder called mnist
    (tmp_path / "mnist").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert open_source("mnist", SourceOptions(data_root=tmp_path)).kind == "named"
