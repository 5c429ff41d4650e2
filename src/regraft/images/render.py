"""Render decoded images as the network's input; training and prediction do it the same way."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

Interpolation = Literal["bilinear", "bicubic"]

# The centre crop uses at most one short side of the long side. So a long side of more than four
# short sides is cut to its middle before resizing: an image of 1 x 65,535 pixels, enlarged to a
# short side of 256, would need 13 GB. Four short sides leave the bicubic filter two pixels on both
# ends, also if the short side is one pixel. Images of up to 4:1 are not cut, and are rendered
# exactly as by torchvision's Resize and CenterCrop.
_MAX_ASPECT = 4


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of a network: how a decoded image becomes its input.

    The short side is resized to ``resize_size`` with antialiasing, and the centre square of
    ``image_size`` is cropped. Pixels are divided by 255, ``mean`` is subtracted, and the result is
    divided by ``std``.

    Attributes
    ----------
    image_size : int
        Side of the square, in pixels.
    resize_size : int
        Short side before the crop, in pixels; at least ``image_size``.
    mean, std : tuple of three floats
        Of the red, green and blue channels, for pixels from 0 to 1.
    interpolation : {"bilinear", "bicubic"}
        For resizing.
    views : int
        Number of augmented views that are rendered in addition to the plain image. They are the
        same for every image, and its features are the mean over all of them.
    view : int
        If not 0, one augmented view with this number replaces the image. It is different for every
        image; only training images have it, and a bundle never does.
    augment : str
        Key of ``regraft.images.augment.AUGMENTATIONS``: the augmentation of the views.

    Examples
    --------
    >>> imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    >>> Preprocess(224, 256, *imagenet, "bilinear").recorded()["resize_size"]
    256
    """

    image_size: int
    resize_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    views: int = 0
    view: int = 0
    augment: str = "none"

    def recorded(self) -> dict[str, Any]:
        """Return the fields that bundles and metrics.json record."""
        fields = asdict(self)
        del fields["view"]
        return fields


def render(image: NDArray[np.uint8], preprocess: Preprocess) -> torch.Tensor:
    """Resize the short side with antialiasing and crop the centre square.

    The result (3, S, S) is uint8 and channels_last in memory, so that batches for a channels_last
    network are copied in long runs.

    Examples
    --------
    >>> preprocess = Preprocess(224, 256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    >>> render(np.zeros((1, 65535, 3), dtype=np.uint8), preprocess).shape
    torch.Size([3, 224, 224])
    """
    height, width = image.shape[:2]
    longest = _MAX_ASPECT * min(height, width)
    top, left = _margin(height, longest), _margin(width, longest)
    image = image[top : height - top, left : width - left]
    # torch accepts no negative strides, and warns about read-only pixels, such as Pillow's. A copy
    # takes a tenth of the time of resizing.
    image = np.require(image, requirements=["C", "W"])
    height, width = image.shape[:2]

    # The long side is truncated, not rounded, as in torchvision.
    short, resize = min(height, width), preprocess.resize_size
    resized = (resize * height // short, resize * width // short)
    pixels = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)  # channels_last, not copied
    if resized != (height, width):
        pixels = interpolate(
            pixels,
            size=resized,
            mode=preprocess.interpolation,
            align_corners=False,
            antialias=True,
        )
    side = preprocess.image_size
    top, left = (round((length - side) / 2.0) for length in resized)
    window = pixels[0].permute(1, 2, 0)[top : top + side, left : left + side]
    # A copy, so that the image and the rest of the resized pixels can be freed.
    return window.clone(memory_format=torch.contiguous_format).permute(2, 0, 1)


def _margin(length: int, longest: int) -> int:
    """Return the pixels to cut on each side; equal on both, so that the centre stays the centre."""
    return max(0, (length - longest) // 2)


def normalise_pixels(
    batch: torch.Tensor, preprocess: Preprocess, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Subtract the mean of pixels (N, 3, S, S) uint8 and divide by their standard deviation.

    Device and memory format stay the same; the arithmetic is float32, whatever ``dtype`` is.

    Examples
    --------
    >>> preprocess = Preprocess(1, 1, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    >>> batch = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    >>> normalise_pixels(batch, preprocess).view(-1)
    tensor([-1.0000,  1.0000, -0.6000])
    """
    mean = torch.tensor(preprocess.mean, device=batch.device).mul_(255).view(1, 3, 1, 1)
    std = torch.tensor(preprocess.std, device=batch.device).mul_(255).view(1, 3, 1, 1)
    return batch.to(torch.float32).sub_(mean).div_(std).to(dtype)
