"""The types of an image that is not decoded yet, and of the function that reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

#: An encoded image file, or decoded pixels: uint8 (H, W) or (H, W, 3).
Payload: TypeAlias = bytes | NDArray[np.uint8]

#: Reads one payload; is called in a worker thread and may raise ImageError.
Load: TypeAlias = Callable[[], Payload]
