"""Read the chunks of a PNG (Portable Network Graphics, third edition, W3C 2025)."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from regraft.errors import ImageError
from regraft.images.header import MAX_PIECES, Header, word
from regraft.images.png_text import orientation_in_text
from regraft.images.tiff import exif_orientation

if TYPE_CHECKING:
    from collections.abc import Iterator

_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start of the contents, end of the contents) of the chunks of a PNG."""
    position = 8
    for _ in range(MAX_PIECES):
        if position + 12 > len(data):
            raise ImageError(
                "truncated", f"the PNG file ends after {len(data)} bytes, without IEND"
            )
        name = data[position + 4 : position + 8]
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            raise ImageError(
                "truncated", f"the PNG file ends after {len(data)} bytes, within {word(name)}"
            )
        yield name, position + 8, end
        if name == b"IEND":
            return
        position = end + 4
    raise ImageError("corrupt", f"a PNG file of more than {MAX_PIECES:,} chunks")


def read_png(data: bytes) -> Header:
    """Read the header of a whole PNG."""
    if data[12:16] == b"CgBI":
        raise ImageError("unsupported format", "Apple's own variant of PNG (CgBI)")
    if data[12:16] != b"IHDR":
        raise ImageError("corrupt", "the PNG file does not begin with IHDR")
    width, height, depth, colour = struct.unpack_from(">LLBB", data, 16)
    kept: list[tuple[int, int]] = []
    orientation, animated = 0, False
    in_text = 0
    key: tuple[int, ...] = ()
    for name, start, end in _chunks(data):
        if name in _PNG_KEPT:
            kept.append((start - 8, end + 4))
        elif name == b"eXIf":
            orientation = exif_orientation(data[start:end])
        elif name in {b"tEXt", b"zTXt", b"iTXt"}:
            in_text = in_text or orientation_in_text(name, data[start:end])
        elif name == b"acTL":
            animated = int.from_bytes(data[start : start + 4], "big") > 1
        if name == b"tRNS" and not key:
            key = _colour_key(data[start:end], depth, colour)
    return Header(
        "PNG",
        height,
        width,
        orientation or in_text or 1,
        lambda: _strip_png(data, kept),
        has_16_bits=depth == 16,
        has_more_frames=animated,
        colour_key=key,
    )


def _colour_key(content: bytes, depth: int, colour: int) -> tuple[int, ...]:
    """Return the transparent value of grey, or the three of a colour; of others nothing."""
    channels = {0: 1, 2: 3}.get(colour, 0)
    if not channels or len(content) < 2 * channels:
        return ()
    values = struct.unpack_from(f">{channels}H", content)
    return tuple(value & (1 << depth) - 1 for value in values)  # 11.3.2.1: the lowest bits count


def _strip_png(data: bytes, kept: list[tuple[int, int]]) -> bytes:
    """Check the checksums; return the file without text, profiles and animation frames."""
    view = memoryview(data)
    for start, end in kept:  # Pillow does not check those of the pixels
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            name = word(data[start + 4 : start + 8])
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
