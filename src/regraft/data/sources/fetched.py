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
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

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


def _with_torchvision(name: str, root: Path, folder: str, make: Callable[[Any], Result]) -> Result:
    """Return ``make(torchvision.datasets)``; ``folder`` is that of the dataset's files in the root.

    torchvision takes seconds to import: only a dataset that it has to read loads it.
    """
    from regraft.core.torchvision_shim import torchvision  # noqa: PLC0415 - see above

    def download_error(error: Exception) -> DataError:
        return DataError(
            f"{name} is not complete in {root / folder}, and could not be downloaded: "
            f"{reason_of(error)}",
            hint=f"put its files into {root / folder}, or choose another folder with --data-root",
        )

    with (
        download_errors(f"{name} in {root}", "--data-root", _FAILURES, download_error),
        redirect_stdout(sys.stderr),  # some versions print; stdout is for data
    ):
        return make(torchvision.datasets)


def fetch_idx(name: str, root: Path, folder: str) -> None:
    """Download one of the MNIST family into ``root/folder/raw``."""

    def make(datasets: Any) -> None:
        choice = {"split": "balanced"} if folder == "EMNIST" else {}
        for train in (True, False):
            getattr(datasets, folder)(str(root), train=train, download=True, **choice)

    _with_torchvision(name, root, f"{folder}/raw", make)


def _of_files(
    torchvision_name: str,
    folder: str,
    parts: dict[str, Part],
    files: str,
    label: Callable[[Any, int, Path], str],
) -> Callable[[str, Path], Parts]:
    """Return the function that fetches a dataset whose images are files.

    ``files`` is the attribute that holds their paths: torchvision has no public one. Tests that
    open imitated files fail where its name changes.
    """

    def fetch(name: str, root: Path) -> Parts:
        def make(datasets: Any) -> Parts:
            opened: Parts = []
            for split, part in parts.items():
                arguments: dict[str, Any] = {"split": split}
                if torchvision_name == "Imagenette":
                    arguments["size"] = "320px"  # enough for networks of 224 pixels
                dataset = getattr(datasets, torchvision_name)(str(root), download=True, **arguments)
                paths = [Path(file) for file, *_ in _pairs(getattr(dataset, files))]
                labels = [label(dataset, number, path) for number, path in enumerate(paths)]
                opened.append((part, paths, labels))
            return opened

        return _with_torchvision(name, root, folder, make)

    return fetch


def _pairs(files: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return a tuple for each file: torchvision has paths in some datasets, else (path, number)."""
    return [file if isinstance(file, tuple) else (file,) for file in files]


def _eurosat(name: str, root: Path) -> Parts:
    def make(datasets: Any) -> Parts:
        samples = datasets.EuroSAT(str(root), download=True).samples
        paths = [Path(file) for file, _ in samples]
        return [(None, paths, [path.parent.name for path in paths])]

    return _with_torchvision(name, root, "eurosat/2750", make)


def _cifar(torchvision_name: str, folder: str) -> Callable[[str, Path], Parts]:
    """Return the function that fetches one of the CIFARs."""

    def fetch(name: str, root: Path) -> Parts:
        def make(datasets: Any) -> Parts:
            opened: Parts = []
            for part, train in (("train", True), ("test", False)):
                dataset = getattr(datasets, torchvision_name)(str(root), train, download=True)
                labels = [dataset.classes[target] for target in dataset.targets]
                opened.append((_PARTS[part], np.ascontiguousarray(dataset.data), labels))
            return opened

        return _with_torchvision(name, root, folder, make)

    return fetch


def _channels_first(torchvision_name: str, folder: str) -> Callable[[str, Path], Parts]:
    """Return the function that fetches SVHN or STL10, whose pixels are (N, 3, H, W)."""

    def fetch(name: str, root: Path) -> Parts:
        def make(datasets: Any) -> Parts:
            opened: Parts = []
            for split in ("train", "test"):
                dataset = getattr(datasets, torchvision_name)(str(root), split, download=True)
                names = getattr(dataset, "classes", None) or [str(n) for n in range(10)]
                labels = [names[target] for target in dataset.labels.tolist()]
                # A view: hashing and decoding make each image contiguous.
                opened.append((_PARTS[split], dataset.data.transpose(0, 2, 3, 1), labels))
            return opened

        return _with_torchvision(name, root, folder, make)

    return fetch


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

#: Functions ``(name, root)`` that read a dataset below a root, and download what is missing.
FETCHED: dict[str, Callable[[str, Path], Parts]] = {
    "cifar10": _cifar("CIFAR10", "cifar-10-batches-py"),
    "cifar100": _cifar("CIFAR100", "cifar-100-python"),
    "svhn": _channels_first("SVHN", ""),
    "stl10": _channels_first("STL10", "stl10_binary"),
    "flowers102": _of_files("Flowers102", "flowers-102", _PARTS, "_image_files", _by_number),
    "food101": _of_files("Food101", "food-101", _TRAIN_TEST, "_image_files", _by_folder),
    "oxford-pets": _of_files(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        {"trainval": "train", "test": "test"},
        "_images",
        _by_breed,
    ),
    "eurosat": _eurosat,
    "dtd": _of_files("DTD", "dtd/dtd", _PARTS, "_image_files", _by_folder),
    "imagenette": _of_files(
        "Imagenette", "imagenette2-320", {"train": "train", "val": "val"}, "_samples", _by_wnid
    ),
}
