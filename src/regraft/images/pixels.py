"""Pixels that are decoded already: arrays and tensors become uint8, grey or RGB, channels last.

========================  ==========================================================================
given                     pixels
========================  ==========================================================================
uint8                     as they are
bool                      0 or 255
floating point, 0 to 1    times 255, rounded
four channels             RGBA, composited on white as the decoder does
one channel               grey
tensor                    channels first or last; an array has its channels last
all else                  refused: black, white or the colours are not defined
========================  ==========================================================================
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regraft.errors import ImageError
from regraft.images.decode import decode_opened, image_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHANNELS = (1, 3, 4)


def is_pixels(given: object) -> bool:
    """Return whether an object is an array, a tensor, or another that numpy makes an array of."""
    return hasattr(given, "__array__")


def as_array(given: Any, *, several: bool = False) -> NDArray[Any]:
    """Return one image, or ``several`` in one, as an array with its channels last; not a copy.

    Raises ImageError if type, shape or range of the pixels are none of the table above.

    Examples
    --------
    >>> as_array(np.zeros((2, 3, 4), np.uint8)).shape
    (2, 3, 4)
    """
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)  # no tensor without the import
    if tensor is not None and isinstance(given, tensor):
        array = _channels_last(_from_tensor(given), several=several)
    else:
        array = np.asarray(given)
    _check_type(array)
    _check_shape(array, several=several)
    return array


def to_pixels(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    """Return an image of ``as_array`` as uint8 (H, W) or (H, W, 3).

    ``max_pixels`` limits height times width, and is checked before memory is allocated.

    Examples
    --------
    >>> to_pixels(np.array([[0.0, 0.5, 1.0]]), max_pixels=9).tolist()
    [[0, 128, 255]]
    >>> to_pixels(np.zeros((1, 1, 4), np.uint8), max_pixels=9).tolist()  # transparent
    [[[255, 255, 255]]]
    """
    image_size(np.broadcast_to(np.uint8(0), array.shape[:2]), max_pixels)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8:
        scaled = array.astype(np.float32) if array.dtype.itemsize < 4 else array
        array = (scaled * 255).round().astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 4:
        return decode_opened(Image.fromarray(np.ascontiguousarray(array)), max_pixels)
    return array


def shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a picture of an image (H, W, 3) with no side longer than ``side``; none grows.

    Examples
    --------
    >>> shrunk(np.zeros((30, 60, 3), np.uint8), 20).shape
    (10, 20, 3)
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _from_tensor(tensor: Any) -> NDArray[Any]:
    """Return a tensor's values; those without a type in numpy as float32."""
    try:
        values = tensor.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        array: NDArray[Any] = values.numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, nested, no memory
        reason = str(error).partition("\n")[0]
        raise ImageError(
            "unsupported pixels", f"a tensor that is no dense array: {reason}"
        ) from None
    return array


def _channels_last(array: NDArray[Any], *, several: bool) -> NDArray[Any]:
    """Move the channels of a tensor to the end, wherever they are clear."""
    if array.ndim != 3 + several:
        return array
    first, last = array.shape[several] in _CHANNELS, array.shape[-1] in _CHANNELS
    if first and last:
        raise ImageError(
            "unsupported pixels",
            f"a tensor of shape {array.shape}, whose channels may come first or last; "
            "tensor.permute(...).numpy() with the channels last",
        )
    return np.moveaxis(array, several, -1) if first else array


def _check_type(array: NDArray[Any]) -> None:
    if array.dtype in {np.dtype(np.uint8), np.dtype(np.bool_)}:
        return
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(
            "unsupported pixels",
            f"pixels of type {array.dtype}; they must be uint8 from 0 to 255, or floating point "
            "from 0 to 1",
        )
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # also of NaN
        raise ImageError(
            "unsupported pixels",
            f"{array.dtype} pixels from {low:.6g} to {high:.6g}; floating point must be from 0 to "
            "1; of values from 0 to 255, images.round().astype('uint8')",
        )


def _check_shape(array: NDArray[Any], *, several: bool) -> None:
    shape = array.shape[several:]
    if array.ndim > several and (len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS)):
        return
    form = "(H, W), or (H, W, C) with 1, 3 or 4 channels (RGBA)"
    what = f"images of shape {array.shape}; each" if several else f"shape {array.shape}; an image"
    if len(shape) == 3 and shape[0] in _CHANNELS:
        form += ": numpy.moveaxis(images, -3, -1) puts the channels last"
    raise ImageError("unsupported pixels", f"{what} must be {form}")
