"""Read the header of an image file without decoding it: format, size, orientation.

The first bytes of the file decide the format, not its suffix. Pillow does not read the headers, for
three reasons. The size must be known before memory for it is allocated, but Pillow allocates when
it opens a WebP or GIF file. To scan 300,000 files, one file may take microseconds only. And Pillow
reports odd metadata as :mod:`warnings`, whose filters all threads share. Here metadata are skipped,
and ``Header.strip_metadata`` returns a PNG or TIFF file without them.
"""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from regraft.errors import ImageError
from regraft.images.tiff import exif_orientation, read_directory, strip_tiff
from regraft.images.unrecognised import explain_unrecognised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The values of ``ImageError.kind`` for what is wrong with a file; the ledger records them.
KINDS = (
    "empty",  # no bytes, or no pixels
    "not an image",  # text, HTML, a video, an archive, anything unknown
    "unsupported format",  # an image, but in a format or a variant that is not read
    "too many pixels",  # more than the limit, by its header
    "truncated",  # the end of the file is missing
    "corrupt",  # the contents are contradictory
    "unsupported pixels",  # values without a defined colour (float, 32 bit, LAB)
)


class Header(NamedTuple):
    """The header of an image file."""

    format: str  # key of FORMATS
    height: int  # pixels, before the orientation is applied
    width: int
    orientation: int  # EXIF, 1 to 8; 1 if there is none or it is invalid
    strip_metadata: Callable[[], bytes]  # returns the file without it, and checks what it can
    channels: int = 0  # of a JPEG: 1, 3, or 4 (CMYK)
    has_16_bits: bool = False  # per channel; 8 of them are kept
    has_more_frames: bool = False  # or pages, which are not read


def read_header(data: bytes) -> Header:
    """Read the header of a whole file; raise ``ImageError`` for unknown formats and cut headers.

    Examples
    --------
    >>> gif = b"GIF89a" + bytes([3, 0, 2, 0, 0, 0, 0]) + b"," + bytes([0, 0, 0, 0, 3, 0, 2, 0, 0])
    >>> read_header(gif)[:4]
    ('GIF', 2, 3, 1)
    """
    for name, (matches, read) in FORMATS.items():
        if matches(data):
            try:
                return read(data)
            except (IndexError, struct.error):  # a field after the last byte
                raise ImageError(
                    "truncated", f"the {name} file ends within its header, after {len(data)} bytes"
                ) from None
    raise explain_unrecognised(data)


# Segments, chunks or blocks of a file, to limit the time: a PNG of 1.6 GB in chunks of 8 kB.
_MAX_PIECES = 200_000
_NO_FILL = re.compile(rb"[^\xff]")

# --- formats -------------------------------------------------------------------------------------


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start of the contents, end) of the segments of a JPEG before its pixels."""
    position = 2
    try:
        for _ in range(_MAX_PIECES):
            # Skip bytes between segments, and fill bytes before a marker.
            found = _NO_FILL.search(data, data.index(b"\xff", position))
            position, marker = (len(data), 0) if found is None else (found.end(), found[0][0])
            if marker in {0xD9, 0xDA}:
                return
            if marker not in {0x00, 0x01} and not 0xD0 <= marker <= 0xD8:  # without contents
                end = position + struct.unpack_from(">H", data, position)[0]
                yield marker, position + 2, end
                position = end
        raise ImageError("corrupt", f"a JPEG file of more than {_MAX_PIECES:,} segments")
    except (ValueError, IndexError, struct.error):  # after the last byte
        raise ImageError(
            "truncated", f"the JPEG file ends after {len(data)} bytes, before its pixels"
        ) from None


def _jpeg(data: bytes) -> Header:
    orientation = 0
    for marker, start, end in _segments(data):
        if marker == 0xE1 and not orientation and data.startswith(b"Exif\0\0", start):
            orientation = exif_orientation(data[start:end])
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            precision, height, width, channels = struct.unpack_from(">BHHB", data, start)
            if precision != 8:
                raise ImageError("unsupported format", f"JPEG with {precision} bits a channel")
            if channels not in {1, 3, 4}:
                raise ImageError("unsupported format", f"JPEG with {channels} channels")
            return Header(
                "JPEG", height, width, orientation or 1, lambda: _strip_jpeg(data), channels
            )
    raise ImageError("corrupt", "the JPEG file has no frame before its pixels")


def _strip_jpeg(data: bytes) -> bytes:
    """Return the file without EXIF, XMP, profiles and comments; keep the colour space."""
    kept, position = [], 0
    for marker, start, end in _segments(data):
        if (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE:
            kept.append(data[position : start - 4])
            position = end
    return b"".join((*kept, data[position:]))


_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start of the contents, end of the contents) of the chunks of a PNG."""
    position = 8
    for _ in range(_MAX_PIECES):
        if position + 12 > len(data):
            raise ImageError(
                "truncated", f"the PNG file ends after {len(data)} bytes, without IEND"
            )
        name = data[position + 4 : position + 8]
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            raise ImageError(
                "truncated", f"the PNG file ends after {len(data)} bytes, within {_word(name)}"
            )
        yield name, position + 8, end
        if name == b"IEND":
            return
        position = end + 4
    raise ImageError("corrupt", f"a PNG file of more than {_MAX_PIECES:,} chunks")


def _png(data: bytes) -> Header:
    if data[12:16] == b"CgBI":
        raise ImageError("unsupported format", "Apple's own variant of PNG (CgBI)")
    if data[12:16] != b"IHDR":
        raise ImageError("corrupt", "the PNG file does not begin with IHDR")
    width, height = struct.unpack_from(">LL", data, 16)
    kept: list[tuple[int, int]] = []
    orientation, animated = 1, False
    for name, start, end in _chunks(data):
        if name in _PNG_KEPT:
            kept.append((start - 8, end + 4))
        elif name == b"eXIf":
            orientation = exif_orientation(data[start:end])
        elif name == b"acTL":
            animated = int.from_bytes(data[start : start + 4], "big") > 1
    return Header(
        "PNG",
        height,
        width,
        orientation,
        lambda: _strip_png(data, kept),
        0,
        data[24] == 16,
        animated,
    )


def _strip_png(data: bytes, kept: list[tuple[int, int]]) -> bytes:
    """Check the checksums; return the file without text, profiles and animation frames."""
    view = memoryview(data)
    for start, end in kept:  # Pillow does not check those of the pixels
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            name = _word(data[start + 4 : start + 8])
            raise ImageError("corrupt", f"the checksum of {name} at byte {start} is wrong")
    return b"".join((data[:8], *(view[start:end] for start, end in kept)))


def png_is_short(data: bytes) -> bool:
    """Decompress a PNG; return whether it has fewer pixels than its header says.

    Pillow and libpng fill missing pixels with zeros without an error. Decompressing takes as long
    as decoding, so this is called only if the last row is zero.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">LLBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    # Adam7: first column, first row, column step and row step of each pass.
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)) if interlaced else ((0, 0, 1, 1),)  # fmt: skip
    missing = 0
    for left, top, across, down in passes:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + (columns * bits + 7) // 8)
    unpack = zlib.decompressobj()
    for name, start, end in _chunks(data):
        if name == b"IDAT":
            packed = data[start:end]
            while packed and missing > 0:
                missing -= len(unpack.decompress(packed, 1 << 20))
                packed = unpack.unconsumed_tail
    return missing - len(unpack.flush()) > 0


def _webp(data: bytes) -> Header:
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise ImageError("truncated", f"the WebP file ends after {len(data)} bytes")
    orientation, animated = 1, False
    match data[12:16]:
        case b"VP8 ":
            if data[23:26] != b"\x9d\x01\x2a":
                raise ImageError("corrupt", "the WebP file does not begin with a key frame")
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case b"VP8L":
            bits = struct.unpack_from("<L", data, 21)[0]
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            width = int.from_bytes(data[24:27], "little") + 1
            height = int.from_bytes(data[27:30], "little") + 1
            animated = bool(data[20] & 0x02)
            if data[20] & 0x08:
                orientation = _webp_orientation(data)
        case other:
            raise ImageError("corrupt", f"the WebP file begins with {_word(other)}")
    return Header("WebP", height, width, orientation, lambda: data, has_more_frames=animated)


def _webp_orientation(data: bytes) -> int:
    position = 12
    for _ in range(_MAX_PIECES):
        name, length = data[position : position + 4], data[position + 4 : position + 8]
        size = int.from_bytes(length, "little")
        if name == b"EXIF":
            return exif_orientation(data[position + 8 : position + 8 + size])
        if len(length) < 4:
            break
        position += 8 + size + size % 2
    return 1


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = _gif_frame(data, 13 + _gif_palette(flags))
    if position is None:
        raise ImageError("empty", "the GIF file holds no frame")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, position + 1)
    # A frame that is larger than the canvas enlarges it, as in Pillow and in browsers.
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    if frame_width == 0 or frame_height == 0:
        raise ImageError("empty", f"the GIF file's first frame is {frame_width} by {frame_height}")
    animated = False
    with suppress(IndexError, ImageError):  # a missing end is an error when the frame is decoded
        after = _gif_blocks(data, position + 11 + _gif_palette(data[position + 9]))
        animated = _gif_frame(data, after) is not None
    return Header("GIF", height, width, 1, lambda: data, has_more_frames=animated)


_GIF_PIECE = re.compile(b"[!,;]")  # an extension, a frame, the end


def _gif_palette(flags: int) -> int:
    """Return the number of bytes of a palette, from the flags before it."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_blocks(data: bytes, position: int) -> int:
    """Return the position after a sequence of blocks, which ends with an empty block."""
    for _ in range(_MAX_PIECES):
        if not data[position]:
            return position + 1
        position += 1 + data[position]
    raise ImageError("corrupt", f"a GIF file of more than {_MAX_PIECES:,} blocks")


def _gif_frame(data: bytes, position: int) -> int | None:
    """Return the position of the next frame; None if the file ends before it."""
    for _ in range(_MAX_PIECES):
        found = _GIF_PIECE.search(data, position)  # skip other bytes
        if found is None:
            raise IndexError
        if found[0] != b"!":
            return found.start() if found[0] == b"," else None
        position = _gif_blocks(data, found.end() + 1)  # an extension: a label and blocks
    raise ImageError("corrupt", f"a GIF file of more than {_MAX_PIECES:,} extensions")


def _bmp(data: bytes) -> Header:
    size = struct.unpack_from("<L", data, 14)[0]
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<Ll", data, 18)  # negative: rows from top to bottom
    return Header("BMP", abs(height), width, 1, lambda: data)


def _tiff(data: bytes) -> Header:
    directory = read_directory(data)
    width, height = (directory.integer(data, tag) for tag in (256, 257))
    tile_width, tile_height = (directory.integer(data, tag) for tag in (322, 323))
    # Tiles are decoded as a whole, so their size counts if it is larger than the image's.
    if tile_width * tile_height > 4 * max(width * height, 1 << 20):
        raise ImageError(
            "corrupt", f"{width} by {height} pixels in tiles of {tile_width} by {tile_height}"
        )
    if (samples := directory.integer(data, 277)) > 6:
        raise ImageError("unsupported pixels", f"TIFF with {samples} samples in a pixel")
    orientation = directory.orientation(data)
    bits = directory.integers(data, 258)
    return Header(
        "TIFF",
        height,
        width,
        orientation,
        lambda: strip_tiff(data, directory, orientation),
        has_16_bits=bool(bits) and bits[0] == 16,
        has_more_frames=directory.followed,
    )


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(magics)


#: By format: whether a file has it, from its first bytes, and the function that reads its header.
FORMATS: dict[str, tuple[Callable[[bytes], bool], Callable[[bytes], Header]]] = {
    "JPEG": (_starts(b"\xff\xd8\xff"), _jpeg),
    "PNG": (_starts(b"\x89PNG\r\n\x1a\n"), _png),
    "WebP": (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp),
    "GIF": (_starts(b"GIF87a", b"GIF89a"), _gif),
    "BMP": (_starts(b"BM"), _bmp),
    "TIFF": (_starts(b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"), _tiff),
}


def _word(name: bytes) -> str:
    """Return a chunk's name of four bytes as printable text."""
    return name.decode("ascii", "backslashreplace") if name.isalnum() else name.hex(" ")
