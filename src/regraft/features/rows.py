"""One row of the store: its key, and its bytes with a checksum."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 1

#: One image's blocks by name, each float16 or float32 of shape (D,).
Row: TypeAlias = Mapping[str, NDArray[np.floating[Any]]]


def row_key(content_hash: bytes, view: int, fingerprint: bytes) -> bytes:
    """Return a row's key: of what is computed, never of where the image lies.

    Parameters
    ----------
    content_hash : bytes
        sha256 of the image's bytes, 32 bytes.
    view : int
        0 is the plain evaluation rendering.
    fingerprint : bytes
        From ``fingerprint_of``: everything else that the bits depend on.

    Returns
    -------
    bytes
        32 bytes.

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
    """Return a row as bytes: schema, blocks with name, type and width, values, CRC-32 at the end.

    The checksum covers the key too, so that a row that landed under another's key is noticed.

    Examples
    --------
    >>> data = encode_row(b"k", {"pooled@1": np.ones(2, np.float16)})
    >>> decode_row(b"k", data)["pooled@1"]
    array([1., 1.], dtype=float16)
    >>> decode_row(b"other", data) is None
    True
    """
    parts = [struct.pack("<BH", SCHEMA_VERSION, len(row))]
    for name, values in row.items():
        encoded = name.encode()
        is_half = values.dtype == np.float16
        parts.append(struct.pack("<BBI", len(encoded), is_half, len(values)) + encoded)
    parts += [np.ascontiguousarray(values).tobytes() for values in row.values()]
    body = b"".join(parts)
    return body + struct.pack("<I", zlib.crc32(body, zlib.crc32(key)))


def decode_row(key: bytes, data: bytes | memoryview) -> dict[str, NDArray[Any]] | None:
    """Return the blocks of a row, or None where the row is not what was written under that key.

    The arrays are views into ``data``.
    """
    data = memoryview(data)
    if len(data) < 7 or zlib.crc32(data[:-4], zlib.crc32(key)) != int.from_bytes(
        data[-4:], "little"
    ):
        return None
    version, n_blocks = struct.unpack_from("<BH", data)
    if version != SCHEMA_VERSION:
        return None
    headers, offset = [], 3
    for _ in range(n_blocks):
        name_length, is_half, width = struct.unpack_from("<BBI", data, offset)
        name = bytes(data[offset + 6 : offset + 6 + name_length]).decode()
        headers.append((name, np.float16 if is_half else np.float32, width))
        offset += 6 + name_length
    row: dict[str, NDArray[Any]] = {}
    for name, dtype, width in headers:
        row[name] = np.frombuffer(data, dtype=dtype, count=width, offset=offset)
        offset += row[name].nbytes
    return row
