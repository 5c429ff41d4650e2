"""Pictures read back, and names that are hard to draw."""

import numpy as np
from PIL import Image

STRANGE = ["Gänseblümchen", "$x_1$ and $", "snake_" * 10, "猫", "a\nb", "🐶 dog", "\x00", ""]


def read(path):
    """Return the pixels of a picture, (H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
