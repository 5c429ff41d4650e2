"""Which image size a network sees: its own, one that was asked for, or one that fits the images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from regraft.backbones.stages import find_stages
from regraft.errors import BackboneError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.images.render import Preprocess

MAX_IMAGE_SIZE = 4096  # pixels
#: Digits of 8 pixels, twelve splits: 0.9954 and a log-loss of 0.0150 at 64, 0.9973 and 0.0106 here.
_LEAST = 128


def scaled(preprocess: Preprocess, size: int, *, crop: bool) -> Preprocess:
    """Set the image size, and nothing else, of a preprocessing.

    Parameters
    ----------
    preprocess : Preprocess
        Stays as it is.
    size : int
        Pixels, side of the square.
    crop : bool
        Keep the ratio of resizing to cropping; else the whole short side is seen.

    Returns
    -------
    Preprocess
        A copy.

    Examples
    --------
    >>> from regraft.images.render import Preprocess
    >>> own = Preprocess(224, 256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    >>> scaled(own, 112, crop=True).resize_size, scaled(own, 112, crop=False).resize_size
    (128, 112)
    """
    resize = size * preprocess.resize_size // preprocess.image_size if crop else size
    return dataclasses.replace(preprocess, image_size=size, resize_size=resize)


def at_image_size(backbone: Backbone, size: int, *, crop: bool = True) -> Backbone:
    """Set the image size that the network sees.

    Parameters
    ----------
    backbone : Backbone
        Stays as it is.
    size : int
        Pixels, side of the square.
    crop : bool
        Keep the ratio of resizing to cropping of the weights' record; else the whole short side is
        seen.

    Returns
    -------
    Backbone
        The same module with other preprocessing.

    Raises
    ------
    BackboneError
        Where the network does not take this size.

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> at_image_size(load_backbone("embedded", "none"), 112).preprocess.resize_size
    128
    """
    own, sizes = backbone.preprocess, backbone.sizes
    if sizes.fixed and size != own.image_size:
        raise BackboneError(
            f"{backbone.name} takes images of {own.image_size} pixels only, not {size}",
            hint=f"leave --image-size away or give {own.image_size}",
        )
    if not sizes.minimum <= size <= MAX_IMAGE_SIZE or size % sizes.multiple:
        step = f" in steps of {sizes.multiple}" if sizes.multiple > 1 else ""
        raise BackboneError(
            f"{backbone.name} takes images of {sizes.minimum} to {MAX_IMAGE_SIZE} pixels{step}, "
            f"not {size}"
        )
    if size != own.image_size:
        _try_out(backbone, size)
    return dataclasses.replace(backbone, preprocess=scaled(own, size, crop=crop))


def _try_out(backbone: Backbone, size: int) -> None:
    """Run one image: no table of accepted sizes covers a thousand architectures."""
    try:
        shapes = find_stages(backbone.module, size)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BackboneError(
            f"{backbone.name} does not take images of {size} pixels: {reason}",
            hint=f"its own size is {backbone.preprocess.image_size}",
        ) from error
    if (shapes.n_features, shapes.stages) != (backbone.n_features, backbone.stages):
        raise BackboneError(f"{backbone.name} gives other features for images of {size} pixels")


def fitted_to(
    backbone: Backbone, sizes: NDArray[np.int32], *, automatic: bool
) -> tuple[Backbone, str]:
    """Let a network see images as suits their size.

    Parameters
    ----------
    backbone : Backbone
        At its own image size, or at one that was asked for.
    sizes : array of shape (N, 2), int
        Height and width of the images, in pixels.
    automatic : bool
        Choose the image size as well.

    Returns
    -------
    Backbone
        Images that are enlarged twofold or more are shown whole: they have no margin to lose.
    str
        The image size with its reason, one sentence.

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> backbone, reason = fitted_to(
    ...     load_backbone("embedded", "none"), np.array([[28, 28]]), automatic=True
    ... )
    >>> backbone.preprocess.image_size, backbone.preprocess.resize_size
    (128, 128)
    """
    size = backbone.preprocess.image_size
    reason = f"image size {size}: as given"
    if automatic:
        size, reason = automatic_image_size(backbone, sizes)
    if _are_small(sizes, size):
        backbone = at_image_size(backbone, size, crop=False)
    return backbone, reason


def _are_small(sizes: NDArray[np.int32], size: int) -> bool:
    return len(sizes) > 0 and 2 * _median_side(sizes) <= size


def _median_side(sizes: NDArray[np.int32]) -> float:
    """Return the median short side, in pixels."""
    return float(np.median(np.min(np.asarray(sizes), axis=1)))


def automatic_image_size(backbone: Backbone, sizes: NDArray[np.int32]) -> tuple[int, str]:
    """Choose an image size that fits the images, with its reason in words.

    Small images are enlarged fourfold, to 128 pixels at least and the network's own size at most:
    its filters were trained on objects that fill more than a few pixels, but empty pixels cost
    time. Measured on digits, MNIST and CIFAR-10 (docs/design/heads.md).

    Parameters
    ----------
    backbone : Backbone
        At its own image size.
    sizes : array of shape (N, 2), int
        Height and width of the images, in pixels.

    Returns
    -------
    int
        Pixels, for ``at_image_size``; see ``fitted_to``.
    str
        One sentence.

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> backbone = load_backbone("embedded", "none")
    >>> automatic_image_size(backbone, np.array([[28, 28]]))
    (128, 'image size 128: the images have a median short side of 28 pixels, and are enlarged')
    """
    own, accepted = backbone.preprocess.image_size, backbone.sizes
    if len(sizes) == 0:
        return own, f"image size {own}: the network's own"
    median = _median_side(sizes)
    found = f"the images have a median short side of {median:g} pixels"
    if not _are_small(sizes, own):
        return own, f"image size {own}: the network's own ({found})"
    if accepted.fixed:
        return own, f"image size {own}: the only one that this network takes ({found})"
    step = int(np.lcm(32, accepted.multiple))
    size = max(_LEAST, accepted.minimum, round(4 * median / 32) * 32)
    size = min(own, -(-size // step) * step)
    try:
        at_image_size(backbone, size, crop=False)
    except BackboneError:
        return own, f"image size {own}: the network's own; it does not take {size} ({found})"
    return size, f"image size {size}: {found}, and are enlarged"
