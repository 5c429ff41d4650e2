"""Refuse TIFFs whose first page is a thumbnail: raw files of cameras, and others of that kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.errors import ImageError

if TYPE_CHECKING:
    from regraft.images.tiff import Directory

_MAKE, _SMALLER_COPY, _INNER_PAGES, _DNG_VERSION = 271, 254, 330, 50706
#: By the beginning of the maker's name: the suffix of its raw files.
_RAW_FILES = {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "RICOH": "PEF", "SAMSUNG": "SRW",
              "HASSELBLAD": "3FR", "PHASE ONE": "IIQ", "LEAF": "MOS", "KODAK": "DCR",
              "EASTMAN KODAK": "DCR", "EPSON": "ERF", "CANON": "CR2"}  # fmt: skip
_HINT = "develop it to JPEG or TIFF"


def refuse_thumbnail(data: bytes, directory: Directory) -> None:
    """Raise ``ImageError`` if the first page is not the image but a smaller copy of it.

    In these files the image of the sensor stands in another page, which is not read.
    """
    if _DNG_VERSION in directory.entries:
        raise ImageError("unsupported format", f"a raw camera image (DNG); {_HINT}")
    if data[8:10] == b"CR":
        raise ImageError("unsupported format", f"a raw camera image (CR2); {_HINT}")
    elsewhere = directory.followed or _INNER_PAGES in directory.entries
    if not (elsewhere and directory.integer(data, _SMALLER_COPY) & 1):
        return
    size = " by ".join(f"{directory.integer(data, tag):,}" for tag in (256, 257))
    make = directory.packed(data, _MAKE).split(b"\0")[0].decode("ascii", "replace").upper()
    for maker, suffix in _RAW_FILES.items():
        if make.startswith(maker) and _INNER_PAGES in directory.entries:
            raise ImageError(
                "unsupported format",
                f"a raw camera image ({suffix}), whose first page is a thumbnail of {size} pixels; "
                f"{_HINT}",
            )
    raise ImageError(
        "unsupported format",
        f"a TIFF whose first page is a smaller copy of the image ({size} pixels); save the image "
        "as the first page",
    )
