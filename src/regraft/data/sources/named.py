"""Datasets by name: scikit-learn's digits, the IDX family, and torchvision's.

IDX files are read here, as they are. torchvision reads the others, and downloads all of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.data.samples import Entry, Part, Source
from regraft.data.sources.fetched import Parts, fetch, fetch_idx
from regraft.data.sources.folder import read_file
from regraft.data.sources.idx import find_idx, read_idx
from regraft.data.sources.stream import read_each
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.data.sources.options import Data, SourceOptions
    from regraft.images.payload import Payload


@dataclass(frozen=True)
class NamedDataset:
    """A dataset that is known by name; ``regraft datasets`` prints all fields."""

    name: str
    classes: int
    train: int  # images, those of a validation part included
    test: int  # images; 0 where the data have no parts
    download: int  # bytes, roughly; 0 where it comes with the installation
    licence: str  # as its authors say it plainly; else "see homepage"
    homepage: str
    looked_for: str  # folder or files below the data root, for users who download by themselves


_SEE = "see homepage"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_MB = 1_000_000

_TABLE = (
    NamedDataset("digits", 10, 1_797, 0, 0, "CC BY 4.0",
                 "https://archive.ics.uci.edu/dataset/80", "(inside scikit-learn)"),
    NamedDataset("mnist", 10, 60_000, 10_000, 12 * _MB, _SEE,
                 "http://yann.lecun.com/exdb/mnist/", "MNIST/raw"),
    NamedDataset("qmnist", 10, 60_000, 60_000, 21 * _MB, _SEE,
                 "https://github.com/facebookresearch/qmnist", "QMNIST/raw"),
    NamedDataset("fashion-mnist", 10, 60_000, 10_000, 31 * _MB, "MIT",
                 "https://github.com/zalandoresearch/fashion-mnist", "FashionMNIST/raw"),
    NamedDataset("kmnist", 10, 60_000, 10_000, 21 * _MB, "CC BY-SA 4.0",
                 "http://codh.rois.ac.jp/kmnist/", "KMNIST/raw"),
    NamedDataset("emnist", 47, 112_800, 18_800, 562 * _MB, _SEE,
                 "https://www.nist.gov/itl/products-and-services/emnist-dataset", "EMNIST/raw"),
    NamedDataset("cifar10", 10, 50_000, 10_000, 170 * _MB, _SEE,
                 "https://www.cs.toronto.edu/~kriz/cifar.html", "cifar-10-batches-py"),
    NamedDataset("cifar100", 100, 50_000, 10_000, 169 * _MB, _SEE,
                 "https://www.cs.toronto.edu/~kriz/cifar.html", "cifar-100-python"),
    NamedDataset("svhn", 10, 73_257, 26_032, 246 * _MB, _SEE,
                 "http://ufldl.stanford.edu/housenumbers/", "{train,test}_32x32.mat"),
    NamedDataset("flowers102", 102, 2_040, 6_149, 345 * _MB, _SEE,
                 f"{_VGG}/flowers/102/", "flowers-102"),
    NamedDataset("food101", 101, 75_750, 25_250, 4_996 * _MB, _SEE,
                 "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", "food-101"),
    NamedDataset("oxford-pets", 37, 3_680, 3_669, 811 * _MB, "CC BY-SA 4.0",
                 f"{_VGG}/pets/", "oxford-iiit-pet"),
    NamedDataset("stl10", 10, 5_000, 8_000, 2_640 * _MB, _SEE,
                 "https://cs.stanford.edu/~acoates/stl10/", "stl10_binary"),
    NamedDataset("eurosat", 10, 27_000, 0, 94 * _MB, _SEE,
                 "https://github.com/phelber/eurosat", "eurosat/2750"),
    NamedDataset("dtd", 47, 3_760, 1_880, 625 * _MB, _SEE, f"{_VGG}/dtd/", "dtd/dtd"),
    NamedDataset("imagenette", 10, 9_469, 3_925, 342 * _MB, _SEE,
                 "https://github.com/fastai/imagenette", "imagenette2-320"),
)  # fmt: skip

#: What ``regraft datasets`` lists.
NAMED: dict[str, NamedDataset] = {dataset.name: dataset for dataset in _TABLE}


def list_datasets() -> list[NamedDataset]:
    """Return all datasets that are known by name."""
    return list(NAMED.values())


def default_data_root() -> Path:
    """Return the folder of datasets and downloads without ``--data-root``."""
    from platformdirs import user_cache_path  # noqa: PLC0415 - only needed here

    return user_cache_path("regraft") / "datasets"


def open_named(data: Data, options: SourceOptions) -> Source | None:
    """Open a dataset by name, and download what is missing; None for other data."""
    if isinstance(data, tuple) or os.fspath(data) not in NAMED:
        return None
    name = os.fspath(data)
    root = default_data_root() if options.data_root is None else Path(options.data_root)
    if name == "digits":
        return _open_digits()
    if name in IDX_SETS:
        return _open_idx(name, root)
    return _from_parts(name, fetch(name, NAMED[name].download, root), root)


def _open_digits() -> Source:
    """Open the 1,797 digits of 8 by 8 pixels that come with scikit-learn; they have no parts."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - half a second

    digits = load_digits()
    # Pixels are 0 to 16; 255 / 16 is exact enough that equal pixels stay equal.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    entries = [Entry(str(i), str(label)) for i, label in enumerate(digits.target.tolist())]
    return Source("named", "digits", entries, partial(read_each, _read, images))


# --- the IDX family --------------------------------------------------------------------------


@dataclass(frozen=True)
class IdxSet:
    """Names of the files of one member of the MNIST family."""

    folder: str  # torchvision's
    images: str  # file name, with {} for the part's name
    labels: str
    parts: dict[Part, str]  # names of the parts in file names
    classes: tuple[str, ...] = tuple("0123456789")
    label_columns: int = 1


_MNIST_PARTS: dict[Part, str] = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"

IDX_SETS: dict[str, IdxSet] = {
    "mnist": IdxSet("MNIST", _IMAGES, _LABELS, _MNIST_PARTS),
    # The class is the first of eight columns; the others say who wrote the digit.
    "qmnist": IdxSet("QMNIST", "qmnist-{}-images-idx3-ubyte", "qmnist-{}-labels-idx2-int",
                     {"train": "train", "test": "test"}, label_columns=8),
    "fashion-mnist": IdxSet(
        "FashionMNIST", _IMAGES, _LABELS, _MNIST_PARTS,
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
         "Bag", "Ankle boot"),
    ),
    "kmnist": IdxSet("KMNIST", _IMAGES, _LABELS, _MNIST_PARTS,
                     ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    # Balanced split: letters with the same shape in both cases are one class.
    "emnist": IdxSet("EMNIST", "emnist-balanced-" + _IMAGES, "emnist-balanced-" + _LABELS,
                     {"train": "train", "test": "test"},
                     tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")),
}  # fmt: skip


def _open_idx(name: str, root: Path) -> Source:
    """Open one of the MNIST family, and download it where it is not there."""
    dataset = IDX_SETS[name]
    notes: list[str] = []
    folder = _find_folder(dataset, root)
    if folder is None and name == "qmnist":
        source = _open_qmnist_test(root)
        if source is not None:
            return source
    if folder is None:
        fetch_idx(name, NAMED[name].download, root, dataset.folder)
        folder = root / dataset.folder / "raw"
    parts: Parts = []
    for part, word in dataset.parts.items():
        images = read_idx(folder / dataset.images.format(word), 3)
        columns = read_idx(folder / dataset.labels.format(word), 1 + (dataset.label_columns > 1))
        labels = _class_column(columns, dataset, folder / dataset.labels.format(word))
        if len(images) != len(labels):
            raise DataError(f"{folder}: {word} has {len(images)} images and {len(labels)} labels")
        if name == "emnist":
            images = images.transpose(0, 2, 1)
        parts.append((part, images, [dataset.classes[label] for label in labels.tolist()]))
    if name == "emnist":
        notes.append("emnist: its files hold the images mirrored at the diagonal; they are read "
                     "upright")  # fmt: skip
    return _from_parts(name, parts, folder, notes)


def _find_folder(dataset: IdxSet, root: Path) -> Path | None:
    """Return the folder that holds all files: the root, or one below it."""
    names = [
        pattern.format(word)
        for word in dataset.parts.values()
        for pattern in (dataset.images, dataset.labels)
    ]
    for folder in (root / dataset.folder / "raw", root / "raw", root):
        if all(find_idx(folder / name) for name in names):
            return folder
    return None


def _class_column(columns: NDArray[Any], dataset: IdxSet, path: Path) -> NDArray[np.int64]:
    """Return the classes as numbers (N,), checked."""
    if dataset.label_columns > 1:
        if columns.shape[1] != dataset.label_columns:
            raise DataError(
                f"{path} has {columns.shape[1]} columns; it must have {dataset.label_columns}"
            )
        columns = columns[:, 0]
    labels = columns.astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(dataset.classes):
        raise DataError(
            f"{path} holds labels from {labels.min()} to {labels.max()}; there are "
            f"{len(dataset.classes)} classes"
        )
    return labels


def _open_qmnist_test(root: Path) -> Source | None:
    """Open QMNIST's first 10,000 test digits, which are MNIST's, where only these are there.

    Their labels are the first rows of QMNIST's test labels. All of them must be MNIST's labels:
    this checks that both files have the same digits.
    """
    qmnist, mnist = IDX_SETS["qmnist"], IDX_SETS["mnist"]
    label_name = qmnist.labels.format("test")
    image_name, check_name = mnist.images.format("t10k"), mnist.labels.format("t10k")
    folders = (root / "QMNIST" / "raw", root / "MNIST" / "raw", root / "raw", root)
    found = {
        name: next((folder / name for folder in folders if find_idx(folder / name)), None)
        for name in (label_name, image_name, check_name)
    }
    label_path, image_path, check_path = found.values()
    if label_path is None or image_path is None or check_path is None:
        return None
    images = read_idx(image_path, 3)
    labels = _class_column(read_idx(label_path, 2), qmnist, label_path)[: len(images)]
    if not np.array_equal(labels, read_idx(check_path, 1)):
        raise DataError(
            f"{label_path} and {check_path} are not labels of the same digits",
            hint=f"put QMNIST's own images into {root / 'QMNIST' / 'raw'}",
        )
    note = (
        f"qmnist: only a test part of {len(images)} is here: MNIST's test images, which are "
        f"QMNIST's first ones, with QMNIST's labels (all agree with MNIST's)"
    )
    named = [qmnist.classes[label] for label in labels.tolist()]
    return _from_parts("qmnist", [("test", images, named)], image_path.parent, [note])


# --- from parts to a source ------------------------------------------------------------------


def _from_parts(name: str, parts: Parts, root: Path, notes: Sequence[str] = ()) -> Source:
    """Make a source of parts: ids of files are their paths below the root, of pixels "train/0"."""
    entries: list[Entry] = []
    items: list[str | NDArray[np.uint8]] = []
    for part, images, labels in parts:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            identifier = str(number) if part is None else f"{part}/{number}"
            if isinstance(image, str | Path):
                identifier = Path(os.path.relpath(image, root)).as_posix()
                image = str(image)  # noqa: PLW2901 - the same image, as it is opened
            entries.append(Entry(identifier, label, part))
            items.append(image)
    return Source("named", name, entries, partial(read_each, _read, items),
                  notes=(f"{name} is read from {root}", *notes))  # fmt: skip


def _read(item: str | NDArray[np.uint8]) -> Payload:
    """Read a file, or return pixels as they are."""
    return read_file(item) if isinstance(item, str) else item
