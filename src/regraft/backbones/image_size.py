"""Choose the image size: the network's own, a given one, or one that fits the images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.backbones.stages import StageShapes, find_stages
from regraft.errors import BackboneError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from regraft.backbones.backbone import Backbone, ImageSizes
    from regraft.images.render import Preprocess

MAX_IMAGE_SIZE = 4096  # pixels
# Digits of 8 pixels, twelve splits: accuracy 0.9954 and log-loss 0.0150 at 64 pixels, 0.9973 and
# 0.0106 at 128.
_MIN_AUTOMATIC = 128


def resized(preprocess: Preprocess, size: int, *, crop: bool) -> Preprocess:
    """Return a preprocessing with another image size.

    With ``crop``, the part of the short side that is cut off stays the same; without, nothing is.

    Examples
    --------
    >>> from regraft.images.render import Preprocess
    >>> own = Preprocess(224, 256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    >>> resized(own, 112, crop=True).resize_size, resized(own, 112, crop=False).resize_size
    (128, 112)
    """
    resize = size * preprocess.resize_size // preprocess.image_size if crop else size
    return dataclasses.replace(preprocess, image_size=size, resize_size=resize)


def with_patches(sizes: ImageSizes, module: nn.Module) -> ImageSizes:
    """Return the sizes that a network accepts, if it cuts images into patches: their multiples.

    At another size timm's networks fail, or drop the pixels after the last whole patch.

    Examples
    --------
    >>> from regraft.backbones.backbone import ImageSizes
    >>> from regraft.backbones.registry import build
    >>> with_patches(ImageSizes(), build("timm/test_vit", {}, image_size=None)).multiple
    16
    """
    for name in ("patch_embed", "embeds"):
        patches: Any = getattr(module, name, None)
        ratio = getattr(patches, "feat_ratio", None)  # of timm's PatchEmbed and those like it
        if callable(ratio) and not getattr(patches, "dynamic_img_pad", False):
            return dataclasses.replace(sizes, multiple=int(np.lcm(sizes.multiple, ratio())))
    return sizes


def check_image_size(name: str, sizes: ImageSizes, size: int) -> None:
    """Raise ``BackboneError`` if a size is out of range or no multiple of the network's patches."""
    if sizes.minimum <= size <= MAX_IMAGE_SIZE and size % sizes.multiple == 0:
        return
    patch, step, hint = sizes.multiple, "", None
    if patch > 1:
        step = f", multiples of {patch}"
        first, last = -(-sizes.minimum // patch), MAX_IMAGE_SIZE // patch
        near = {min(max(size // patch + more, first), last) * patch for more in (0, 1)}
        hint = f"`image_size` {' or '.join(map(str, sorted(near)))}"
    raise BackboneError(
        f"{name} takes images of {sizes.minimum} to {MAX_IMAGE_SIZE} pixels{step}, not {size}",
        hint=hint,
    )


def at_image_size(backbone: Backbone, size: int, *, crop: bool = True) -> Backbone:
    """Return the same module with another image size; ``crop`` as for ``resized``.

    A size that the network does not accept raises ``BackboneError``; its own is always accepted.

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> at_image_size(load_backbone("embedded", "none"), 112).preprocess.resize_size
    128
    """
    own, sizes = backbone.preprocess, backbone.sizes
    if size != own.image_size:
        if sizes.fixed:
            raise BackboneError(
                f"{backbone.name} takes images of {own.image_size} pixels only, not {size}",
                hint=f"leave `image_size` out or give {own.image_size}",
            )
        check_image_size(backbone.name, sizes, size)
        shapes = shapes_at(backbone.name, backbone.module, size, own.image_size)
        if (shapes.n_features, shapes.stages) != (backbone.n_features, backbone.stages):
            raise BackboneError(f"{backbone.name} gives other features for images of {size} pixels")
    return dataclasses.replace(backbone, preprocess=resized(own, size, crop=crop))


def shapes_at(name: str, module: nn.Module, size: int, own: int) -> StageShapes:
    """Run a network once, because no table of accepted sizes covers a thousand architectures.

    ``own`` is the image size of its record. Raises ``BackboneError`` if the network fails.
    """
    try:
        return find_stages(module, size)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BackboneError(
            f"{name} does not take images of {size} pixels: {reason}",
            hint=f"its own size is {own}",
        ) from error


def adapt_to_images(
    backbone: Backbone,
    sizes: NDArray[np.int32],  # (N, 2): height and width in pixels
    *,
    automatic: bool,
) -> tuple[Backbone, str]:
    """Adapt the preprocessing to the images; return the backbone and the reason as a sentence.

    Images that are enlarged twofold or more are not cropped, because they have no margin to lose.
    With ``automatic``, ``automatic_image_size`` also chooses the size.

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> backbone, reason = adapt_to_images(
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
    """Choose an image size in pixels; return it and the reason as a sentence.

    Small images are enlarged fourfold, to at least 128 pixels and at most the network's own size.
    Its filters were trained on objects of more than a few pixels, but larger images take more time.
    Measured on digits, MNIST and CIFAR-10 (docs/design/heads.md).

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> backbone = load_backbone("embedded", "none")
    >>> automatic_image_size(backbone, np.array([[28, 28]]))
    (128, 'image size 128: the images have a median short side of 28 pixels, and are enlarged')
    """
    own, accepted = backbone.preprocess.image_size, backbone.sizes
    if len(sizes) == 0:  # sizes (N, 2)
        return own, f"image size {own}: the network's own"
    median = _median_side(sizes)
    found = f"the images have a median short side of {median:g} pixels"
    if not _are_small(sizes, own):
        return own, f"image size {own}: the network's own ({found})"
    if accepted.fixed:
        return own, f"image size {own}: the one that this network is built for ({found})"
    step = int(np.lcm(32, accepted.multiple))
    size = max(_MIN_AUTOMATIC, accepted.minimum, round(4 * median / 32) * 32)
    size = min(own, -(-size // step) * step)
    try:
        at_image_size(backbone, size, crop=False)
    except BackboneError:
        return own, f"image size {own}: the network's own; it does not take {size} ({found})"
    return size, f"image size {size}: {found}, and are enlarged"
