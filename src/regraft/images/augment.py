"""Augmentation: render an image for training, with random numbers from the image's own generator.

The generator depends on the seed, the epoch and the content of the image. torchvision's transforms
use torch's global generator: their random numbers depend on the order of the images, and they
change those of dropout. So only torchvision's functional kernels are used here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from regraft.core.keyed_random import generator
from regraft.core.torchvision_shim import load_functional
from regraft.images.render import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from regraft.images.render import Preprocess

    Random: TypeAlias = np.random.Generator
    Fill: TypeAlias = list[float]

_ATTEMPTS = 10  # as in torchvision, before RandomResizedCrop takes the centre


@dataclass(frozen=True)
class Augmentation:
    """The random changes of a training image."""

    # Smallest and largest share of the area in a random crop; None: crop as ``render`` does.
    area: tuple[float, float] | None = None
    flip: bool = False  # mirror half of the images
    strength: float = 0.0  # of TrivialAugment's one operation: 0 (none) to 1 (its "wide" ranges)
    erase: float = 0.0  # share of the images that lose a rectangle
    turn: float = 0.0  # largest angle, in degrees
    shift: float = 0.0  # largest shift, as a share of the side
    zoom: float = 0.0  # largest change of size, as a share


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "light": Augmentation(area=(0.5, 1.0), flip=True),
    "standard": Augmentation(area=(0.35, 1.0), flip=True, strength=0.5),
    "strong": Augmentation(area=(0.08, 1.0), flip=True, strength=1.0, erase=0.25),
    # RandomRotation(10) as in many tutorials, and small shifts; a mirrored digit is not a digit.
    "digits": Augmentation(turn=10.0, shift=0.08, zoom=0.1),
}


def render_views(
    image: NDArray[np.uint8], preprocess: Preprocess, content: bytes = b""
) -> torch.Tensor:
    """Render an image (H, W, 3) uint8 for the probe and the predictor, with its views.

    The random numbers of ``view`` depend on its number and on the hash of the image, ``content``.
    Those of ``views`` depend on their numbers alone: they are the same in training, in a bundle and
    for any encoding of the image.
    """
    augmentation = AUGMENTATIONS[preprocess.augment]
    if preprocess.view:
        random = generator("view", preprocess.view, content)
        return augment(image, preprocess, augmentation, random)  # (3, S, S)
    plain = render(image, preprocess)
    if not preprocess.views:
        return plain  # (3, S, S)
    views = [
        augment(image, preprocess, augmentation, generator("view", number))
        for number in range(1, preprocess.views + 1)
    ]
    return torch.stack([plain, *views])  # (1 + views, 3, S, S)


def augment(
    image: NDArray[np.uint8], preprocess: Preprocess, augmentation: Augmentation, random: Random
) -> torch.Tensor:
    """Render an image (H, W, 3) uint8 for training; without any changes, exactly as ``render``.

    Müller and Hutter, TrivialAugment, ICCV 2021. Zhong et al., Random Erasing, AAAI 2020.

    Examples
    --------
    >>> from regraft.images.render import Preprocess
    >>> from regraft.core.keyed_random import generator
    >>> preprocess = Preprocess(64, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    >>> image = np.zeros((80, 120, 3), dtype=np.uint8)
    >>> augment(image, preprocess, AUGMENTATIONS["strong"], generator(0, "a")).shape
    torch.Size([3, 64, 64])
    """
    kernels = load_functional()
    if augmentation.area is None:
        pixels = render(image, preprocess)
    else:
        pixels = _random_crop(image, preprocess, augmentation.area, random)
    if augmentation.turn:
        pixels = _move(pixels, augmentation, random)
    if augmentation.flip and random.random() < 0.5:
        pixels = kernels.horizontal_flip(pixels)
    if augmentation.strength:
        operations = _operations()
        name = list(operations)[random.integers(len(operations))]
        level = augmentation.strength * float(random.random())
        sign = 1.0 if random.random() < 0.5 else -1.0
        pixels = operations[name](pixels, level, sign)
    if augmentation.erase and random.random() < augmentation.erase:
        pixels = _erase(pixels, preprocess, random)
    return pixels


def _random_crop(
    image: NDArray[np.uint8], preprocess: Preprocess, area: tuple[float, float], random: Random
) -> torch.Tensor:
    """Crop a random area with an aspect ratio of 3:4 to 4:3, as torchvision's RandomResizedCrop."""
    kernels = load_functional()
    height, width = image.shape[:2]
    for _ in range(_ATTEMPTS):
        target = height * width * random.uniform(*area)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(random.integers(height - h + 1))
            left = int(random.integers(width - w + 1))
            break
    else:  # the image is too narrow: take the centre
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        top, left = (height - h) // 2, (width - w) // 2
    # A copy if needed: torch accepts no negative strides, and warns about read-only pixels.
    window = np.ascontiguousarray(image[top : top + h, left : left + w])
    window = window if window.flags.writeable else window.copy()
    side = preprocess.image_size
    resized: torch.Tensor = kernels.resize(
        torch.from_numpy(window).permute(2, 0, 1),
        [side, side],
        interpolation=kernels.InterpolationMode(preprocess.interpolation),
        antialias=True,
    )
    return resized


def _move(pixels: torch.Tensor, augmentation: Augmentation, random: Random) -> torch.Tensor:
    """Rotate, shift and zoom; fill the new area with the colour of the border."""
    kernels = load_functional()
    side = pixels.shape[-1]
    moved: torch.Tensor = kernels.affine(
        pixels,
        angle=random.uniform(-augmentation.turn, augmentation.turn),
        translate=[
            round(side * random.uniform(-augmentation.shift, augmentation.shift)) for _ in range(2)
        ],
        scale=1.0 + random.uniform(-augmentation.zoom, augmentation.zoom),
        shear=[0.0, 0.0],
        interpolation=kernels.InterpolationMode.BILINEAR,
        fill=_border(pixels),
    )
    return moved


def _erase(pixels: torch.Tensor, preprocess: Preprocess, random: Random) -> torch.Tensor:
    """Fill a rectangle of 2 to 33 % of the area with the mean colour, which is normalised to 0."""
    kernels = load_functional()
    side = pixels.shape[-1]
    share = random.uniform(0.02, 0.33)
    aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
    h = min(side, max(1, round(side * math.sqrt(share / aspect))))
    w = min(side, max(1, round(side * math.sqrt(share * aspect))))
    top, left = int(random.integers(side - h + 1)), int(random.integers(side - w + 1))
    colour = torch.tensor([round(255 * mean) for mean in preprocess.mean], dtype=torch.uint8)
    erased: torch.Tensor = kernels.erase(pixels, top, left, h, w, colour.view(3, 1, 1))
    return erased


def _border(pixels: torch.Tensor) -> Fill:
    """Return the median of each channel along the border: black for MNIST, white for scans."""
    edges = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], dim=1)
    return [float(value) for value in edges.median(dim=1).values]


@cache
def _operations() -> dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]]:
    """Return TrivialAugment's operations as functions of pixels, level (0 to 1) and sign."""
    kernels: Any = load_functional()

    def affine(pixels: torch.Tensor, **changes: Any) -> torch.Tensor:
        still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        moved: torch.Tensor = kernels.affine(
            pixels,
            **{**still, **changes},
            interpolation=kernels.InterpolationMode.BILINEAR,
            fill=_border(pixels),
        )
        return moved

    def angle(level: float, sign: float) -> float:
        return sign * math.degrees(math.atan(0.99 * level))

    def pixels_of(pixels: torch.Tensor, level: float, sign: float) -> int:
        return round(sign * level * pixels.shape[-1] / 7)  # 32 pixels of 224

    return {
        "identity": lambda x, _level, _sign: x,
        "shear x": lambda x, level, sign: affine(x, shear=[angle(level, sign), 0.0]),
        "shear y": lambda x, level, sign: affine(x, shear=[0.0, angle(level, sign)]),
        "shift x": lambda x, level, sign: affine(x, translate=[pixels_of(x, level, sign), 0]),
        "shift y": lambda x, level, sign: affine(x, translate=[0, pixels_of(x, level, sign)]),
        "rotate": lambda x, level, sign: affine(x, angle=135.0 * level * sign),
        "brightness": lambda x, level, sign: kernels.adjust_brightness(x, 1 + 0.99 * level * sign),
        "colour": lambda x, level, sign: kernels.adjust_saturation(x, 1 + 0.99 * level * sign),
        "contrast": lambda x, level, sign: kernels.adjust_contrast(x, 1 + 0.99 * level * sign),
        "sharpness": lambda x, level, sign: kernels.adjust_sharpness(x, 1 + 0.99 * level * sign),
        "posterize": lambda x, level, _sign: kernels.posterize(x, bits=8 - round(6 * level)),
        "solarize": lambda x, level, _sign: kernels.solarize(x, threshold=255.0 * (1 - level)),
        "autocontrast": lambda x, _level, _sign: kernels.autocontrast(x),
        "equalize": lambda x, _level, _sign: kernels.equalize(x),
    }
