"""Read the headers of JPEG 2000 files (ISO/IEC 15444-1): bare codestreams, and boxes."""

from __future__ import annotations

import struct
from typing import NamedTuple

from regraft.errors import ImageError

CODESTREAM = b"\xff\x4f\xff\x51"  # start of codestream, then its size
BOXES = b"\0\0\0\x0cjP  \r\n\x87\n"
_MAX_BOXES = 1000
_SMALL = 1 << 20  # pixels


class Codestream(NamedTuple):
    """The size of an image, from the first segment of its codestream."""

    height: int
    width: int
    bits: int  # of the deepest channel


def read_codestream(data: bytes) -> Codestream:
    """Find and read the codestream's header; raise ``ImageError`` for what cannot be decoded."""
    start = 0 if data.startswith(CODESTREAM) else _find_codestream(data)
    across, down, left, top, tile_width, tile_height, tile_left, tile_top, channels = (
        struct.unpack_from(">8LH", data, start + 8)
    )
    if channels not in {1, 2, 3, 4}:
        raise ImageError("unsupported format", f"JPEG 2000 with {channels} channels")
    parts = [struct.unpack_from(">3B", data, start + 42 + 3 * at) for at in range(channels)]
    width, height = across - left, down - top
    area = max(width * height, 0)
    if not tile_width or not tile_height or any(not part[1] or not part[2] for part in parts):
        raise ImageError("corrupt", "JPEG 2000 with tiles or channels of no size")
    tiles = -(-(across - tile_left) // tile_width) * -(-(down - tile_top) // tile_height)
    if tiles > max(area, _SMALL) // 1024:  # each takes kilobytes before any is decoded
        raise ImageError("corrupt", f"{width} by {height} pixels in {tiles:,} tiles")
    return Codestream(height, width, max((part[0] & 127) + 1 for part in parts))


def _find_codestream(data: bytes) -> int:
    at = 0
    for _ in range(_MAX_BOXES):
        size, name = struct.unpack_from(">L4s", data, at)
        first = at + 8
        if size == 1:
            size, first = struct.unpack_from(">Q", data, first)[0], first + 8
        if name == b"jp2c":
            if data[first : first + 4] != CODESTREAM:
                raise ImageError(
                    "corrupt", "JPEG 2000 whose codestream does not begin with its size"
                )
            if size and at + size > len(data):
                raise ImageError("truncated", f"the JPEG 2000 file ends after {len(data)} bytes")
            return first
        if size < first - at:
            raise ImageError("corrupt", "JPEG 2000 without a codestream")
        at += size
    raise ImageError("corrupt", f"a JPEG 2000 file of more than {_MAX_BOXES:,} boxes")
