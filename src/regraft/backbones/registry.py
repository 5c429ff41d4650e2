"""Networks by name: ``embedded``, ``timm/NAME``, ``torchvision/NAME``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.backbones import embedded
from regraft.backbones.backbone import Backbone, Preprocess, Scalar
from regraft.backbones.freeze import state_hash
from regraft.backbones.stages import find_stages
from regraft.backbones.weights import load_into, misfit, read_file
from regraft.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import nn

    from regraft.backbones.family import Family, Record

FAMILIES: dict[str, Family] = {
    "embedded": embedded.FAMILY,
}

_FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".ckpt"}


def resolve(name: str) -> str:
    """Give a name's canonical form."""
    return name


def _family(canonical: str) -> tuple[Family, str]:
    prefix, _, short = canonical.partition("/")
    return FAMILIES[prefix], short or prefix


def load_backbone(
    name: str, weights: str = "default", *, image_size: int | None = None, seed: int = 0
) -> Backbone:
    """Build a network, fill it with weights and measure its stages.

    Parameters
    ----------
    name : str
        As ``resolve`` takes it.
    weights : str
        "default", "none" (random), a name that the family gives its weights, or a local file.
    image_size : int, optional
        Pixels; the network's own where not given.
    seed : int
        Of random weights; the global generator is left alone.

    Returns
    -------
    Backbone
        In evaluation mode, float32, without gradients, on the processor.

    Raises
    ------
    BackboneError
        Where the name is unknown or the network does not take this image size.
    WeightsError
        Where weights are missing, cannot be fetched or do not fit.

    Examples
    --------
    >>> backbone = load_backbone("embedded")
    >>> backbone.n_features, [stage.channels for stage in backbone.stages]
    (1280, [16, 24, 40, 80, 112, 192, 320])
    """
    canonical = resolve(name)
    family, short = _family(canonical)
    file = Path(weights)
    if file.suffix.lower() in _FILE_SUFFIXES:
        record = dataclasses.replace(
            family.record(short, "none"),
            weights=f"file {file.name}",
            licence=None,
            fetch=lambda: read_file(file),
        )
    else:
        record = family.record(short, weights)
        if record.fetch is None:
            record = dataclasses.replace(record, weights=f"none (seed {seed})", licence=None)

    module = _filled(family, record, seed)
    shapes = find_stages(module, record.preprocess.image_size)
    backbone = Backbone(
        name=canonical,
        weights=record.weights,
        weights_sha256=state_hash(module),
        licence=record.licence,
        preprocess=record.preprocess,
        stages=shapes.stages,
        n_features=shapes.n_features,
        module=module,
        arguments=record.arguments,
        sizes=record.sizes,
    )
    return backbone if image_size is None else at_image_size(backbone, image_size)


def _filled(family: Family, record: Record, seed: int) -> nn.Module:
    state = record.fetch() if record.fetch is not None else None
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = family.build(record.name, record.arguments, None)
    module = module.eval().requires_grad_(requires_grad=False)
    if state is not None:
        dropped = family.dropped(record.name, record.arguments)
        if record.convert is not None and misfit(module, state, dropped):
            state = record.convert(state)
        load_into(module, state, dropped=dropped, what=record.weights)
    return module


def build(name: str, arguments: Mapping[str, Scalar], *, image_size: int | None) -> nn.Module:
    """Make a network with random weights, for a bundle to fill; reads no file, fetches nothing.

    Parameters
    ----------
    name : str
        Canonical: "embedded", "timm/NAME" or "torchvision/NAME".
    arguments : mapping of str to scalar
        As ``Backbone.arguments`` has them.
    image_size : int or None
        Pixels, for networks of fixed size.

    Returns
    -------
    nn.Module
        The network without its classifier, in evaluation mode, without gradients.

    Raises
    ------
    BackboneError
        Where the name or an argument is unknown.

    Examples
    --------
    >>> build("embedded", {}, image_size=224).num_features
    1280
    """
    family, short = _family(resolve(name))
    with torch.random.fork_rng(devices=()):
        module = family.build(short, arguments, image_size)
    return module.eval().requires_grad_(requires_grad=False)


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
    resize = size * own.resize_size // own.image_size if crop else size
    preprocess = Preprocess(size, resize, own.mean, own.std, own.interpolation)
    return dataclasses.replace(backbone, preprocess=preprocess)


MAX_IMAGE_SIZE = 4096


def automatic_image_size(backbone: Backbone, sizes: NDArray[np.int32]) -> tuple[int, str]:
    """Choose an image size that fits the images, with its reason in words.

    Small images are enlarged fourfold, up to the network's own size: its filters were trained on
    objects that fill more than a few pixels, but empty pixels cost time.

    Parameters
    ----------
    backbone : Backbone
        At its own image size.
    sizes : array of shape (N, 2), int
        Height and width of the images, in pixels.

    Returns
    -------
    int
        Pixels. Where it differs from the backbone's own, call ``at_image_size`` with
        ``crop=False``: small images have no margin to lose.
    str
        One sentence.

    Examples
    --------
    >>> backbone = load_backbone("embedded", "none")
    >>> automatic_image_size(backbone, np.array([[28, 28]]))
    (128, 'image size 128: the images have a median short side of 28 pixels, enlarged fourfold')
    """
    own, accepted = backbone.preprocess.image_size, backbone.sizes
    if len(sizes) == 0:
        return own, f"image size {own}: the network's own"
    median = float(np.median(np.min(np.asarray(sizes), axis=1)))
    found = f"the images have a median short side of {median:g} pixels"
    if median >= own / 2:
        return own, f"image size {own}: the network's own ({found})"
    if accepted.fixed:
        return own, f"image size {own}: the only one that this network takes ({found})"
    step = np.lcm(32, accepted.multiple)
    size = max(64, accepted.minimum, round(4 * median / 32) * 32)
    size = min(own, int(-(-size // step) * step))
    return size, f"image size {size}: {found}, enlarged fourfold"
