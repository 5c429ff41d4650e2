"""Decode with Pillow, by the format: what it reads wrongly alone is read with its help here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from regraft.core.memory import lacks_memory
from regraft.errors import ImageError, MemoryShortError
from regraft.images.colours import rgb_of, whiten_key
from regraft.images.png import png_is_short
from regraft.images.tiff_pixels import read_by_planes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from regraft.images.header import Header

_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
# None, the faxes, LZW, JPEG, deflate and PackBits: what every build of libtiff has.
_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}

#: What decoders raise, found with mutated files; ``image_error`` says what it means.
DAMAGE = (
    OSError,  # most of Pillow; UnidentifiedImageError
    SyntaxError,  # Pillow: wrong format
    ValueError,  # also UnicodeError, and all of simplejpeg
    TypeError,
    AttributeError,
    LookupError,  # IndexError, KeyError
    ArithmeticError,  # ZeroDivisionError, OverflowError
    AssertionError,
    BufferError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


#: The kind of an error, by words in Pillow's message.
_KINDS = {"truncated": "truncated", "unknown pixel mode": "unsupported pixels",
          "unknown data organization": "unsupported pixels", "unsupported": "unsupported format",
          "not yet supported": "unsupported format"}  # fmt: skip


def decode_by_pillow(header: Header) -> NDArray[np.uint8]:
    """Decode to RGB (H, W, 3), not yet turned."""
    try:
        return _READERS.get(header.format, _open)(header)
    except DAMAGE as error:
        raise image_error(header.format, error) from None


def image_error(what: str, error: Exception) -> ImageError | MemoryShortError:
    """Return the error for what a decoder raised: a lack of memory is no damage to the file."""
    if isinstance(error, ImageError):
        return error
    if lacks_memory(error):
        return MemoryShortError(
            f"there is not enough memory to decode an image ({what})",
            hint="fewer `workers` decode fewer images at a time",
        )
    reason = f"{what}: {' '.join(str(error).split()) or type(error).__name__}"
    for words, kind in _KINDS.items():
        if words in reason.lower():
            return ImageError(kind, reason)
    return ImageError("corrupt", reason)


def _open(header: Header) -> NDArray[np.uint8]:
    with _load(header, header.strip_metadata()) as image:
        return rgb_of(image)


def _load(header: Header, data: bytes, raw_mode: str | None = None) -> ImageFile.ImageFile:
    """Return the loaded image, of the size in the header."""
    image = _PLUGINS[header.format](io.BytesIO(data))
    if header.crop is None:
        _need_size(header, *image.size)
    if raw_mode is not None:
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    image.load()
    return image


def _need_size(header: Header, width: int, height: int) -> None:
    if (width, height) != (header.width, header.height):
        raise ImageError(
            "corrupt",
            f"{header.format} with two sizes: {(width, height)}, {(header.width, header.height)}",
        )


def _png(header: Header) -> NDArray[np.uint8]:
    data = header.strip_metadata()
    with _load(header, data) as image:
        if _may_be_short(image) and png_is_short(data):
            raise ImageError("truncated", "PNG: fewer pixels than its header says")
        if not header.colour_key:
            return rgb_of(image)
        image.info.pop("transparency", None)  # Pillow compares it with values that it has scaled
        pixels = rgb_of(image)
        if image.mode.startswith("I;16"):
            stored = np.asarray(image)[:, :, None]
            key = header.colour_key
        elif header.has_16_bits:  # Pillow keeps the high byte; read the low one, too
            with _load(header, data, "RGB;16L") as low:
                stored = np.concatenate([pixels, np.asarray(low)], axis=2)
            key = tuple(value >> 8 for value in header.colour_key)
            key += tuple(value & 255 for value in header.colour_key)
        else:
            stored = pixels[:, :, : len(header.colour_key)]
            largest = (1 << data[24]) - 1
            key = tuple(value * 255 // largest for value in header.colour_key)
        whiten_key(pixels, stored, key)
    return pixels


def _tiff(header: Header) -> NDArray[np.uint8]:
    def read_grey(data: bytes) -> NDArray[Any]:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as image:
            image.load()
            return np.asarray(image)

    layout = header.layout
    try:
        if layout is None or not layout.is_read_by_planes:
            return _open(header)
        image = read_by_planes(layout, read_grey)
    except DAMAGE as error:
        if layout is not None and layout.compression not in _COMPRESSIONS:
            # libtiff has many that are optional, and says no more than "decoder error".
            what = f"TIFF with compression {layout.compression}, which Pillow may not read here"
            raise ImageError("unsupported format", what) from None
        if "unknown pixel mode" in str(error):
            raise ImageError("unsupported pixels", str(layout)) from None
        raise
    _need_size(header, *image.size)
    return rgb_of(image)


def _avif(header: Header) -> NDArray[np.uint8]:
    pixels = _open(header)
    if header.crop is not None:
        top, left, bottom, right = header.crop
        pixels = pixels[top:bottom, left:right]
        _need_size(header, *pixels.shape[1::-1])
    return np.ascontiguousarray(pixels)


def _heic(header: Header) -> NDArray[np.uint8]:
    import pillow_heif  # noqa: PLC0415 - an optional package; importing it changes nothing in Pillow

    found = pillow_heif.open_heif(header.strip_metadata(), convert_hdr_to_8bit=True)
    picture = found[found.primary_index]
    _need_size(header, *picture.size)
    picture.load()
    image = Image.frombytes(
        picture.mode, picture.size, picture.data, "raw", picture.mode, picture.stride
    )
    _need_size(header, *image.size)
    return rgb_of(image)


_READERS: dict[str, Callable[[Header], NDArray[np.uint8]]] = {
    "PNG": _png,
    "TIFF": _tiff,
    "AVIF": _avif,
    "HEIC": _heic,
}


def _may_be_short(png: ImageFile.ImageFile) -> bool:
    last_row = png.crop((0, png.height - 1, png.width, png.height))
    return bool(png.info.get("interlace")) or not any(last_row.tobytes())
