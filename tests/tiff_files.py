"""Write TIFF files of any layout from samples, independently of the libraries that read them."""

import itertools
import struct
import zlib

import numpy as np


def lzw(data):
    """Compress as TIFF's LZW: every byte as a code of nine bits, and the table cleared in time."""
    codes = [256]
    for start in range(0, len(data), 250):
        codes += [*data[start : start + 250], 256]
    bits = "".join(f"{code:09b}" for code in (*codes[:-1], 257))
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


PACK = {1: bytes, 5: lzw, 8: zlib.compress}


def tiff_file(samples, *, planar=False, big=False, order="<", tile=None, rows=None, compression=1,
              predictor=1, tags=()):  # fmt: skip
    """Return a TIFF of samples (H, W, C); ``tile`` and ``rows`` are the size of a piece.

    ``tags`` adds or replaces: {tag: (type, values)}.
    """
    height, width, channels = samples.shape
    down, across = (tile, tile) if tile else (rows or height, width)
    bits = samples.itemsize * 8
    planes = [samples[..., [at]] for at in range(channels)] if planar else [samples]
    pieces = []
    for plane, top, left in itertools.product(
        planes, range(0, height, down), range(0, width, across)
    ):
        piece = plane[top : top + down, left : left + across]
        if tile:
            piece = np.pad(
                piece, [(0, down - piece.shape[0]), (0, across - piece.shape[1]), (0, 0)]
            )
        if predictor == 2:
            piece = np.diff(piece, axis=1, prepend=piece[:, :1] * 0)
        pieces.append(PACK[compression](piece.astype(piece.dtype.newbyteorder(order)).tobytes()))
    start = 16 if big else 8
    starts = [start + size for size in itertools.accumulate(map(len, pieces), initial=0)][:-1]
    sizes = [len(piece) for piece in pieces]
    found = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels),
        259: (3, [compression]), 262: (3, [2 if channels >= 3 else 1]), 277: (3, [channels]),
        284: (3, [2 if planar else 1]), 317: (3, [predictor]),
    }  # fmt: skip
    if tile:
        found |= {322: (4, [tile]), 323: (4, [tile]), 324: (4, starts), 325: (4, sizes)}
    else:
        found |= {273: (4, starts), 278: (4, [down]), 279: (4, sizes)}
    return directory(b"".join(pieces), found | dict(tags), big=big, order=order)


def directory(body, tags, *, big=False, order="<", after=0):
    """Return a TIFF with the given contents after its header, and one directory."""
    room, number, count = (8, "Q", "Q") if big else (4, "L", "H")
    extra_at = (16 if big else 8) + len(body)
    extra, entries = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        form = {1: "B", 2: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}[kind]
        packed = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(packed) > room:
            field = struct.pack(order + number, extra_at + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            field = packed.ljust(room, b"\0")
        entries += struct.pack(f"{order}HH{number}", tag, kind, len(values)) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    if big:
        head += struct.pack(order + "HH", 8, 0)
    head += struct.pack(order + number, extra_at + len(extra))
    tail = struct.pack(order + count, len(tags)) + entries + struct.pack(order + number, after)
    return head + body + extra + tail
