"""Decode image files with Pillow alone to the pixels that regraft's own decoder gives.

This file is copied into an exported folder. It reads JPEG, PNG, WebP, GIF, BMP, plain TIFF, AVIF
that is neither turned nor cropped, and JPEG 2000. What Pillow would read otherwise than regraft is
refused. Some damage cannot be seen through Pillow: regraft refuses a JPEG whose compressed pixels
are damaged in the middle, and an AVIF whose boxes contradict each other; here they are decoded.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL import ImageFile

#: The most pixels of an image, unless a caller says otherwise.
MAX_PIXELS = 40_000_000
_MAX_PIECES = 200_000  # segments, chunks or blocks of a file
_MAX_TEXT = 1 << 18  # characters of EXIF in the text of a PNG
_LIMITED_BY_PILLOW = {"GIF", "TIFF", "WebP"}
# What Pillow raises for damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    AssertionError, BufferError, EOFError, RuntimeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


class DecodeError(ValueError):
    """One image cannot be decoded; the message is one line."""


class _Header(NamedTuple):
    """What is read of a file before its pixels."""

    height: int
    width: int
    orientation: int  # as in EXIF, 1 to 8
    data: bytes  # without the metadata that Pillow would act upon
    key: tuple[int, ...] = ()  # of a PNG: the stored value or colour that is transparent
    inverted: bool = False  # of a TIFF of 16 bits: white is zero


def decode(image: bytes | str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the upright RGB pixels (H, W, 3) of a file, or of its bytes.

    ``max_pixels`` limits height times width, and is checked before the pixels are decoded.
    """
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    name = _format_of(data)
    read_header, plugin, convert = _FORMATS[name]
    try:
        header = read_header(data)
        _check_size(name, header, max_pixels)
        with plugin(io.BytesIO(header.data)) as opened:
            _need_size(name, opened, header)
            opened.load()
            return _upright(convert(opened, header), header.orientation)
    except DecodeError:
        raise
    except (IndexError, struct.error):
        raise DecodeError(f"{name}: the file ends too early, or contradicts itself") from None
    except _DAMAGE as error:
        raise DecodeError(
            f"{name}: {' '.join(str(error).split()) or type(error).__name__}"
        ) from None


def _format_of(data: bytes) -> str:
    for name, matches in _MAGIC.items():
        if matches(data):
            return name
    if data[4:8] == b"ftyp":
        raise DecodeError("HEIC and videos are not read here; convert the image to JPEG or PNG")
    raise DecodeError(
        f"no image that is read here, beginning with {data[:8].hex(' ') or 'no bytes'}; "
        f"{', '.join(_MAGIC)} are read"
    )


def _check_size(name: str, header: _Header, max_pixels: int) -> None:
    if name in _LIMITED_BY_PILLOW and Image.MAX_IMAGE_PIXELS is not None:
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS)
    size = f"{name} of {header.width} by {header.height} pixels"
    if header.width < 1 or header.height < 1:
        raise DecodeError(size)
    if header.width * header.height > max_pixels:
        raise DecodeError(f"{size}; {max_pixels:,} pixels are allowed (max_pixels)")


def _need_size(name: str, opened: Image.Image, header: _Header) -> None:
    if opened.size != (header.width, header.height):
        raise DecodeError(f"{name} with two sizes: {opened.size}, {header[1::-1]}")


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# --- colours --------------------------------------------------------------------------------------


def _rgb(image: Image.Image, header: _Header) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        return _from_16_bit(image, header)
    if image.mode in {"I", "F", "LAB"}:
        raise DecodeError(f"pixels of mode {image.mode}, whose black and white are not defined")
    if image.mode == "La":
        image = image.convert("LA")
    if image.format == "BMP" and image.mode == "RGBA" and not image.getchannel(3).getbbox():
        image = image.convert("RGB")  # a fourth byte that is always zero is no alpha
    if image.has_transparency_data or image.mode == "RGBa":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _from_16_bit(image: Image.Image, header: _Header) -> NDArray[np.uint8]:
    """Return value / 257, rounded."""
    values = np.asarray(image).astype(np.uint32)
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if header.inverted:
        grey = 255 - grey
    if header.key:
        grey[values == header.key[0]] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


# --- EXIF, which is a TIFF's directory ------------------------------------------------------------

_TYPES = {1: "B", 3: "H", 4: "L"}  # of whole numbers
_ORIENTATION = 274


class _Directory:
    """The first directory of a TIFF structure of 32 bits."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        start = self.unpack("L", 4)[0]
        count = self.unpack("H", start)[0]
        self.end = start + 2 + 12 * count
        if self.end > len(data):
            raise struct.error
        self.entries: dict[int, bytes] = {}  # the first of two counts, as in libtiff
        for at in range(start + 2, self.end, 12):
            self.entries.setdefault(self.unpack("H", at)[0], data[at : at + 12])

    def unpack(self, form: str, at: int) -> tuple[int, ...]:
        """Return the numbers at a byte of the file."""
        return struct.unpack_from(self.order + form, self.data, at)

    def values(self, tag: int) -> tuple[int, ...]:
        """Return the whole numbers of a tag; nothing if it is missing, or outside of the file."""
        if tag not in self.entries:
            return ()
        entry = self.entries[tag]
        _, kind, count = struct.unpack_from(self.order + "HHL", entry)
        form = f"{self.order}{count}{_TYPES.get(kind, 's')}"
        if kind not in _TYPES or not 0 < count <= 1 << 20:
            return ()
        if struct.calcsize(form) <= 4:
            return struct.unpack_from(form, entry, 8)
        start = struct.unpack_from(self.order + "L", entry, 8)[0]
        if start + struct.calcsize(form) > len(self.data):
            return ()
        return struct.unpack_from(form, self.data, start)

    def value(self, tag: int) -> int:
        """Return the number of a tag that has one; otherwise 0."""
        values = self.values(tag)
        return values[0] if len(values) == 1 else 0

    def orientation(self) -> int:
        """Return the orientation 1 to 8; 1 if there is none, or one without a meaning."""
        value = self.value(_ORIENTATION)
        return value if 1 <= value <= 8 else 1


def _exif_orientation(exif: bytes) -> int:
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in {b"II*\0", b"MM\0*"}:
        return 1
    try:
        return _Directory(exif).orientation()
    except struct.error:
        return 1


# --- JPEG -----------------------------------------------------------------------------------------

_NO_FILL = re.compile(rb"[^\xff]")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the contents of what stands before a JPEG's pixels."""
    position = 2
    for _ in range(_MAX_PIECES):
        at = data.find(b"\xff", position)
        found = _NO_FILL.search(data, at) if at >= 0 else None
        if found is None:
            raise DecodeError(f"the JPEG file ends after {len(data)} bytes, before its pixels")
        position, marker = found.end(), found[0][0]
        if marker in {0xD9, 0xDA}:
            return
        if marker not in {0x00, 0x01} and not 0xD0 <= marker <= 0xD8:
            end = position + struct.unpack_from(">H", data, position)[0]
            yield marker, position + 2, end
            position = end
    raise DecodeError(f"a JPEG file of more than {_MAX_PIECES:,} segments")


def _read_jpeg(data: bytes) -> _Header:
    orientation, frame, after = 0, None, 2
    kept = [data[:2]]
    for marker, start, end in _segments(data):
        if marker == 0xE1 and not (orientation or frame) and data.startswith(b"Exif\0\0", start):
            orientation = _exif_orientation(data[start:end])
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC} and frame is None:
            frame = struct.unpack_from(">BHHB", data, start)
        if not ((0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE):
            kept.append(data[start - 4 : end])
        after = end
    if frame is None:
        raise DecodeError("the JPEG file has no frame before its pixels")
    precision, height, width, channels = frame
    if precision != 8 or channels not in {1, 3, 4}:
        raise DecodeError(f"JPEG with {channels} channels of {precision} bits")
    return _Header(height, width, orientation or 1, b"".join((*kept, data[after:])))


# --- PNG ------------------------------------------------------------------------------------------

_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_PROFILES = {b"raw profile type exif", b"raw profile type app1"}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip  # first column and row of a pass, and its steps


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the contents of a PNG's chunks."""
    position = 8
    for _ in range(_MAX_PIECES):
        length, name = struct.unpack_from(">L4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise DecodeError(f"the PNG file ends after {len(data)} bytes, without IEND")
        yield name, position + 8, end
        if name == b"IEND":
            return
        position = end + 4
    raise DecodeError(f"a PNG file of more than {_MAX_PIECES:,} chunks")


def _read_png(data: bytes) -> _Header:
    if data[12:16] != b"IHDR":
        raise DecodeError("the PNG file does not begin with IHDR")
    width, height, depth, colour = struct.unpack_from(">LLBB", data, 16)
    kept, orientation, in_text = [data[:8]], 0, 0
    key: tuple[int, ...] = ()
    for name, start, end in _chunks(data):
        if name in _KEPT:
            if zlib.crc32(data[start - 4 : end]) != struct.unpack_from(">L", data, end)[0]:
                raise DecodeError(f"PNG: the checksum at byte {end} is wrong")
            kept.append(data[start - 8 : end + 4])
        elif name == b"eXIf":
            orientation = _exif_orientation(data[start:end])
        elif name in _TEXTS:
            in_text = in_text or _orientation_in_text(name, data[start:end])
        if name == b"tRNS" and not key:
            key = _colour_key(data[start:end], depth, colour)
    if len(key) == 3 and depth == 16:
        raise DecodeError("PNG of 16 bits with a transparent colour is not read here")
    return _Header(height, width, orientation or in_text or 1, b"".join(kept), key)


def _colour_key(content: bytes, depth: int, colour: int) -> tuple[int, ...]:
    channels = {0: 1, 2: 3}.get(colour, 0)
    if not channels or len(content) < 2 * channels:
        return ()
    values = struct.unpack_from(f">{channels}H", content)
    return tuple(value & (1 << depth) - 1 for value in values)


def _orientation_in_text(name: bytes, content: bytes) -> int:
    """Return the orientation in the text that older ImageMagick writes; 0 if it holds none."""
    keyword, _, text = content[: _MAX_TEXT * 2].partition(b"\0")
    if keyword.lower() not in _PROFILES:
        return 0
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    elif packed:
        text = text[1:]
    try:
        if packed:
            text = zlib.decompressobj().decompress(text, _MAX_TEXT)
        words = text[:_MAX_TEXT].split()
        return _exif_orientation(bytes.fromhex(b"".join(words[2:]).decode("ascii")))
    except (zlib.error, ValueError):
        return 0


def _convert_png(image: Image.Image, header: _Header) -> NDArray[np.uint8]:
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    # Pillow fills missing pixels with zeros.
    if (image.info.get("interlace") or not any(last_row.tobytes())) and _is_short(header.data):
        raise DecodeError("PNG: fewer pixels than its header says")
    if not header.key or image.mode.startswith("I;16"):
        return _rgb(image, header)
    image.info.pop("transparency", None)  # Pillow compares it with values that it has scaled
    pixels = _rgb(image, header)
    largest = (1 << header.data[24]) - 1
    key = [value * 255 // largest for value in header.key]
    pixels[(pixels[:, :, : len(key)] == key).all(axis=2)] = 255
    return pixels


def _is_short(data: bytes) -> bool:
    """Decompress a PNG; return whether it has fewer pixels than its header says."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">LLBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + (columns * bits + 7) // 8)
    unpack = zlib.decompressobj()
    for name, start, end in _chunks(data):
        packed = data[start:end] if name == b"IDAT" else b""
        while packed and missing > 0:
            missing -= len(unpack.decompress(packed, 1 << 20))
            packed = unpack.unconsumed_tail
    return missing - len(unpack.flush()) > 0


# --- WebP, GIF, BMP -------------------------------------------------------------------------------


def _read_webp(data: bytes) -> _Header:
    if len(data) < 8 + struct.unpack_from("<L", data, 4)[0]:
        raise DecodeError(f"the WebP file ends after {len(data)} bytes")
    kind, orientation = data[12:16], 1
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise DecodeError("the WebP file does not begin with a key frame")
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<L", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        orientation = _webp_orientation(data) if data[20] & 0x08 else 1
    else:
        raise DecodeError(f"the WebP file begins with {kind.hex(' ')}")
    return _Header(height, width, orientation, data)


def _webp_orientation(data: bytes) -> int:
    position = 12
    for _ in range(_MAX_PIECES):
        if position + 8 > len(data):
            break
        name, size = struct.unpack_from("<4sL", data, position)
        if name == b"EXIF":
            return _exif_orientation(data[position + 8 : position + 8 + size])
        position += 8 + size + size % 2
    return 1


def _read_gif(data: bytes) -> _Header:
    """Read the size of the canvas, which a larger first frame enlarges."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for _ in range(_MAX_PIECES):
        mark = data[position]
        if mark == 0x2C:
            left, top, across, down = struct.unpack_from("<HHHH", data, position + 1)
            if not across or not down:
                raise DecodeError(f"the GIF file's first frame is {across} by {down}")
            return _Header(max(height, top + down), max(width, left + across), 1, data)
        if mark == 0x3B:
            raise DecodeError("the GIF file holds no frame")
        position = _after_blocks(data, position + 2) if mark == 0x21 else position + 1
    raise DecodeError(f"a GIF file of more than {_MAX_PIECES:,} extensions")


def _after_blocks(data: bytes, position: int) -> int:
    for _ in range(_MAX_PIECES):
        if not data[position]:
            return position + 1
        position += 1 + data[position]
    raise DecodeError(f"a GIF file of more than {_MAX_PIECES:,} blocks")


def _read_bmp(data: bytes) -> _Header:
    old = struct.unpack_from("<L", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<Ll", data, 18)
    return _Header(abs(height), width, 1, data)


# --- TIFF -----------------------------------------------------------------------------------------

# The tags that the pixels need, of one number and of several. All others would cause warnings,
# errors and turns.
_ONE = {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 531}
_SEVERAL = {
    258,
    273,
    279,
    320,
    324,
    325,
    338,
    339,
    347,
    512,
    513,
    514,
    519,
    520,
    521,
    529,
    530,
    532,
}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_GREY, _YCBCR = {0, 1}, 6


def _read_tiff(data: bytes) -> _Header:
    found = _Directory(data)
    if 50706 in found.entries or data[8:10] == b"CR":
        raise DecodeError("a raw camera image; develop it to JPEG")
    followed = 330 in found.entries or any(data[found.end : found.end + 4])
    if followed and found.value(254) & 1:
        raise DecodeError("a TIFF whose first page is a smaller copy of the image")
    bits = _need_plain_samples(found)
    _need_all_pieces(found)
    inverted = bits == 16 and found.value(262) == 0
    kept = _without_metadata(found)
    return _Header(found.value(257), found.value(256), found.orientation(), kept, (), inverted)


def _need_plain_samples(found: _Directory) -> int:
    """Return the bits of a sample; refuse what Pillow alone does not read, or reads wrongly."""
    samples, photometric = found.value(277) or 1, found.value(262)
    all_bits = {*(found.values(258)[:samples] or (1,))}
    grey = photometric in _GREY
    bits = max(all_bits)
    plain = (
        samples <= 6
        and photometric in {0, 1, 2, 3, 4, 5, 6}
        and len(all_bits) == 1
        and bits in {1, 2, 4, 8, 16}
        and {*found.values(339)} <= {1, 4}
        and not (samples > 1 and found.value(284) == 2)
        and not (bits == 16 and grey and samples > 1)
    )
    if not plain:
        raise DecodeError(
            f"TIFF of {samples} samples of {' and '.join(map(str, sorted(all_bits)))} bits, "
            f"photometric {photometric}, is not read here; save it as PNG"
        )
    return bits


def _need_all_pieces(found: _Directory) -> None:
    """Refuse a file with other strips or tiles than its size needs, or one that ends in them."""
    width, height, across, down = (found.value(tag) for tag in (256, 257, 322, 323))
    if across * down > 4 * max(width * height, 1 << 20):
        raise DecodeError(f"{width} by {height} pixels in tiles of {across} by {down}")
    tiled = bool(across and down)
    rows = found.value(278) or max(height, 1)
    needed = -(-width // across) * -(-height // down) if tiled else -(-height // rows)
    starts, sizes = found.values(324 if tiled else 273), found.values(325 if tiled else 279)
    if len(starts) != needed:  # Pillow makes the rest black
        raise DecodeError(f"TIFF with {len(starts)} strips or tiles; its size needs {needed}")
    if not tiled and found.value(259) == 1 and found.value(262) != _YCBCR:
        plain = _plain_sizes(found, rows)  # those that are written may be wrong
        sizes = tuple(
            max(least, min(size, plain[0])) for least, size in zip(plain, sizes, strict=False)
        )
    if any(start + size > len(found.data) for start, size in zip(starts, sizes, strict=False)):
        raise DecodeError(f"the TIFF file ends after {len(found.data)} bytes, within its pixels")


def _plain_sizes(found: _Directory, rows: int) -> list[int]:
    """Return the bytes of each strip that is not compressed."""
    width, height = found.value(256), found.value(257)
    bits = max(found.values(258), default=1) * (found.value(277) or 1)
    row = (width * bits + 7) // 8
    return [min(rows, height - top) * row for top in range(0, height, rows)]


def _without_metadata(found: _Directory) -> bytes:
    """Return the file with a directory at its end that has the tags of the pixels only."""
    kept = [entry for tag, entry in sorted(found.entries.items()) if tag in _ONE | _SEVERAL]
    for entry in kept:
        _need_values(found, entry)
    data = found.data + bytes(len(found.data) % 2)
    start = struct.pack(found.order + "L", len(data))
    count = struct.pack(found.order + "H", len(kept))
    return b"".join((data[:4], start, data[8:], count, *kept, bytes(4)))


def _need_values(found: _Directory, entry: bytes) -> None:
    tag, kind, count, start = struct.unpack(found.order + "HHLL", entry)
    size = count * _TYPE_BYTES.get(kind, 0)
    if not 0 < count <= 1 << 20 or not size or (size > 4 and start + size > len(found.data)):
        raise DecodeError(f"the value of TIFF tag {tag} is outside of the file")
    if tag in _ONE and (count != 1 or kind not in _TYPES):
        raise DecodeError(f"TIFF tag {tag} must be one whole number")


def _convert_tiff(image: Image.Image, header: _Header) -> NDArray[np.uint8]:
    if image.mode in {"P", "PA"} and isinstance(image, TiffImagePlugin.TiffImageFile):
        stored = np.array(image.tag_v2.get(320, ()))
        # Some writers store the palette's values as bytes, of which Pillow drops the low one.
        if len(stored) and stored.max() < 256 and len(stored) % 3 == 0:
            image.putpalette(stored.astype(np.uint8).reshape(3, -1).T.tobytes(), "RGB")
    return _rgb(image, header)


# --- AVIF, JPEG 2000 ------------------------------------------------------------------------------

_CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000 without boxes


def _need_whole_boxes(data: bytes) -> None:
    """Refuse a file that ends within one of its boxes, of which the decoders fill in the rest."""
    at = 0
    while at + 8 <= len(data):
        size = struct.unpack_from(">L", data, at)[0]
        if size == 0:  # up to the end
            return
        if size == 1:
            size = struct.unpack_from(">Q", data, at + 8)[0]
        if size < 8 or at + size > len(data):
            raise DecodeError(f"the file ends after {len(data)} bytes, within a box of {size}")
        at += size


def _read_avif(data: bytes) -> _Header:
    """Read the size by libavif, which decodes no pixels for it."""
    _need_whole_boxes(data)
    if any(name in data for name in (b"irot", b"imir", b"clap")):
        raise DecodeError("AVIF that is turned, mirrored or cropped is not read here")
    with AvifImagePlugin.AvifImageFile(io.BytesIO(data)) as image:
        return _Header(image.height, image.width, 1, data)


def _read_jpeg_2000(data: bytes) -> _Header:
    if not data.startswith(_CODESTREAM):
        _need_whole_boxes(data)
    with Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data)) as image:
        return _Header(image.height, image.width, 1, data)


# --- formats --------------------------------------------------------------------------------------


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(magics)


_MAGIC: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _starts(b"\xff\xd8\xff"),
    "PNG": _starts(b"\x89PNG\r\n\x1a\n"),
    "WebP": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
    "GIF": _starts(b"GIF87a", b"GIF89a"),
    "BMP": _starts(b"BM"),
    "TIFF": _starts(b"II*\0", b"MM\0*"),
    "AVIF": lambda data: data[4:12] == b"ftypavif",
    "JPEG 2000": _starts(b"\0\0\0\x0cjP  \r\n\x87\n", _CODESTREAM),
}
_FORMATS: dict[str, tuple[Callable[[bytes], _Header], type[ImageFile.ImageFile], Any]] = {
    "JPEG": (_read_jpeg, JpegImagePlugin.JpegImageFile, _rgb),
    "PNG": (_read_png, PngImagePlugin.PngImageFile, _convert_png),
    "WebP": (_read_webp, WebPImagePlugin.WebPImageFile, _rgb),
    "GIF": (_read_gif, GifImagePlugin.GifImageFile, _rgb),
    "BMP": (_read_bmp, BmpImagePlugin.BmpImageFile, _rgb),
    "TIFF": (_read_tiff, TiffImagePlugin.TiffImageFile, _convert_tiff),
    "AVIF": (_read_avif, AvifImagePlugin.AvifImageFile, _rgb),
    "JPEG 2000": (_read_jpeg_2000, Jpeg2KImagePlugin.Jpeg2KImageFile, _rgb),
}
