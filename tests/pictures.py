"""Pictures read back and encoded, and names that are hard to draw."""

import io

import numpy as np
from PIL import Image

STRANGE = ["Gänseblümchen", "$x_1$ and $", "snake_" * 10, "猫", "a\nb", "🐶 dog", "\x00", ""]


def read(path):
    """Return the pixels of a picture, (H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def encode(image, file_format="JPEG", **options):
    """Return a picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(orientation):
    """Return EXIF data that say how a picture is turned."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010E] = "a description"
    return block
