"""Datasets that torchvision reads and downloads, each turned into parts of images and labels.

torchvision checks the published MD5 of what it downloads. CIFAR comes as Python pickles, the one
exception to the rule that nothing here unpickles: torchvision compares the published MD5 of every
file before it loads it, and this module offers no way around that.

Images that lie in files are handed on as paths, so that the encoded bytes are hashed and decoded
like anybody else's. Labels are taken as names, from the folder or the file where they stand there:
torchvision numbers the classes of some datasets anew in each part.
"""

from __future__ import annotations

import errno
import http.client
import importlib
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from regraft.data.samples import Part
from regraft.errors import DataError, DiskFullError

#: For each part its images (an array of pixels, or paths of files) and the names of their classes.
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


def _with_torchvision(name: str, root: Path, place: str, make: Callable[[Any], Result]) -> Result:
    """Call ``make(torchvision.datasets)``; what fails becomes an error that says where and what.

    torchvision is behind the shim of the backbones' room, to which nothing here may point: it is
    imported by name, when a dataset is asked for that only torchvision reads. It takes seconds.
    """
    datasets = importlib.import_module("regraft.core.torchvision_shim").torchvision.datasets
    try:
        with redirect_stdout(sys.stderr):  # some versions print; stdout is for data
            return make(datasets)
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"no space left for {name} below {root}", hint="name another place: --data-root"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name} is not complete in {root / place}, and could not be downloaded: {reason}",
            hint=f"put its files into {root / place}, or say with --data-root where they lie",
        ) from error


def fetch_idx(name: str, root: Path, folder: str) -> None:
    """Download one of the MNIST family into ``root/folder/raw``.

    Raises
    ------
    DataError
        Where that fails; it says what was tried and where the files would have to lie.
    """

    def make(datasets: Any) -> None:
        choice = {"split": "balanced"} if folder == "EMNIST" else {}
        for train in (True, False):
            getattr(datasets, folder)(str(root), train=train, download=True, **choice)

    _with_torchvision(name, root, f"{folder}/raw", make)


def _of_files(
    torchvision_name: str,
    place: str,
    parts: dict[str, Part],
    files: str,
    label: Callable[[Any, int, Path], str],
) -> Callable[[str, Path], Parts]:
    """Make an opener of a dataset whose images are files.

    ``files`` is the attribute that holds their paths: torchvision has no public one. A test opens
    what can be made up without the original files, so a change of the name is noticed there.
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

        return _with_torchvision(name, root, place, make)

    return fetch


def _pairs(files: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return paths and (path, number) pairs alike as tuples."""
    return [file if isinstance(file, tuple) else (file,) for file in files]


def _eurosat(name: str, root: Path) -> Parts:
    def make(datasets: Any) -> Parts:
        samples = datasets.EuroSAT(str(root), download=True).samples
        paths = [Path(file) for file, _ in samples]
        return [(None, paths, [path.parent.name for path in paths])]

    return _with_torchvision(name, root, "eurosat/2750", make)


def _cifar(torchvision_name: str, place: str) -> Callable[[str, Path], Parts]:
    def fetch(name: str, root: Path) -> Parts:
        def make(datasets: Any) -> Parts:
            opened: Parts = []
            for part, train in (("train", True), ("test", False)):
                dataset = getattr(datasets, torchvision_name)(str(root), train, download=True)
                labels = [dataset.classes[target] for target in dataset.targets]
                opened.append((_PARTS[part], np.ascontiguousarray(dataset.data), labels))
            return opened

        return _with_torchvision(name, root, place, make)

    return fetch


def _channels_first(torchvision_name: str, place: str) -> Callable[[str, Path], Parts]:
    """Make an opener of SVHN and STL10, whose pixels are (N, 3, H, W)."""

    def fetch(name: str, root: Path) -> Parts:
        def make(datasets: Any) -> Parts:
            opened: Parts = []
            for split in ("train", "test"):
                dataset = getattr(datasets, torchvision_name)(str(root), split, download=True)
                names = getattr(dataset, "classes", None) or [str(n) for n in range(10)]
                labels = [names[target] for target in dataset.labels.tolist()]
                # A view: each image becomes contiguous when it is hashed or decoded.
                opened.append((_PARTS[split], dataset.data.transpose(0, 2, 3, 1), labels))
            return opened

        return _with_torchvision(name, root, place, make)

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

#: Opens a dataset of that name below a root, downloading it where it is not there.
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
