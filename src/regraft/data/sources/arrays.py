"""Arrays in Python: images and labels in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from regraft.data.samples import Entry, Source
from regraft.data.sources.layout import normalise
from regraft.data.sources.stream import read_each
from regraft.errors import DataError

if TYPE_CHECKING:
    from regraft.data.sources.options import Data, SourceOptions

#: One array (N, H, W) or (N, H, W, 3), or N arrays (H, W) or (H, W, 3); uint8.
Images: TypeAlias = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


def open_arrays(data: Data, options: SourceOptions) -> Source | None:  # noqa: ARG001
    """Open ``(images, labels)``; None for other data. The images are not copied.

    Images: uint8, one array (N, H, W) or (N, H, W, 3), or N arrays of any sizes. Labels: N integers
    or texts. A class is ``str(label)``; classes are sorted as text, so "10" comes before "9".
    """
    if not isinstance(data, tuple):
        return None
    if len(data) != 2:
        raise DataError(
            f"the data are a tuple of {len(data)}; it must be one of two: images and labels",
            hint="pass (images, labels)",
        )
    images = _check_images(data[0])
    labels = _check_labels(data[1])
    if len(images) != len(labels):
        raise DataError(f"there are {len(images)} images and {len(labels)} labels")
    if not labels:
        raise DataError("there are no images")
    entries = [Entry(str(number), label) for number, label in enumerate(labels)]
    return Source(
        "arrays", "arrays", entries, partial(read_each, images.__getitem__, range(len(images)))
    )


def _check_images(given: Any) -> Images:
    """Return the images as one array, or as a list of arrays."""
    if not isinstance(given, list | tuple):
        images = np.asarray(given)
        if images.dtype != object:
            _check_pixels(images.dtype, images.shape[1:], images.shape)
            return images
        given = list(images) if images.ndim else []
    arrays = [np.asarray(image) for image in given]
    for number, image in enumerate(arrays):
        _check_pixels(image.dtype, image.shape, image.shape, f"image {number}")
    return arrays


def _check_pixels(
    dtype: np.dtype[Any], shape: tuple[int, ...], shown: tuple[int, ...], what: str = "the images"
) -> None:
    hint: str | None = "pixels are 0 to 255 in uint8"
    if dtype != np.uint8:
        if np.issubdtype(dtype, np.floating):
            hint = ("values from 0 to 1: (images * 255).round().astype('uint8'); "
                    "values from 0 to 255: images.round().astype('uint8')")  # fmt: skip
        raise DataError(f"{what} of type {dtype} cannot be used; it must be uint8", hint=hint)
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return
    hint = None
    if len(shape) == 3 and shape[0] in {1, 3}:
        hint = "channels come last: numpy.moveaxis(images, -3, -1)"
    if len(shape) == 3 and shape[2] == 1:
        hint = "grey images have no channel axis: images[..., 0]"
    raise DataError(
        f"{what} of shape {shown} cannot be used; each image must be (H, W) or (H, W, 3)", hint=hint
    )


def _check_labels(given: Any) -> list[str]:
    """Return the labels as text."""
    labels = given.tolist() if hasattr(given, "tolist") else list(given)
    names = []
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
                hint="one whole number or one text for each image",
            )
        names.append(normalise(str(label)))
    return names
