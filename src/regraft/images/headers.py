"""Read the header of an image file without decoding it: format, size, orientation.

The first bytes of the file decide the format, not its suffix. Pillow does not read the headers, for
three reasons. The size must be known before memory for it is allocated, but Pillow allocates when
it opens a WebP or GIF file. To scan 300,000 files, one file may take microseconds only. And Pillow
reports odd metadata as :mod:`warnings`, whose filters all threads share. Here metadata are skipped,
and ``Header.strip_metadata`` returns the file without them, where they cause warnings.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from regraft.errors import ImageError
from regraft.images.camera_raw import refuse_thumbnail
from regraft.images.header import MAX_PIECES, Header, word
from regraft.images.isobmff import is_avif, is_heic, read_picture, without_items
from regraft.images.jpeg2000 import BOXES, CODESTREAM, read_codestream
from regraft.images.png import read_png
from regraft.images.tiff import exif_orientation, read_directory, strip_tiff
from regraft.images.tiff_layout import read_layout
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
            except (IndexError, OverflowError, struct.error):  # a field after the last byte
                raise ImageError(
                    "truncated", f"the {name} file ends within its header, after {len(data)} bytes"
                ) from None
    raise explain_unrecognised(data)


_NO_FILL = re.compile(rb"[^\xff]")

# --- formats -------------------------------------------------------------------------------------


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start of the contents, end) of the segments of a JPEG before its pixels."""
    position = 2
    try:
        for _ in range(MAX_PIECES):
            # Skip bytes between segments, and fill bytes before a marker.
            found = _NO_FILL.search(data, data.index(b"\xff", position))
            position, marker = (len(data), 0) if found is None else (found.end(), found[0][0])
            if marker in {0xD9, 0xDA}:
                return
            if marker not in {0x00, 0x01} and not 0xD0 <= marker <= 0xD8:  # without contents
                end = position + struct.unpack_from(">H", data, position)[0]
                yield marker, position + 2, end
                position = end
        raise ImageError("corrupt", f"a JPEG file of more than {MAX_PIECES:,} segments")
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
    kept, after = [data[:2]], 2
    for marker, start, end in _segments(data):
        after = end
        if not ((0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE):
            kept.append(data[start - 4 : end])  # bytes between segments are dropped, too
    return b"".join((*kept, data[after:]))


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
            raise ImageError("corrupt", f"the WebP file begins with {word(other)}")
    return Header("WebP", height, width, orientation, lambda: data, has_more_frames=animated)


def _webp_orientation(data: bytes) -> int:
    position = 12
    for _ in range(MAX_PIECES):
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
    for _ in range(MAX_PIECES):
        if not data[position]:
            return position + 1
        position += 1 + data[position]
    raise ImageError("corrupt", f"a GIF file of more than {MAX_PIECES:,} blocks")


def _gif_frame(data: bytes, position: int) -> int | None:
    """Return the position of the next frame; None if the file ends before it."""
    for _ in range(MAX_PIECES):
        found = _GIF_PIECE.search(data, position)  # skip other bytes
        if found is None:
            raise IndexError
        if found[0] != b"!":
            return found.start() if found[0] == b"," else None
        position = _gif_blocks(data, found.end() + 1)  # an extension: a label and blocks
    raise ImageError("corrupt", f"a GIF file of more than {MAX_PIECES:,} extensions")


def _bmp(data: bytes) -> Header:
    size = struct.unpack_from("<L", data, 14)[0]
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<Ll", data, 18)  # negative: rows from top to bottom
    return Header("BMP", abs(height), width, 1, lambda: data)


def _tiff(data: bytes) -> Header:
    directory = read_directory(data)
    refuse_thumbnail(data, directory)
    width, height = (directory.integer(data, tag) for tag in (256, 257))
    tile_width, tile_height = (directory.integer(data, tag) for tag in (322, 323))
    # Tiles are decoded as a whole, so their size counts if it is larger than the image's.
    if tile_width * tile_height > 4 * max(width * height, 1 << 20):
        raise ImageError(
            "corrupt", f"{width} by {height} pixels in tiles of {tile_width} by {tile_height}"
        )
    orientation = directory.orientation(data)
    layout = read_layout(data, directory)
    return Header(
        "TIFF",
        height,
        width,
        orientation,
        lambda: strip_tiff(data, directory),
        has_16_bits=layout.bits == 16,
        has_more_frames=directory.followed,
        layout=layout,
    )


def _avif(data: bytes) -> Header:
    picture = read_picture(data)
    brand = b"avif"  # of a sequence too: its still picture, and not its track, is decoded
    return Header(
        "AVIF",
        picture.height,
        picture.width,
        picture.turn,
        lambda: without_items(data[:8] + brand + data[12:], picture.metadata),
        has_more_frames=picture.has_more,
        crop=picture.crop,
    )


def _heic(data: bytes) -> Header:
    picture = read_picture(data)
    height, width = picture.height, picture.width
    if picture.turn >= 5:
        height, width = width, height
    return Header(
        "HEIC",
        height,
        width,
        1,  # libheif crops and turns
        lambda: without_items(data, picture.metadata),
        has_more_frames=picture.has_more,
    )


def _jpeg_2000(data: bytes) -> Header:
    found = read_codestream(data)
    return Header(
        "JPEG 2000", found.height, found.width, 1, lambda: data, has_16_bits=found.bits == 16
    )


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(magics)


#: By format: whether a file has it, from its first bytes, and the function that reads its header.
FORMATS: dict[str, tuple[Callable[[bytes], bool], Callable[[bytes], Header]]] = {
    "JPEG": (_starts(b"\xff\xd8\xff"), _jpeg),
    "PNG": (_starts(b"\x89PNG\r\n\x1a\n"), read_png),
    "WebP": (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp),
    "GIF": (_starts(b"GIF87a", b"GIF89a"), _gif),
    "BMP": (_starts(b"BM"), _bmp),
    "TIFF": (_starts(b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"), _tiff),
    "AVIF": (is_avif, _avif),
    "HEIC": (is_heic, _heic),
    "JPEG 2000": (_starts(BOXES, CODESTREAM), _jpeg_2000),
}
