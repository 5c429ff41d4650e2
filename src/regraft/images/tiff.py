"""Read the first directory of a TIFF structure, which TIFF files and EXIF blocks have.

TIFF 6.0 (Adobe, 1992); BigTIFF as libtiff writes it; CIPA DC-008 (EXIF 2.32), section 4.5.
``rewrite`` returns a file with another directory, as a TIFF of 32 bits: Pillow reads no big-endian
BigTIFF.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from regraft.errors import ImageError

ORIENTATION = 274
#: By TIFF type: number of bytes of one value.
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
               16: 8, 18: 8}  # fmt: skip
_MAX_TAGS = 65_535  # the most that a TIFF of 32 bits can have
_MAX_VALUES = 1 << 20  # of one tag: a strip for each row of a million
#: Types of whole numbers; 13 and 18 are offsets of directories.
_INTEGERS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}


class Directory(NamedTuple):
    """The first directory of a TIFF structure; an entry is (type, count, value or its offset)."""

    order: str  # of bytes: "<" or ">", as in struct
    big: bool  # BigTIFF: 64 bit offsets
    entries: dict[int, tuple[int, int, bytes]]
    followed: bool  # by another directory, which is another page

    def packed(self, data: bytes, tag: int) -> bytes:
        """Return the bytes of a tag's values; empty if it is missing or outside of the file."""
        kind, count, field = self.entries.get(tag, (0, 0, b""))
        if count > _MAX_VALUES:
            return b""
        size = count * _TYPE_BYTES.get(kind, 0)
        if size > len(field):
            start = struct.unpack(self.order + ("Q" if self.big else "L"), field)[0]
            field = data[start : start + size]
        return field[:size] if size <= len(field) else b""

    def integers(self, data: bytes, tag: int) -> tuple[int, ...]:
        """Return the values of a tag; empty if it is missing, no integer or outside of the file."""
        kind, count, _ = self.entries.get(tag, (0, 0, b""))
        if kind not in _INTEGERS or not (packed := self.packed(data, tag)):
            return ()
        return struct.unpack(f"{self.order}{count}{_INTEGERS[kind]}", packed)

    def integer(self, data: bytes, tag: int) -> int:
        """Return the value of a tag; 0 if it has no value or several."""
        values = self.integers(data, tag)
        return values[0] if len(values) == 1 else 0

    def orientation(self, data: bytes) -> int:
        """Return the orientation 1 to 8; 1 if the tag is missing or invalid."""
        value = self.integer(data, ORIENTATION)
        return value if 1 <= value <= 8 else 1


def read_directory(data: bytes) -> Directory:
    """Read the first directory; raise ``struct.error`` if the data end before it."""
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] == 43:
        start = struct.unpack_from(order + "Q", data, 8)[0]
        count = struct.unpack_from(order + "Q", data, min(start, len(data)))[0]
        first, entry = start + 8, struct.Struct(order + "HHQ8s")
    else:
        start = struct.unpack_from(order + "L", data, 4)[0]
        count = struct.unpack_from(order + "H", data, start)[0]
        first, entry = start + 2, struct.Struct(order + "HHL4s")
    end = first + count * entry.size
    if end > len(data) or count > _MAX_TAGS:
        raise struct.error
    entries: dict[int, tuple[int, int, bytes]] = {}
    for tag, kind, number, field in entry.iter_unpack(data[first:end]):
        entries.setdefault(tag, (kind, number, field))  # the first of two is used, as in libtiff
    followed = any(data[end : end + (8 if entry.size == 20 else 4)])
    return Directory(order, entry.size == 20, entries, followed)


def exif_orientation(exif: bytes) -> int:
    r"""Return the orientation 1 to 8 of an EXIF block; 1 if it is invalid, as in image viewers.

    Examples
    --------
    >>> entry = b"\1\x12" + b"\0\3" + b"\0\0\0\1" + b"\0\6\0\0"  # tag 274, SHORT, one value, 6
    >>> exif_orientation(b"Exif\0\0" + b"MM\0*" + b"\0\0\0\x08" + b"\0\1" + entry)
    6
    """
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in {b"II*\0", b"MM\0*"}:
        return 1
    try:
        return read_directory(exif).orientation(exif)
    except struct.error:
        return 1


# The tags that libtiff and Pillow need to decode the pixels. All others (EXIF, XMP, colour
# profiles, further pages, tags of manufacturers) are removed: they cause warnings and errors.
_TIFF_SCALARS = {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 531}
_TIFF_ARRAYS = {258, 273, 279, 320, 324, 325, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530,
                532}  # fmt: skip


def pieces_of_plane(data: bytes, directory: Directory) -> int:
    """Return the number of strips or tiles that cover the image once."""
    width, height, tile_width, tile_height = (
        directory.integer(data, tag) for tag in (256, 257, 322, 323)
    )
    if tile_width and tile_height:
        return -(-width // tile_width) * -(-height // tile_height)
    return -(-height // (directory.integer(data, 278) or height))


def _strip_bytes(data: bytes, directory: Directory) -> int:
    """Return the most bytes that a strip can have that is not compressed."""
    width, height, rows = (directory.integer(data, tag) for tag in (256, 257, 278))
    samples = 1 if directory.integer(data, 284) == 2 else directory.integer(data, 277) or 1
    bits = max(directory.integers(data, 258), default=1)
    return min(rows or height, height) * ((width * samples * bits + 7) // 8)


def _need_all_pieces(data: bytes, directory: Directory) -> None:
    """Refuse a file with fewer or more strips or tiles than its size needs.

    Pillow makes the rest black, or takes the last strip for the whole image.
    """
    needed = pieces_of_plane(data, directory)
    if directory.integer(data, 284) == 2:  # each channel has its own strips or tiles
        needed *= max(directory.integer(data, 277), 1)
    tiled = directory.integer(data, 322) and directory.integer(data, 323)
    found = len(directory.integers(data, 324 if tiled else 273))
    if found < needed:
        raise ImageError(
            "truncated", f"the TIFF file has {found} strips or tiles; its size needs {needed}"
        )
    if found > needed:
        raise ImageError(
            "corrupt", f"the TIFF file has {found} strips or tiles; its size needs {needed} only"
        )


def _need_whole_pieces(data: bytes, directory: Directory) -> None:
    """Refuse a file that ends within a strip or tile."""
    for offsets, counts in ((273, 279), (324, 325)):
        sizes = directory.integers(data, counts)
        if directory.integer(data, 259) == 1 and offsets == 273:  # some writers get them wrong
            sizes = tuple(min(size, _strip_bytes(data, directory)) for size in sizes)
        ends = map(sum, zip(directory.integers(data, offsets), sizes, strict=False))
        if max(ends, default=0) > len(data):
            raise ImageError(
                "truncated", f"the TIFF file ends after {len(data)} bytes, within its pixels"
            )


def strip_tiff(data: bytes, directory: Directory) -> bytes:
    """Return the file with a new directory at its end, which has only the tags of the pixels."""
    return rewrite(data, directory.order, pixel_tags(data, directory))


#: By tag: its type, the number of its values, and their bytes.
Tags: TypeAlias = dict[int, tuple[int, int, bytes]]


def pixel_tags(data: bytes, directory: Directory) -> Tags:
    """Return the tags that the pixels need; raise ``ImageError`` if tags or pixels are missing."""
    _need_whole_pieces(data, directory)
    _need_all_pieces(data, directory)
    kept: Tags = {}
    outside = 0
    for tag, (kind, count, field) in directory.entries.items():
        if tag not in _TIFF_SCALARS | _TIFF_ARRAYS:
            continue
        if not 0 < count <= _MAX_VALUES:
            raise ImageError("corrupt", f"TIFF tag {tag} has {count:,} values")
        packed = directory.packed(data, tag)
        outside += len(packed) if len(packed) > len(field) else 0
        if not packed or outside > len(data):
            raise ImageError("corrupt", f"the value of TIFF tag {tag} is outside of the file")
        if tag in _TIFF_SCALARS and (count != 1 or kind not in _INTEGERS):
            raise ImageError("corrupt", f"TIFF tag {tag} must be one whole number")
        kept[tag] = (kind, count, packed)
        if kind == 16:  # BigTIFF: offsets of 64 bits
            values = struct.unpack(f"{directory.order}{count}Q", packed)
            if max(values) >= 1 << 32:
                raise ImageError("corrupt", f"TIFF tag {tag} has values over 4,294,967,295")
            kept[tag] = (4, count, struct.pack(f"{directory.order}{count}L", *values))
    return kept


def rewrite(data: bytes, order: str, tags: Tags) -> bytes:
    """Return the file with another directory, of 32 bits; offsets of pixels stay as they are."""
    start = len(data) + len(data) % 2
    after = start + 2 + 12 * len(tags) + 4
    entries, values = [], bytearray()
    for tag, (kind, count, packed) in sorted(tags.items()):
        field = packed.ljust(4, b"\0")
        if len(packed) > 4:
            field = struct.pack(order + "L", after + len(values))
            values += packed + bytes(len(packed) % 2)
        entries.append(struct.pack(order + "HHL4s", tag, kind, count, field))
    return b"".join(
        (
            b"II*\0" if order == "<" else b"MM\0*",
            struct.pack(order + "L", start),
            data[8:],
            bytes(start - len(data)),
            struct.pack(order + "H", len(tags)),
            *entries,
            bytes(4),
            values,
        )
    )
