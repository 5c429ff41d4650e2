"""What is read of an image file before it is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from regraft.images.tiff_layout import TiffLayout

#: Segments, chunks or blocks of a file, to limit the time: a PNG of 1.6 GB in chunks of 8 kB.
MAX_PIECES = 200_000


class Header(NamedTuple):
    """The header of an image file."""

    format: str  # key of FORMATS
    height: int  # pixels, before the orientation is applied
    width: int
    orientation: int  # as in EXIF, 1 to 8; 1 if there is none or it is invalid
    strip_metadata: Callable[[], bytes]  # returns the file without it, and checks what it can
    channels: int = 0  # of a JPEG: 1, 3, or 4 (CMYK)
    has_16_bits: bool = False  # per channel; 8 of them are kept
    has_more_frames: bool = False  # or pages, which are not read
    colour_key: tuple[int, ...] = ()  # of a PNG: the stored value or colour that is transparent
    crop: tuple[int, int, int, int] | None = None  # top, left, bottom, right; of a decoded AVIF
    layout: TiffLayout | None = None  # of a TIFF


def word(name: bytes) -> str:
    """Return the name of a chunk or box of four bytes as printable text."""
    return name.decode("ascii", "backslashreplace") if name.isalnum() else name.hex(" ")
