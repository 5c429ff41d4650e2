"""Write PNG files by hand."""

import struct
import zlib


def chunk(name, data):
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(width, height, depth=8, colour=2, pixels=b"", extra=b"", interlaced=0):
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    )
