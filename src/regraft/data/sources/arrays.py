"""Images and labels in Python: arrays, tensors, PIL images, encoded bytes, files and paths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regraft.data.labels import merged_note
from regraft.data.names import normalise
from regraft.data.samples import Entry, Source
from regraft.data.sources.given import images_of, payload_of
from regraft.data.sources.stream import read_each
from regraft.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.data.sources.options import Data, SourceOptions
    from regraft.images.payload import Payload


def open_arrays(data: Data, options: SourceOptions) -> Source | None:
    """Open ``(images, labels)``; None for other data. The images are not copied.

    Images: in any form of ``given.Images``. Labels: N integers or texts. A class is ``str(label)``;
    classes are sorted as text, so "10" comes before "9".
    """
    if not isinstance(data, tuple):
        return None
    if len(data) != 2:
        raise DataError(
            f"the data are a tuple of {len(data)}; it must be one of two: images and labels",
            hint="pass (images, labels)",
        )
    images, given = images_of(data[0]), _listed(data[1])
    labels = _check_labels(given)
    if len(images) != len(labels):
        raise DataError(f"there are {len(images)} images and {len(labels)} labels")
    if not labels:
        raise DataError("there are no images")
    notes = merged_note((str(label), name) for label, name in zip(given, labels, strict=True))
    source = open_some(images, np.arange(len(images)), labels, options.max_pixels)
    return replace(source, notes=notes)


def open_some(
    images: NDArray[Any] | list[Any], chosen: NDArray[np.intp], labels: list[str], max_pixels: int
) -> Source:
    """Open some of the images, by their numbers among all, with the label of each; no copies."""
    entries = [Entry(str(at), label) for at, label in zip(chosen, labels, strict=True)]
    # Pillow reads a file when its pixels are first asked for, and an image may be listed twice.
    locks = {id(image): Lock() for image in images if isinstance(image, Image.Image)}

    def read(number: int) -> Payload:
        image = images[number]
        with locks.get(id(image), nullcontext()):
            return payload_of(image, max_pixels)

    return Source("arrays", "arrays", entries, partial(read_each, read, chosen.tolist()))


def _listed(given: Any) -> list[Any]:
    labels = given.tolist() if hasattr(given, "tolist") else given
    # The letters of a text and the keys of a dictionary are not meant; a set has no order.
    is_other = isinstance(labels, str | bytes | Mapping | AbstractSet)
    if is_other or not isinstance(labels, Iterable):
        raise DataError(
            f"the labels are of type {type(given).__name__}",
            hint="pass a list or an array with the label of each image",
        )
    return list(labels)


def _check_labels(labels: list[Any]) -> list[str]:
    """Return the labels as text."""
    names: list[str] = []
    first: dict[str, int] = {}
    for number, label in enumerate(labels):
        if isinstance(label, float) and not math.isnan(label):
            raise DataError(
                f"label {number} is {label!r}, which is not a class",
                hint="labels are whole numbers or text: labels.astype(int)",
            )
        if isinstance(label, np.integer | np.str_):
            label = label.item()  # noqa: PLW2901 - the same label, as Python has it
        if not isinstance(label, str | int) or label == "":
            raise DataError(
                f"label {number} is {label!r}, which is not a class",
                hint="one image has one class here: one whole number or one text for each image",
            )
        name = normalise(str(label))
        earlier = first.setdefault(name, number)
        if isinstance(label, str) != isinstance(labels[earlier], str):
            raise DataError(
                f"labels {earlier} and {number} are {labels[earlier]!r} and {label!r}, which "
                "would be one class",
                hint="write all labels in one way: [str(label) for label in labels]",
            )
        names.append(name)
    return names
