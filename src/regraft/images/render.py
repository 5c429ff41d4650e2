"""From a decoded image to what the network sees: the one rendering of training and prediction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

Interpolation = Literal["bilinear", "bicubic"]

# A centre crop sees no more of the long side than one short side; a longer side is cut to its
# middle before anything is resized. Without the cut 1 x 65,535 pixels, enlarged to a short side of
# 256, would be 13 GB. Four short sides leave room for the bicubic filter's two pixels on either
# side even where the short side is one pixel. Images of up to 4:1 are not touched, and come out as
# torchvision's Resize and CenterCrop render them, bit for bit.
_LONGEST = 4


@dataclass(frozen=True)
class Preprocess:
    """From a decoded image to what the network sees, as the weights' own record says.

    The short side is resized to ``resize_size`` with antialiasing, the centre square of
    ``image_size`` is cut out, pixels are divided by 255, ``mean`` is subtracted and the result
    divided by ``std``.

    With ``views``, so many augmented views of the image are rendered beside the plain one, the same
    ones of every image, and features are the mean over all. With ``view``, one augmented view of
    its own takes the image's place: of training images only, never in a bundle.
    """

    image_size: int  # pixels, side of the square
    resize_size: int  # pixels, short side before the crop; at least image_size
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    views: int = 0
    view: int = 0
    augment: str = "none"  # key of ``regraft.images.augment.AUGMENTATIONS``: what views are

    def recorded(self) -> dict[str, Any]:
        """Return what bundles and metrics.json hold of it."""
        fields = asdict(self)
        del fields["view"]
        return fields


def render(image: NDArray[np.uint8], preprocess: Preprocess) -> torch.Tensor:
    """Resize the short side with antialiasing and cut out the centre square.

    Parameters
    ----------
    image : array of shape (H, W, 3), uint8
        Decoded pixels; any size from 1 x 1.
    preprocess : Preprocess
        Sizes in pixels and the interpolation.

    Returns
    -------
    torch.Tensor of shape (3, image_size, image_size), uint8
        On the processor; in memory its channels lie together (channels_last), so that batches for
        a channels_last network are copied in runs.

    Examples
    --------
    >>> import numpy as np
    >>> from regraft.images.render import Preprocess
    >>> preprocess = Preprocess(224, 256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    >>> render(np.zeros((1, 65535, 3), dtype=np.uint8), preprocess).shape
    torch.Size([3, 224, 224])
    """
    height, width = image.shape[:2]
    longest = _LONGEST * min(height, width)
    top, left = _margin(height, longest), _margin(width, longest)
    image = image[top : height - top, left : width - left]
    # torch takes no negative strides, and warns of read-only pixels, which Pillow's are; copying
    # those costs a tenth of the resizing.
    image = np.require(image, requirements=["C", "W"])
    height, width = image.shape[:2]

    # Torchvision's rule for the long side: truncated, not rounded.
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
    # A copy: the caller's pixels and the rest of the resized image are let go.
    return window.clone(memory_format=torch.contiguous_format).permute(2, 0, 1)


def _margin(length: int, longest: int) -> int:
    """Pixels to cut on either side; the same on both, so that the centre stays where it is."""
    return max(0, (length - longest) // 2)


def normalise(
    batch: torch.Tensor, preprocess: Preprocess, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Map pixels 0 to 255 to the range that the network was trained on.

    Parameters
    ----------
    batch : torch.Tensor of shape (N, 3, S, S), uint8
        Rendered images, on any device.
    preprocess : Preprocess
        Mean and standard deviation, for pixels from 0 to 1.
    dtype : torch.dtype
        Of the result; the arithmetic is float32.

    Returns
    -------
    torch.Tensor of shape (N, 3, S, S)
        On the batch's device and in its memory format.

    Examples
    --------
    >>> from regraft.images.render import Preprocess
    >>> preprocess = Preprocess(1, 1, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    >>> batch = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    >>> normalise(batch, preprocess).view(-1)
    tensor([-1.0000,  1.0000, -0.6000])
    """
    mean = torch.tensor(preprocess.mean, device=batch.device).mul_(255).view(1, 3, 1, 1)
    std = torch.tensor(preprocess.std, device=batch.device).mul_(255).view(1, 3, 1, 1)
    return batch.to(torch.float32).sub_(mean).div_(std).to(dtype)
