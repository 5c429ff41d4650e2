"""What decoding leaves out of an image, which a user may not expect; told for all data alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.core.text import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from regraft.images.decode import HeaderInfo

FRAMES = "only the first frame or page is used"
DARK = (
    "with 16 bits a channel, of which less than an eighth of the range is used: nearly black once "
    "decoded; where the data have 12 bits, multiply the values by 16 and write the file again"
)
_DARK_BELOW = 32  # of 255
_NAMED = 5


def losses_of(header: HeaderInfo, pixels: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return what is lost of a decoded image: ``FRAMES``, ``DARK``, both or nothing."""
    frames = (FRAMES,) if header.has_more_frames else ()
    return (*frames, DARK) if is_dark(header, pixels) else frames


def is_dark(header: HeaderInfo, pixels: NDArray[np.uint8]) -> bool:
    """Return whether an image of 16 bits looks like one of 12: only its pixels show it."""
    return header.has_16_bits and bool(pixels.max() < _DARK_BELOW)


def losses_lines(names: Mapping[str, Sequence[str]], seen: str = "") -> list[str]:
    """Return a line for each loss, with the first names of the images that have it.

    ``seen`` tells for ``DARK`` how many images were decoded.

    Examples
    --------
    >>> losses_lines({FRAMES: ["a.gif", "b.gif"]})
    ['a.gif, b.gif: only the first frame or page is used']
    """
    return [
        f"{listed(each, _NAMED)}: {loss}{seen if loss == DARK else ''}"
        for loss, each in names.items()
        if each
    ]
