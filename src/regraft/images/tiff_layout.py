"""How the samples of a TIFF are stored: which are read, and which have no defined colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from regraft.errors import ImageError

if TYPE_CHECKING:
    from regraft.images.tiff import Directory

_FORMATS = {2: "signed integers", 3: "floating point numbers", 5: "complex integers",
            6: "complex numbers"}  # fmt: skip
#: By photometric interpretation: the name, and the number of channels without extra samples.
COLOURS = {0: ("grey", 1), 1: ("grey", 1), 2: ("RGB", 3), 3: ("palette", 1), 4: ("mask", 1),
            5: ("CMYK", 4), 6: ("YCbCr", 3)}  # fmt: skip
_OTHER_COLOURS = {8: "LAB", 9: "LAB", 10: "LAB", 32803: "raw values of a camera's sensor",
                  34892: "raw values of a camera's sensor", 32844: "logarithms",
                  32845: "logarithms"}  # fmt: skip


class TiffLayout(NamedTuple):
    """How the samples of a TIFF's first page are stored."""

    data: bytes
    directory: Directory
    bits: int  # of a sample
    samples: int  # in a pixel
    photometric: int
    extra: tuple[int, ...]  # samples beside the colours; 1 and 2 are alpha, 1 premultiplied
    planar: bool  # each channel has its own strips or tiles
    compression: int

    @property
    def colours(self) -> str:
        """The name of the colour space."""
        return COLOURS.get(self.photometric, (f"photometric {self.photometric}", 1))[0]

    @property
    def is_read_by_planes(self) -> bool:
        """Whether ``tiff_pixels`` reads it, because Pillow alone does not, or wrongly."""
        if self.colours not in {"grey", "RGB", "CMYK", "YCbCr"} or self.bits not in {8, 12, 16}:
            return False
        if self.planar and self.samples > 1:
            return self.bits != 12
        return self.bits != 8 and self.samples < 3 and self.colours == "grey"

    def __str__(self) -> str:
        planes = ", in separate planes" if self.planar else ""
        return f"TIFF of {self.colours} with {self.samples} samples of {self.bits} bits{planes}"


def read_layout(data: bytes, directory: Directory) -> TiffLayout:
    """Return how the samples are stored; raise ``ImageError`` for those without defined colours."""
    number = directory.integer
    if (samples := number(data, 277) or 1) > 6:
        raise ImageError("unsupported pixels", f"TIFF with {samples} samples in a pixel")
    photometric = number(data, 262)
    if photometric in _OTHER_COLOURS:
        raise ImageError("unsupported pixels", f"TIFF of {_OTHER_COLOURS[photometric]}")
    all_bits = directory.integers(data, 258)[:samples] or (1,)  # some writers give too many
    several = " and ".join(map(str, sorted({*all_bits})))
    for kind in directory.integers(data, 339):
        if kind in _FORMATS:
            raise ImageError("unsupported pixels", f"TIFF of {_FORMATS[kind]} of {several} bits")
    if len({*all_bits}) > 1 or all_bits[0] not in {1, 2, 4, 8, 12, 16}:
        raise ImageError("unsupported pixels", f"TIFF of integers of {several} bits")
    extra = directory.integers(data, 338)
    if photometric == 2 and samples == 4 and not extra:
        extra = (2,)  # as Pillow and most other readers
    planar = number(data, 284) == 2 and samples > 1
    compression = number(data, 259) or 1
    layout = TiffLayout(
        data, directory, all_bits[0], samples, photometric, extra, planar, compression
    )
    if planar and not layout.is_read_by_planes:
        raise ImageError("unsupported pixels", str(layout))
    return layout
