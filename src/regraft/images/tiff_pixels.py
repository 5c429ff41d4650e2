"""Read TIFFs that Pillow reads wrongly or not at all, as grey TIFFs.

Pillow reads TIFFs of 16 bits in separate planes as noise, refuses grey of 16 bits with alpha, and
some byte orders. All of these are read as one or several plain grey TIFFs over the same strips or
tiles: one for each plane, or one that is as wide as all samples of a row.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regraft.errors import ImageError
from regraft.images.colours import to_8_bits
from regraft.images.tiff import pieces_of_plane, pixel_tags, rewrite
from regraft.images.tiff_layout import COLOURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from regraft.images.tiff_layout import TiffLayout

_PREDICTED = {5, 8, 32946, 50000}  # LZW, deflate, Zstandard: those with a predictor
_MODES = {("grey", False): "L", ("grey", True): "LA", ("RGB", False): "RGB", ("RGB", True): "RGBA",
          ("CMYK", False): "CMYK", ("YCbCr", False): "YCbCr"}  # fmt: skip


def read_by_planes(layout: TiffLayout, read_grey: Callable[[bytes], NDArray[Any]]) -> Image.Image:
    """Return the image, not yet turned; ``read_grey`` decodes a TIFF of one channel to (H, W)."""
    samples = read_samples(layout, read_grey)
    n_colours = COLOURS[layout.photometric][1]
    if samples.shape[2] < n_colours:
        raise ImageError("corrupt", f"a {layout}")
    alpha = layout.extra[0] if layout.extra and samples.shape[2] > n_colours else 0
    kept = samples[:, :, : n_colours + (alpha in {1, 2})]
    grey = layout.colours == "grey"
    if grey and kept.shape[2] == 1:
        kept = to_8_bits(kept, layout.bits)
    elif layout.bits == 16:
        kept = kept >> 8
    kept = kept.astype(np.uint8)
    if grey and layout.photometric == 0:
        kept[:, :, 0] = 255 - kept[:, :, 0]
    mode = _MODES.get((layout.colours, alpha in {1, 2}))
    if mode is None:
        raise ImageError("unsupported pixels", f"{layout} with alpha")
    if alpha == 1:
        mode = mode[:-1] + "a"
    if mode == "YCbCr" and layout.directory.integers(layout.data, 530) != (1, 1):
        raise ImageError("unsupported pixels", f"{layout} of different sizes")
    height, width = kept.shape[:2]
    return Image.frombytes(mode, (width, height), kept.tobytes())


def read_samples(layout: TiffLayout, read_grey: Callable[[bytes], NDArray[Any]]) -> NDArray[Any]:
    """Return the stored samples (H, W, C): bytes, or 16 bits in the machine's order."""
    if layout.planar:
        planes = [read_grey(_grey_file(layout, at)) for at in range(layout.samples)]
        return np.stack(planes, axis=2)
    rows = read_grey(_grey_file(layout, None))
    samples = rows.reshape(len(rows), -1, layout.samples)
    if layout.samples > 1 and _is_predicted(layout):
        across = layout.directory.integer(layout.data, 322) or samples.shape[1]
        samples = samples.astype(np.uint16)
        for left in range(0, samples.shape[1], across):
            tile = samples[:, left : left + across]
            np.cumsum(tile, axis=1, out=tile)
    return samples


def _is_predicted(layout: TiffLayout) -> bool:
    predictor = layout.directory.integer(layout.data, 317)
    return predictor == 2 and layout.compression in _PREDICTED


def _grey_file(layout: TiffLayout, plane: int | None) -> bytes:
    """Return a TIFF of one channel: one of the planes, or all samples of a row beside each other.

    ``plane`` is None for samples that are stored pixel by pixel.
    """
    data, directory = layout.data, layout.directory
    tags = pixel_tags(data, directory)
    order = directory.order
    values = {tag: directory.integers(data, tag) for tag in tags}

    def put(tag: int, *numbers: int) -> None:
        tags[tag] = (4, len(numbers), struct.pack(f"{order}{len(numbers)}L", *numbers))

    if layout.bits == 12:  # packed alike in both orders, of which Pillow knows one
        order = "<"
        for tag, numbers in values.items():
            put(tag, *numbers)
    if plane is not None:
        each = pieces_of_plane(data, directory)
        for tag in (273, 279, 324, 325):
            if tag in values:
                put(tag, *values[tag][plane * each : (plane + 1) * each])
    elif layout.samples > 1:
        put(256, values[256][0] * layout.samples)
        if 322 in values:
            put(322, values[322][0] * layout.samples)
        tags.pop(317, None)  # the predictor's step is one pixel
    for tag in (284, 338, 339, 529, 530, 531, 532):
        tags.pop(tag, None)
    short = {258: layout.bits, 262: 1, 277: 1}
    tags |= {tag: (3, 1, struct.pack(order + "H", value)) for tag, value in short.items()}
    return rewrite(data, order, tags)
