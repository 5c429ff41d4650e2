"""Augmentation: one image and its own generator in, one rendering for training out.

All parameters come from the generator that is handed in, keyed by seed, epoch and content hash.
torchvision's transforms draw theirs from torch's global generator, where they depend on the order
of images and disturb dropout: only its functional kernels are used here.
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

_ATTEMPTS = 10  # torchvision's, before RandomResizedCrop settles for the middle


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image.

    Attributes
    ----------
    area : tuple of float or None
        Least and largest share of the image that a random crop keeps, then enlarged to the
        network's square; None: the evaluation rendering.
    flip : bool
        Mirror every second image.
    strength : float
        Of the one operation that TrivialAugment draws, from 0 (none) to 1 (its "wide" ranges).
    erase : float
        Share of the images that lose a rectangle.
    turn, shift, zoom : float
        Most degrees; most of the side; most of the size: how a digit may be moved.
    """

    area: tuple[float, float] | None = None
    flip: bool = False
    strength: float = 0.0
    erase: float = 0.0
    turn: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "light": Augmentation(area=(0.5, 1.0), flip=True),
    "standard": Augmentation(area=(0.35, 1.0), flip=True, strength=0.5),
    "strong": Augmentation(area=(0.08, 1.0), flip=True, strength=1.0, erase=0.25),
    # The tutorials' RandomRotation(10), with small moves: a mirrored digit is another sign.
    "digits": Augmentation(turn=10.0, shift=0.08, zoom=0.1),
}


def render_views(
    image: NDArray[np.uint8], preprocess: Preprocess, content: bytes = b""
) -> torch.Tensor:
    """Render an image as the probe and the predictor see it.

    Parameters
    ----------
    image : array of shape (H, W, 3), uint8
        Decoded pixels.
    preprocess : Preprocess
        With its views.
    content : bytes
        Hash of the image's bytes: decides what a training image's ``view`` shows.

    Returns
    -------
    tensor of shape (3, image_size, image_size), uint8
        With ``views`` (1 + views, 3, image_size, image_size), the plain one first; these are
        functions of their number alone: the same in training, in a bundle, and of any encoding.
    """
    recipe = AUGMENTATIONS[preprocess.augment]
    if preprocess.view:
        return augment(image, preprocess, recipe, generator("view", preprocess.view, content))
    plain = render(image, preprocess)
    if not preprocess.views:
        return plain
    numbers = range(1, preprocess.views + 1)
    views = [augment(image, preprocess, recipe, generator("view", number)) for number in numbers]
    return torch.stack([plain, *views])


def augment(
    image: NDArray[np.uint8], preprocess: Preprocess, recipe: Augmentation, random: Random
) -> torch.Tensor:
    """Render an image for training.

    Parameters
    ----------
    image : array of shape (H, W, 3), uint8
        Decoded pixels.
    preprocess : Preprocess
        Size and interpolation.
    recipe : Augmentation
        An entry of ``AUGMENTATIONS``.
    random : numpy.random.Generator
        Of this image in this epoch alone.

    Returns
    -------
    tensor of shape (3, image_size, image_size), uint8
        With an empty recipe ``render``'s own bits.

    References
    ----------
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
    if recipe.area is None:
        pixels = render(image, preprocess)
    else:
        pixels = _random_crop(image, preprocess, recipe.area, random)
    if recipe.turn:
        pixels = _move(pixels, recipe, random)
    if recipe.flip and random.random() < 0.5:
        pixels = kernels.horizontal_flip(pixels)
    if recipe.strength:
        operations = _operations()
        name = list(operations)[random.integers(len(operations))]
        level = recipe.strength * float(random.random())
        sign = 1.0 if random.random() < 0.5 else -1.0
        pixels = operations[name](pixels, level, sign)
    if recipe.erase and random.random() < recipe.erase:
        pixels = _erase(pixels, preprocess, random)
    return pixels


def _random_crop(
    image: NDArray[np.uint8], preprocess: Preprocess, area: tuple[float, float], random: Random
) -> torch.Tensor:
    """RandomResizedCrop with torchvision's rules: an area, an aspect from 3:4 to 4:3, a place."""
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
    else:  # too narrow for any of them: the middle
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        top, left = (height - h) // 2, (width - w) // 2
    # The window is copied: torch takes no negative strides and warns of read-only pixels.
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


def _move(pixels: torch.Tensor, recipe: Augmentation, random: Random) -> torch.Tensor:
    """Turn, shift and zoom; what comes in from outside has the colour of the border."""
    kernels = load_functional()
    side = pixels.shape[-1]
    moved: torch.Tensor = kernels.affine(
        pixels,
        angle=random.uniform(-recipe.turn, recipe.turn),
        translate=[round(side * random.uniform(-recipe.shift, recipe.shift)) for _ in range(2)],
        scale=1.0 + random.uniform(-recipe.zoom, recipe.zoom),
        shear=[0.0, 0.0],
        interpolation=kernels.InterpolationMode.BILINEAR,
        fill=_border(pixels),
    )
    return moved


def _erase(pixels: torch.Tensor, preprocess: Preprocess, random: Random) -> torch.Tensor:
    """Fill a rectangle of 2 to 33 % of the square with the mean colour, which becomes 0."""
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
    """Return each channel's median along the border: black for MNIST, white for scans."""
    edges = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], dim=1)
    return [float(value) for value in edges.median(dim=1).values]


@cache
def _operations() -> dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]]:
    """Return TrivialAugment's operations: ``f(pixels, level from 0 to 1, sign)``."""
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
