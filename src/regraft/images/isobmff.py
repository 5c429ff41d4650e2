"""Read the headers of AVIF and HEIC files, and bound what their decoders allocate.

Both are boxes (ISO/IEC 14496-12) that describe items (ISO/IEC 23008-12): the size that an item
declares stands in a box, the size that its decoder allocates in the coded picture. Both are
checked. EXIF is not read: the boxes ``irot`` and ``imir`` say how the picture is turned (6.5.10).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from regraft.errors import ImageError
from regraft.images.coded_size import av1_sizes, hevc_sizes
from regraft.images.header import word

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_BOXES = 20_000  # in one box; a large picture in a grid has hundreds of items
_MAX_DECODED = 2000  # items of one picture
_SMALL = 1 << 20  # pixels: pictures up to this size may be coded in larger ones
_CODECS = {b"av01", b"hvc1", b"hev1"}
_AVIF, _HEIC = {b"avif", b"avis"}, {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_EITHER = {b"mif1", b"mif2", b"msf1"}


class Picture(NamedTuple):
    """The primary picture of a file."""

    height: int  # pixels, after the crop, before it is turned
    width: int
    turn: int  # as the EXIF orientation, 1 to 8
    crop: tuple[int, int, int, int] | None  # top, left, bottom, right; None for the whole picture
    has_more: bool  # a sequence
    metadata: tuple[int, ...]  # where the types of the items stand that hold metadata


def is_avif(head: bytes) -> bool:
    """Return whether a file's first bytes are those of an AVIF."""
    return bool(_brands(head) & _AVIF)


def is_heic(head: bytes) -> bool:
    """Return whether a file's first bytes are those of a HEIC or HEIF file that is no AVIF."""
    brands = _brands(head)
    return bool(brands & _HEIC or brands & _EITHER) and not brands & _AVIF


def _brands(head: bytes) -> set[bytes]:
    if head[4:8] != b"ftyp":
        return set()
    major = head[8:12]
    if major not in _EITHER:
        return {major}
    end = min(int.from_bytes(head[:4], "big"), len(head), 512)
    return {major, *(head[at : at + 4] for at in range(16, end - 3, 4))}


def read_picture(data: bytes) -> Picture:
    """Read the primary picture; raise ``ImageError``, or ``struct.error`` for a cut header."""
    top = {name: (start, end) for name, start, end in _boxes(data, 0, len(data))}
    if b"meta" not in top:
        if b"moov" in top:
            raise ImageError("unsupported format", "a sequence of images without a still one")
        raise ImageError("corrupt", "there is no box meta")
    items = _Items(data, *top[b"meta"])
    primary = items.primary
    kind = items.kinds.get(primary, b"")
    if kind not in {*_CODECS, b"grid"}:
        raise ImageError("unsupported format", f"a picture coded as {word(kind) or 'nothing'}")
    height, width, turn, crop = items.geometry(primary)
    items.check_coded(primary, height * width)
    if crop is not None:
        height, width = crop[2] - crop[0], crop[3] - crop[1]
    return Picture(height, width, turn, crop, b"moov" in top, tuple(items.metadata))


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start of the contents, end) of the boxes in a part of a file."""
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        size, name = struct.unpack_from(">L4s", data, start)
        first = start + 8
        if size == 1:
            size, first = struct.unpack_from(">Q", data, first)[0], first + 8
        after = end if size == 0 else start + size
        if after < first or after > end:
            raise ImageError("truncated", f"the file ends within its box {word(name)}")
        yield name, first, after
        start = after
    raise ImageError("corrupt", f"more than {_MAX_BOXES:,} boxes")


def without_items(data: bytes, kinds: tuple[int, ...]) -> bytes:
    """Return the file with other types at these places, so that nobody reads its metadata."""
    changed = bytearray(data)
    for at in kinds:
        changed[at : at + 4] = b"skip"
    return bytes(changed)


class _Items:
    """The items of a meta box."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data = data
        boxes = {name: (first, after) for name, first, after in _boxes(data, start + 4, end)}
        for needed in (b"pitm", b"iinf", b"iloc", b"iprp"):
            if needed not in boxes:
                raise ImageError("corrupt", f"there is no box {needed.decode()}")
        at = boxes[b"pitm"][0]
        self.primary = self._number(at + 4, 4 if data[at] else 2)
        self.metadata: list[int] = []
        self.kinds = dict(self._kinds(*boxes[b"iinf"]))
        self._idat = boxes.get(b"idat", (0, 0))
        self._extents = dict(self._places(*boxes[b"iloc"]))
        self._properties, self._held = self._read_properties(*boxes[b"iprp"])
        self._references = list(self._read_references(*boxes.get(b"iref", (0, 0))))

    def _number(self, at: int, size: int) -> int:
        if at + size > len(self.data):
            raise struct.error
        return int.from_bytes(self.data[at : at + size], "big")

    def _kinds(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        start += 8 if self.data[start] else 6
        for name, first, _ in _boxes(self.data, start, end):
            version = self.data[first]
            if name == b"infe" and version >= 2:
                wide = 4 if version == 3 else 2
                at = first + 4 + wide + 2
                kind = self.data[at : at + 4]
                if kind in {b"Exif", b"mime"}:
                    self.metadata.append(at)
                yield self._number(first + 4, wide), kind

    def _places(self, start: int, end: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield each item with the start and end of its pieces in the file."""
        version, sizes = self.data[start], self._number(start + 4, 2)
        offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        wide = 4 if version == 2 else 2
        at = start + 6 + wide
        left = _MAX_BOXES  # pieces: they take no bytes where all sizes are zero
        for _ in range(min(self._number(start + 6, wide), _MAX_BOXES)):
            item, at = self._number(at, wide), at + wide
            method = self._number(at, 2) & 15 if version else 0
            at += (2 if version else 0) + 2
            origin, at = self._number(at, base), at + base
            number, at = self._number(at, 2), at + 2
            left -= number
            if left < 0:
                raise ImageError("corrupt", f"more than {_MAX_BOXES:,} pieces of items")
            pieces = []
            for _ in range(number):
                at += index if version else 0
                first, at = self._number(at, offset), at + offset
                size, at = self._number(at, length), at + length
                if at > end:
                    raise ImageError("corrupt", "the box iloc is too short")
                first += origin + (self._idat[0] if method == 1 else 0)
                pieces.append((first, first + size if size else len(self.data)))
            if method < 2:
                yield item, pieces

    def _read_properties(
        self, start: int, end: int
    ) -> tuple[list[tuple[bytes, int, int]], dict[int, list[int]]]:
        """Return the properties, and for each item the numbers of its own, in their order."""
        found: list[tuple[bytes, int, int]] = []
        held: dict[int, list[int]] = {}
        for name, first, after in _boxes(self.data, start, end):
            if name == b"ipco":
                found += _boxes(self.data, first, after)
            elif name == b"ipma":
                wide = 4 if self.data[first] else 2
                size = 2 if self.data[first + 3] & 1 else 1
                at = first + 8
                for _ in range(min(self._number(first + 4, 4), _MAX_BOXES)):
                    item, number = self._number(at, wide), self._number(at + wide, 1)
                    at += wide + 1
                    mask = (1 << 8 * size - 1) - 1
                    held.setdefault(item, []).extend(
                        self._number(at + size * each, size) & mask for each in range(number)
                    )
                    at += size * number
        return found, held

    def _read_references(self, start: int, end: int) -> Iterator[tuple[bytes, int, list[int]]]:
        """Yield (kind, from which item, to which)."""
        if end <= start:
            return
        wide = 4 if self.data[start] else 2
        for name, first, after in _boxes(self.data, start + 4, end):
            number = self._number(first + wide, 2)
            at = first + wide + 2
            if at + wide * number > after:
                raise ImageError("corrupt", "the box iref is too short")
            to = [self._number(at + wide * each, wide) for each in range(number)]
            yield name, self._number(first, wide), to

    def _of(self, item: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield the properties of an item: (name, start, end)."""
        for number in self._held.get(item, ()):
            if 1 <= number <= len(self._properties):
                yield self._properties[number - 1]

    def geometry(self, item: int) -> tuple[int, int, int, tuple[int, int, int, int] | None]:
        """Return height, width, orientation and crop of an item."""
        height = width = angle = 0
        axis: int | None = None
        crop: tuple[int, int, int, int] | None = None
        for name, start, _ in self._of(item):
            if name == b"ispe":
                width, height = struct.unpack_from(">LL", self.data, start + 4)
            elif name == b"clap":
                crop = _crop(struct.unpack_from(">LLLLlLlL", self.data, start), height, width)
            elif name == b"irot":
                angle = self.data[start] & 3
            elif name == b"imir":
                axis = self.data[start] & 1
        return height, width, _orientation(angle, axis), crop

    def check_coded(self, primary: int, area: int) -> None:
        """Refuse pictures that are coded much larger than they say, before they are decoded.

        The pieces of a grid and the pictures of alpha count, thumbnails do not: none is decoded.
        """
        wanted = {primary}
        for _ in range(2):  # alpha of the picture, then the pieces of both
            for kind, item, to in self._references:
                if kind == b"dimg" and item in wanted:
                    wanted.update(to)
                elif kind == b"auxl" and wanted & set(to):
                    wanted.add(item)
        pieces = [piece for item in wanted for piece in self._extents.get(item, ())]
        held = sum(end - start for start, end in pieces)
        # Equal pieces of a grid may share their bytes.
        if len(wanted) > _MAX_DECODED or held > 16 * max(len(self.data), _SMALL):
            raise ImageError("corrupt", f"{len(wanted):,} items of {held:,} bytes in one picture")
        coded = 0
        for item in wanted:
            sizes = list(self._coded_sizes(item))
            coded += max((across * down for across, down in sizes), default=0)
        if coded > 8 * max(area, _SMALL):
            raise ImageError(
                "corrupt", f"a picture of {area:,} pixels, coded in pictures of {coded:,} pixels"
            )

    def _coded_sizes(self, item: int) -> Iterator[tuple[int, int]]:
        """Yield the sizes (width, height) that the decoder of an item will read."""
        kind = self.kinds.get(item)
        pieces = self._extents.get(item, [])
        for start, end in pieces:
            if end > len(self.data) or start > end:
                raise ImageError(
                    "truncated", f"the file ends after {len(self.data)} bytes, within its pixels"
                )
        if kind not in _CODECS:
            return
        content = b"".join(self.data[start:end] for start, end in pieces)
        settings = b""
        for name, start, end in self._of(item):
            if name in {b"av1C", b"hvcC"}:
                settings = self.data[start:end]
            elif name == b"ispe":
                yield struct.unpack_from(">LL", self.data, start + 4)
        read = av1_sizes if kind == b"av01" else hevc_sizes
        yield from read(settings, content)


def _crop(clap: tuple[int, ...], height: int, width: int) -> tuple[int, int, int, int] | None:
    """Return the crop of a clean aperture; None if it is not of whole pixels within the picture."""
    edges = []
    for size, at in ((height, 2), (width, 0)):
        length, of, offset, parts = clap[at], clap[at + 1], clap[at + 4], clap[at + 5]
        if not of or not parts or length % of or not length:
            return None
        length //= of
        # The centre is (size - 1) / 2 + offset / parts, and the first pixel half a length before.
        first, rest = divmod((size - length) * parts + 2 * offset, 2 * parts)
        if rest or first < 0 or first + length > size:
            return None
        edges.append((first, first + length))
    (top, bottom), (left, right) = edges
    return top, left, bottom, right


def _orientation(angle: int, axis: int | None) -> int:
    """Return the EXIF orientation of quarter turns anticlockwise, then of a mirror.

    Axis 0 exchanges top and bottom, axis 1 left and right.
    """
    turned = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}
    return turned[axis][angle]
