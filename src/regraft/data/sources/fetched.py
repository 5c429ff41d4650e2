"""Datasets that torchvision reads and downloads, each turned into parts of images and labels.

torchvision compares the published MD5 of what it downloads. CIFAR comes as Python pickles, the one
exception to the rule that regraft unpickles nothing: torchvision compares the published MD5 of
every file before it loads it, and this module has no way around that.

Images in files are returned as paths, so that the encoded bytes are hashed and decoded like those
of any other source. Labels are names, from the folder or the file that has them: torchvision's
numbers of the classes differ between the parts of some datasets.
"""

from __future__ import annotations

import http.client
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from regraft.core.transfers import LARGEST_TEXT, Allowance, bounded_urllib
from regraft.data.samples import Part
from regraft.data.sources.downloads import download_errors, reason_of
from regraft.errors import DataError

#: For each part: images, as an array (N, H, W) or (N, H, W, 3) or N paths, and N names of classes.
Parts: TypeAlias = list[tuple[Part | None, Iterable[Any], list[str]]]

Result = TypeVar("Result")

_FAILURES = (
    OSError,  # also urllib's: no network, no such host, a status of 404
    http.client.HTTPException,
    RuntimeError,  # torchvision's "not found or corrupted"
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    ValueError,  # metadata that cannot be parsed
    LookupError,
)


def _with_torchvision(
    name: str, size: int, root: Path, folder: str, make: Callable[[Any], Result]
) -> Result:
    """Return ``make(torchvision.datasets)``; ``folder`` is that of the dataset's files in the root.

    ``size`` is that of the download, roughly, in bytes. torchvision tries a second address where
    one fails, so more than twice the size is refused. torchvision takes seconds to import: only a
    dataset that it has to read loads it.
    """
    from regraft.core.torchvision_shim import torchvision  # noqa: PLC0415 - see above

    def explain(error: Exception) -> DataError:
        return DataError(
            f"{name} is not complete in {root / folder}, and could not be downloaded: "
            f"{reason_of(error)}",
            hint=f"put its files into {root / folder}; `data_root` names another folder",
        )

    with (
        download_errors(f"{name} in {root}", "`data_root`", _FAILURES, explain),
        bounded_urllib(Allowance(2 * size + LARGEST_TEXT)),
        redirect_stdout(sys.stderr),  # some versions print; stdout is for data
    ):
        return make(torchvision.datasets)


def fetch(name: str, size: int, root: Path) -> Parts:
    """Return the parts of a dataset of ``FETCHED``, and download what is missing below the root."""
    folder, read = FETCHED[name]
    return _with_torchvision(name, size, root, folder, lambda datasets: read(datasets, str(root)))


def fetch_idx(name: str, size: int, root: Path, folder: str) -> None:
    """Download one of the MNIST family into ``root/folder/raw``."""

    def make(datasets: Any) -> None:
        choice = {"split": "balanced"} if folder == "EMNIST" else {}
        for train in (True, False):
            getattr(datasets, folder)(str(root), train=train, download=True, **choice)

    _with_torchvision(name, size, root, f"{folder}/raw", make)


def _read_files(
    torchvision_name: str,
    parts: dict[str, Part],
    files: str,
    label: Callable[[Any, int, Path], str],
    datasets: Any,
    root: str,
) -> Parts:
    """Return the parts of a dataset whose images are files.

    ``files`` is the attribute that holds their paths: torchvision has no public one. Tests that
    open imitated files fail where its name changes.
    """
    found: Parts = []
    for split, part in parts.items():
        arguments: dict[str, Any] = {"split": split}
        if torchvision_name == "Imagenette":
            arguments["size"] = "320px"  # enough for networks of 224 pixels
        dataset = getattr(datasets, torchvision_name)(root, download=True, **arguments)
        # torchvision has paths in some datasets, and (path, number) in others
        listed = [each if isinstance(each, tuple) else (each,) for each in getattr(dataset, files)]
        paths = [Path(path) for path, *_ in listed]
        labels = [label(dataset, number, path) for number, path in enumerate(paths)]
        found.append((part, paths, labels))
    return found


def _read_eurosat(datasets: Any, root: str) -> Parts:
    paths = [Path(path) for path, _ in datasets.EuroSAT(root, download=True).samples]
    return [(None, paths, [path.parent.name for path in paths])]


def _read_cifar(torchvision_name: str, datasets: Any, root: str) -> Parts:
    found: Parts = []
    for split, part in _TRAIN_TEST.items():
        dataset = getattr(datasets, torchvision_name)(root, split == "train", download=True)
        labels = [dataset.classes[target] for target in dataset.targets]
        found.append((part, np.ascontiguousarray(dataset.data), labels))
    return found


def _read_channels_first(torchvision_name: str, datasets: Any, root: str) -> Parts:
    """Return the parts of SVHN or STL10, whose pixels are (N, 3, H, W)."""
    found: Parts = []
    for split, part in _TRAIN_TEST.items():
        dataset = getattr(datasets, torchvision_name)(root, split, download=True)
        names = getattr(dataset, "classes", None) or [str(n) for n in range(10)]
        labels = [names[target] for target in dataset.labels.tolist()]
        # A view: hashing and decoding make each image contiguous.
        found.append((part, dataset.data.transpose(0, 2, 3, 1), labels))
    return found


def _by_folder(dataset: Any, number: int, path: Path) -> str:  # noqa: ARG001
    return path.parent.name


def _by_breed(dataset: Any, number: int, path: Path) -> str:  # noqa: ARG001
    return path.stem.rpartition("_")[0].replace("_", " ")


def _by_number(dataset: Any, number: int, path: Path) -> str:  # noqa: ARG001
    return str(dataset.classes[dataset._labels[number]])  # noqa: SLF001 - there is no public one


def _by_wnid(dataset: Any, number: int, path: Path) -> str:  # noqa: ARG001
    return str(dataset.classes[dataset.wnids.index(path.parent.name)][0])


_PARTS: dict[str, Part] = {"train": "train", "val": "val", "test": "test"}
_TRAIN_TEST: dict[str, Part] = {"train": "train", "test": "test"}
_PETS: dict[str, Part] = {"trainval": "train", "test": "test"}
_TRAIN_VAL: dict[str, Part] = {"train": "train", "val": "val"}

#: Folder of each dataset below the root, and the function of ``torchvision.datasets`` and the root
#: that reads it and downloads what is missing.
FETCHED: dict[str, tuple[str, Callable[[Any, str], Parts]]] = {
    "cifar10": ("cifar-10-batches-py", partial(_read_cifar, "CIFAR10")),
    "cifar100": ("cifar-100-python", partial(_read_cifar, "CIFAR100")),
    "svhn": ("", partial(_read_channels_first, "SVHN")),
    "stl10": ("stl10_binary", partial(_read_channels_first, "STL10")),
    "flowers102": (
        "flowers-102",
        partial(_read_files, "Flowers102", _PARTS, "_image_files", _by_number),
    ),
    "food101": (
        "food-101",
        partial(_read_files, "Food101", _TRAIN_TEST, "_image_files", _by_folder),
    ),
    "oxford-pets": (
        "oxford-iiit-pet",
        partial(_read_files, "OxfordIIITPet", _PETS, "_images", _by_breed),
    ),
    "eurosat": ("eurosat/2750", _read_eurosat),
    "dtd": ("dtd/dtd", partial(_read_files, "DTD", _PARTS, "_image_files", _by_folder)),
    "imagenette": (
        "imagenette2-320",
        partial(_read_files, "Imagenette", _TRAIN_VAL, "_samples", _by_wnid),
    ),
}
