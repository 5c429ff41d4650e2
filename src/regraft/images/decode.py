"""The only decoder: in training, evaluation and serving the same bytes give the same pixels.

It reads JPEG (also the MPO files of phones), PNG (the default image if it is animated), WebP and
GIF (the first frame), BMP, TIFF (the first page), AVIF and HEIC (the primary image), and JPEG 2000,
and converts them to RGB:

========================  ==========================================================================
stored                    RGB
========================  ==========================================================================
grey                      three equal channels
1 bit                     0 or 255
palette                   its colours; a TIFF's with values up to 255 as bytes
alpha, transparent value  composited on white; a BMP's alpha that is zero everywhere is ignored
CMYK, YCCK                Pillow's conversion, without a colour profile; JPEG: 0 is full ink (Adobe)
16 bit grey               value / 257 rounded: the full range, not stretched (12 bit TIFF: / 4095)
16 bit colour, or alpha   the high byte
32 bit, signed, float     refused: black and white are not defined
LAB, a camera's sensor    refused
========================  ==========================================================================

The EXIF orientation is applied, also from ImageMagick's text in a PNG; in AVIF and HEIC the file's
own turns, mirrors and crops are, and not EXIF, as the standard has it. The orientation of XMP is
not applied, as in browsers; colour profiles and gamma are not either. Nothing here changes state
that threads share: no ``warnings`` filter, no ``Image.MAX_IMAGE_PIXELS``, no
``ImageFile.LOAD_TRUNCATED_IMAGES``, no opener registered with Pillow. For the same reason Pillow's
classes are called directly, and not ``Image.open``, which warns about large images.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL
import simplejpeg
from PIL import Image, ImageFile, features

from regraft.core.memory import lacks_memory
from regraft.errors import ImageError
from regraft.images.colours import refuse_planes, rgb_of
from regraft.images.headers import KINDS, read_header
from regraft.images.readers import DAMAGE, decode_by_pillow, image_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.images.header import Header
    from regraft.images.payload import Payload

__all__ = [
    "DECODER_VERSION",
    "KINDS",
    "HeaderInfo",
    "decode",
    "decode_opened",
    "hash_payload",
    "image_size",
    "inspect_header",
]

_RULES = 2  # increase it whenever the same bytes give other pixels than before


def _decoder_version() -> str:
    libraries = {
        "libjpeg-turbo": features.version("libjpeg_turbo"),
        "zlib": features.version("zlib_ng") or features.version("zlib"),
        "libtiff": features.version("libtiff"),
        "webp": features.version("webp"),
        "libavif": features.version("avif"),
        "openjpeg": features.version("jpg_2000"),
    }
    named = ", ".join(f"{name} {version}" for name, version in libraries.items() if version)
    heif = f", pillow-heif {_heif_version()}" if _heif_version() else ""
    return (
        f"rules {_RULES}, simplejpeg {simplejpeg.__version__}, pillow {PIL.__version__} ({named})"
        f"{heif}"
    )


def _heif_version() -> str | None:
    """Return the version of the optional package; it is imported for the first HEIC only."""
    try:
        return version("pillow-heif")
    except PackageNotFoundError:
        return None


#: What pixels depend on besides the bytes: the versions of libraries and of the rules above.
DECODER_VERSION = _decoder_version()

# Pillow checks these against its own limit, with a warning that cannot be suppressed here.
_LIMITED_BY_PILLOW = {"TIFF", "GIF", "WebP"}
_LIBRARIES = {"JPEG 2000": "jpg_2000", "AVIF": "avif", "WebP": "webp"}  # that Pillow may lack


class HeaderInfo(NamedTuple):
    """An image's size after orientation, and what decoding leaves out; from its header."""

    height: int
    width: int
    has_16_bits: bool = False  # per channel: dark values become black
    has_more_frames: bool = False  # or pages, which are not read


def image_size(payload: Payload, max_pixels: int) -> tuple[int, int]:
    """Return height and width in pixels, after orientation."""
    return inspect_header(payload, max_pixels)[:2]


def inspect_header(payload: Payload, max_pixels: int) -> HeaderInfo:
    """Read the size of an image from its header, with the same checks as ``decode``.

    Examples
    --------
    >>> inspect_header(np.zeros((2, 3), np.uint8), max_pixels=6)
    HeaderInfo(height=2, width=3, has_16_bits=False, has_more_frames=False)
    """
    if isinstance(payload, np.ndarray):
        return HeaderInfo(*_pixels(payload, max_pixels).shape[:2])
    header = _checked_header(payload, max_pixels)
    sides = header.height, header.width
    if header.orientation >= 5:
        sides = sides[::-1]
    return HeaderInfo(*sides, header.has_16_bits, header.has_more_frames)


def decode(payload: Payload, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image to upright RGB (H, W, 3) uint8; raise ``ImageError`` unless all is readable.

    ``max_pixels`` limits height times width, and is checked before memory is allocated. Pixels that
    are RGB in C order already are not copied. The error's ``kind`` is one of ``KINDS``.

    Examples
    --------
    >>> decode(np.array([[0, 7]], np.uint8), max_pixels=100).tolist()
    [[[0, 0, 0], [7, 7, 7]]]
    """
    if isinstance(payload, np.ndarray):
        pixels = _pixels(payload, max_pixels)
        if pixels.ndim == 2:
            return np.repeat(pixels[:, :, None], 3, axis=2)
        return np.ascontiguousarray(pixels)
    header = _checked_header(payload, max_pixels)
    if header.format == "JPEG" and header.channels != 4:
        try:
            return _upright(_fast_jpeg(payload, header), header.orientation)
        except DAMAGE as error:
            if lacks_memory(error):  # Pillow may need less, and give slightly different pixels
                raise image_error("JPEG", error) from error
            if _damaged(error):
                raise ImageError("corrupt", f"JPEG: {error}") from None
            # Unusual rather than damaged, or cut off: Pillow decides whether it is complete.
    return _upright(decode_by_pillow(header), header.orientation)


def decode_opened(image: Image.Image, max_pixels: int) -> NDArray[np.uint8]:
    """Convert a PIL image to upright RGB (H, W, 3) uint8, by the same rules as ``decode``.

    Examples
    --------
    >>> decode_opened(Image.new("LA", (1, 1), (0, 0)), max_pixels=100).tolist()
    [[[255, 255, 255]]]
    """
    what = image.format or f"a picture of mode {image.mode}"
    _check_size(what, image.height, image.width, max_pixels)
    try:
        refuse_planes(image)
        key = _key_of_opened(image)
        image.load()  # first: a PNG's EXIF may follow its pixels, and a TIFF is rotated here
        orientation = image.getexif().get(0x0112)
        if key is not None:
            image = image.copy()
            image.info["transparency"] = key
        pixels = rgb_of(image)
    except DAMAGE as error:
        raise image_error(what, error) from None
    if not isinstance(orientation, int) or not 2 <= orientation <= 8:
        orientation = 1
    return _upright(pixels, orientation)


def _key_of_opened(image: Image.Image) -> int | None:
    """Return the transparent grey of a PNG of 1, 2 or 4 bits as Pillow scales it to 8 bits."""
    key = image.info.get("transparency")
    if (
        image.format != "PNG"
        or not isinstance(key, int)
        or not isinstance(image, ImageFile.ImageFile)
    ):
        return None
    raw_mode = image.tile[0].args if image.tile else None  # known until the pixels are loaded
    scale = {"1": 255, "L;2": 85, "L;4": 17}.get(raw_mode if isinstance(raw_mode, str) else "")
    return None if scale is None else key * scale


def hash_payload(payload: Payload) -> bytes:
    """Return the sha256 of a file's bytes, or of dtype, shape and bytes of pixels.

    Examples
    --------
    >>> hash_payload(b"").hex()[:8]
    'e3b0c442'
    >>> flat = np.zeros((1, 4), np.uint8)
    >>> hash_payload(flat) == hash_payload(flat.reshape(2, 2))
    False
    """
    if isinstance(payload, np.ndarray):
        digest = hashlib.sha256(f"{payload.dtype.str}{payload.shape}".encode())
        digest.update(np.ascontiguousarray(payload).data)
        return digest.digest()
    return hashlib.sha256(payload).digest()


def _pixels(pixels: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or colour):
        raise ImageError(
            "unsupported pixels",
            f"an array of {pixels.dtype} and shape {pixels.shape}; it must be uint8 of shape "
            "(height, width) or (height, width, 3)",
        )
    _check_size("array", pixels.shape[0], pixels.shape[1], max_pixels)
    return pixels


def _checked_header(data: bytes, max_pixels: int) -> Header:
    header = read_header(data)
    if header.format in _LIMITED_BY_PILLOW and Image.MAX_IMAGE_PIXELS is not None:
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS)
    _check_size(header.format, header.height, header.width, max_pixels)
    if header.format == "HEIC" and _heif_version() is None:
        raise ImageError("unsupported format", "a HEIC image; pip install 'regraft[heif]'")
    library = _LIBRARIES.get(header.format)
    if library is not None and not features.check(library):
        raise ImageError(
            "unsupported format", f"{header.format}, which this build of Pillow does not read"
        )
    return header


def _check_size(what: str, height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise ImageError("empty", f"{what} of {width} by {height} pixels")
    if height * width > max_pixels:
        raise ImageError(
            "too many pixels",
            f"{what} of {width} by {height} pixels; {max_pixels:,} pixels are allowed",
        )


def _fast_jpeg(data: bytes, header: Header) -> NDArray[np.uint8]:
    # The buffer limits the memory if libjpeg reads another size than read_header.
    buffer = np.empty(header.height * header.width * 3, np.uint8)
    image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, strict=True)
    if image.shape != (header.height, header.width, 3):
        raise ValueError(f"two sizes, {image.shape[:2]} and {(header.height, header.width)}")
    return image


def _damaged(error: Exception) -> bool:
    """Whether libjpeg's error means wrong pixels, which Pillow would return without an error."""
    return any(
        words in str(error)
        for words in (
            "bad Huffman code",
            "bad arithmetic code",
            "instead of RST",
            "premature end of data segment",
            "Inconsistent progression",
        )
    )


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Rotate and mirror by the EXIF orientation; return the same array for orientation 1."""
    if orientation == 1:
        return image
    # As items of three bytes, which numpy copies twice as fast as single bytes.
    pixels = image.view("V3")[:, :, 0]
    turned = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: pixels.T[:, ::-1],
        7: pixels.T[::-1, ::-1],
        8: pixels.T[::-1],
    }[orientation]
    return np.ascontiguousarray(turned).view(np.uint8).reshape(*turned.shape, 3)
