"""One row of the store: its key, and its bytes with a checksum."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 3  # raised when the format of a row changes; part of the name of the file
_START = struct.Struct("<HHI")  # schema, blocks, bytes of the header that follows
_BLOCK = struct.Struct("<BBI")  # bytes of the name that follows, is float16, width
_CHECKSUM = struct.Struct("<I")

#: One image's blocks by name, each float16 or float32 of shape (D,).
Row: TypeAlias = Mapping[str, NDArray[np.floating[Any]]]
#: Names and widths of the blocks that a row must have, in their order.
Layout: TypeAlias = tuple[tuple[str, int], ...]
_Position: TypeAlias = tuple[type[np.floating[Any]], int, int]  # of a block: type, width, offset


def row_key(content_hash: bytes, view: int, fingerprint: bytes) -> bytes:
    """Return the key (32 bytes) of a row: a hash of all that its bits depend on.

    ``content_hash`` is the sha256 of the image's bytes, ``view`` is 0 for the image without
    augmentation, and ``fingerprint`` comes from ``fingerprint_of``. The path of the image is not
    part of the key.

    Examples
    --------
    >>> row_key(bytes(32), 0, b"a") == row_key(bytes(32), 1, b"a")
    False
    """
    digest = hashlib.sha256(content_hash)
    digest.update(struct.pack("<Q", view))
    digest.update(fingerprint)
    return digest.digest()


def fingerprint_of(description: Mapping[str, Any]) -> bytes:
    """Return the sha256 of a JSON-ready description with its keys in order."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).digest()


def encode_row(key: bytes, row: Row) -> bytes:
    """Return a row as bytes: schema, header of block names and widths, values, CRC-32.

    The checksum covers the key too, so that a row under the key of another row is noticed.

    Examples
    --------
    >>> data = encode_row(b"k", {"pooled@1": np.ones(2, np.float16)})
    >>> decode_row(b"k", data)["pooled@1"]
    array([1., 1.], dtype=float16)
    >>> decode_row(b"other", data) is None
    True
    """
    header = b""
    for name, values in row.items():
        encoded, is_half = name.encode(), values.dtype == np.float16
        header += _BLOCK.pack(len(encoded), is_half, len(values)) + encoded
    header += bytes(-len(header) % 8)  # aligned values are read faster
    parts = [_START.pack(SCHEMA_VERSION, len(row), len(header)), header]
    parts += [np.ascontiguousarray(values).tobytes() for values in row.values()]
    body = b"".join(parts)
    return body + _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(key)))


def decode_row(
    key: bytes, data: object, layout: Layout | None = None
) -> dict[str, NDArray[Any]] | None:
    """Return the blocks of a row, as views; None if this is not what was written for the key.

    With ``layout``, it is None too if the row has other blocks than these.
    """
    sound = _checked(key, data)
    if sound is None:
        return None
    positions = _positions(*_header(sound), len(sound), layout)
    if positions is None:
        return None
    return {name: np.frombuffer(sound, *position) for name, position in positions.items()}


def decode_values(
    key: bytes, data: object, names: tuple[str, ...], layout: Layout | None = None
) -> list[NDArray[np.floating[Any]]] | None:
    """Return some blocks side by side, adjacent ones in one array: faster than ``decode_row``.

    Examples
    --------
    >>> data = encode_row(b"k", {"a": np.ones(2, np.float16), "b": np.zeros(1, np.float16)})
    >>> decode_values(b"k", data, ("a", "b"))
    [array([1., 1., 0.], dtype=float16)]
    """
    sound = _checked(key, data)
    if sound is None:
        return None
    runs = _runs(*_header(sound), len(sound), layout, names)
    return None if runs is None else [np.frombuffer(sound, *run) for run in runs]


def _checked(key: bytes, data: object) -> bytes | None:
    if not isinstance(data, bytes) or len(data) < _START.size + _CHECKSUM.size:
        return None
    (checksum,) = _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)
    if zlib.crc32(memoryview(data)[: -_CHECKSUM.size], zlib.crc32(key)) != checksum:
        return None
    return data if data.startswith(SCHEMA_VERSION.to_bytes(2, "little")) else None


def _header(data: bytes) -> tuple[bytes, int]:
    _, n_blocks, length = _START.unpack_from(data)
    return data[_START.size : _START.size + length], n_blocks


@functools.lru_cache(maxsize=64)  # thousands of rows have one header
def _positions(
    header: bytes, n_blocks: int, size: int, layout: Layout | None
) -> dict[str, _Position] | None:
    """Return the type, width and offset of each block in a row of ``size`` bytes.

    It is None unless the header says exactly what the row holds, and that is what ``layout`` asks
    for: a checksum notices accidents, and anybody can write one.
    """
    positions: dict[str, _Position] = {}
    at, offset = 0, _START.size + len(header)
    try:
        for _ in range(n_blocks):
            name_length, is_half, width = _BLOCK.unpack_from(header, at)
            at += _BLOCK.size
            name = header[at : at + name_length].decode()
            at += name_length
            positions[name] = (np.float16 if is_half else np.float32, width, offset)
            offset += width * (2 if is_half else 4)
    except (struct.error, UnicodeDecodeError):
        return None
    padded = at <= len(header) == at + -at % 8
    if not padded or len(positions) != n_blocks or offset + _CHECKSUM.size != size:
        return None
    found = tuple((name, width) for name, (_, width, _) in positions.items())
    return positions if layout in (None, found) else None


@functools.lru_cache(maxsize=256)
def _runs(
    header: bytes, n_blocks: int, size: int, layout: Layout | None, names: tuple[str, ...]
) -> list[_Position] | None:
    """Return the positions of some blocks, adjacent blocks of one type as one."""
    positions = _positions(header, n_blocks, size, layout)
    if positions is None or not positions.keys() >= {*names}:
        return None
    runs: list[_Position] = []
    for dtype, width, offset in map(positions.__getitem__, names):
        if runs and runs[-1][0] is dtype:
            _, before, start = runs[-1]
            if start + before * np.dtype(dtype).itemsize == offset:
                runs[-1] = (dtype, before + width, start)
                continue
        runs.append((dtype, width, offset))
    return runs
