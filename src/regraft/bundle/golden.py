"""Synthetic golden images: on them a bundle answers as it did when it was written.

They are made up (never a user's photographs) so that each trips over a different mistake: a wide
one over the crop, one with EXIF orientation over rotation, one with alpha over compositing, a small
grey one over enlarging.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def golden_images() -> dict[str, bytes]:
    """Return the golden images by file name, encoded.

    Returns
    -------
    dict of str to bytes
        The same at every call on the same machine; their bytes go into the bundle, since encoders
        differ between machines.

    Examples
    --------
    >>> sorted(golden_images())
    ['golden/alpha.png', 'golden/rotated.jpg', 'golden/small-grey.png', 'golden/wide.jpg']
    """
    upright = Image.fromarray(_scene(240, 180))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was held upright, the pixels lie on their side
    alpha = np.dstack([_scene(160, 160), np.tile(np.linspace(0, 255, 160), (160, 1))])
    return {
        "golden/wide.jpg": _encoded(Image.fromarray(_scene(150, 320)), "JPEG", quality=95),
        "golden/rotated.jpg": _encoded(upright, "JPEG", quality=95, exif=exif),
        "golden/alpha.png": _encoded(Image.fromarray(alpha.astype(np.uint8)), "PNG"),
        "golden/small-grey.png": _encoded(Image.fromarray(_scene(28, 28)).convert("L"), "PNG"),
    }


def _scene(height: int, width: int) -> NDArray[np.uint8]:
    """Paint smooth colour, an edge and a disc: something for every stage, alike on no two sides."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]  # (H, W) each
    red = 60 + 150 * x
    green = 128 + 90 * np.sin(9 * x + 4 * y)
    blue = np.where(x + 0.7 * y > 0.9, 190.0, 70.0)
    disc = (x - 0.35) ** 2 + (y - 0.3) ** 2 < 0.03
    picture = np.stack([red, green, blue], axis=-1)  # (H, W, 3)
    picture[disc] = (235, 200, 40)
    return picture.round().astype(np.uint8)


def _encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()
