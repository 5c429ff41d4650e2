"""Networks by name: ``embedded-2``, ``timm/NAME``, ``torchvision/NAME``, or saved by timm.

To add a family of networks, write a module with a ``Family`` and add one entry to ``FAMILIES``.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import torch

from regraft.backbones import embedded, minivgg, timm_models, torchvision_models
from regraft.backbones.backbone import Backbone, Scalar
from regraft.backbones.freeze import state_hash
from regraft.backbones.image_size import (
    MAX_IMAGE_SIZE,
    at_image_size,
    check_image_size,
    resized,
    shapes_at,
    with_patches,
)
from regraft.backbones.local_files import weights_file
from regraft.backbones.timm_saved import is_saved, saved_record
from regraft.backbones.weights import load_into, mismatches, read_weights
from regraft.core.text import nearest
from regraft.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from regraft.backbones.family import Family, Record

#: The first part of a network's name, and the family that lists, describes and builds it.
FAMILIES: dict[str, Family] = {
    **embedded.FAMILIES,
    "torchvision": torchvision_models.FAMILY,
    "timm": timm_models.FAMILY,
    "minivgg": minivgg.FAMILY,
}


def full_name(key: str, name: str) -> str:
    """Join a family's key and a name within it: "timm/resnet50", or "embedded" alone."""
    return name if name == key else f"{key}/{name}"


def split_name(full: str) -> tuple[str, str]:
    """Return the family's key and the name within it; undoes ``full_name``."""
    key, _, name = full.partition("/")
    return key, name or key


def _all_names() -> set[str]:
    return {full_name(key, name) for key, family in FAMILIES.items() for name in family.names()}


def resolve(name: str) -> str:
    """Return a network's canonical name, which begins with its family's key.

    A bare name means torchvision's network if torchvision and timm both have it. Names of models
    saved by timm are returned unchanged. For unknown names, the hint of the ``BackboneError`` lists
    the nearest known ones.

    Examples
    --------
    >>> resolve("resnet50"), resolve("vit_base_patch16_224")
    ('torchvision/resnet50', 'timm/vit_base_patch16_224')
    """
    if is_saved(name) or name in embedded.FAMILIES:
        return name
    known = _all_names()
    for candidate in (name, f"torchvision/{name}", f"timm/{name}"):
        base, _, tag = candidate.partition(".")
        if base in known and (not tag or base.startswith("timm/")):
            return candidate
    # Compared without the family, which may be missing or wrong; sorted, so that torchvision's
    # network comes after timm's and replaces it, as for a bare name.
    by_short_name = {full.partition("/")[2] or full: full for full in sorted(known)}
    near = [by_short_name[short] for short in nearest(name.rpartition("/")[2], by_short_name)]
    if name.startswith("module/"):  # as config.yaml has it
        raise BackboneError(
            f"unknown backbone {name}",
            hint="it was given as an object: model=regraft.Backbone.from_module(...)",
        )
    raise BackboneError(
        f"unknown backbone {name}",
        hint=f"did you mean {' or '.join(near)}?"
        if near
        else "regraft backbones lists all of them",
    )


def name_note(name: str) -> str | None:
    """Return a note on a bare name that two families have; None if there is nothing to note.

    Examples
    --------
    >>> name_note("resnet50")
    'resnet50 means torchvision/resnet50; timm/resnet50 is another network'
    >>> name_note("timm/resnet50")
    """
    if not {f"torchvision/{name}", f"timm/{name}"} <= _all_names():
        return None
    return f"{name} means torchvision/{name}; timm/{name} is another network"


def load_backbone(
    name: str, weights: str = "default", *, image_size: int | None = None, seed: int = 0
) -> Backbone:
    """Build a network, load its weights and measure its stages.

    Parameters
    ----------
    name : str
        As ``resolve`` takes it.
    weights : str
        "default", "none" (random), another label that the family knows, or a local file.
    image_size : int, optional
        Side in pixels; the network's own if not given. A network of fixed size is built for it; its
        learnt positions are then interpolated if the family can do that (timm's can).
    seed : int
        For random weights; torch's global generator does not change.

    Examples
    --------
    >>> backbone = load_backbone("embedded")
    >>> backbone.n_features, [stage.channels for stage in backbone.stages]
    (1280, [16, 24, 40, 80, 112, 192, 320])
    """
    key, record = record_of(resolve(name), weights)
    own = record.preprocess.image_size
    if image_size is not None and record.sizes.fixed:
        record = _for_fixed_size(record, image_size)
    module = _build_with_weights(FAMILIES[key], record, seed)
    full, size = full_name(key, record.name), record.preprocess.image_size
    sizes = with_patches(record.sizes, module)
    if size != own:
        check_image_size(full, dataclasses.replace(sizes, minimum=sizes.multiple), size)
    shapes = shapes_at(full, module, size, own)
    backbone = Backbone(
        name=full,
        weights=f"none (seed {seed})" if record.fetch is None else record.weights,
        weights_sha256=state_hash(module),
        licence=record.licence,
        preprocess=record.preprocess,
        stages=shapes.stages,
        n_features=shapes.n_features,
        module=module,
        arguments=record.arguments,
        sizes=sizes,
    )
    return backbone if image_size is None else at_image_size(backbone, image_size)


def record_of(canonical: str, weights: str) -> tuple[str, Record]:
    """Return the family's key and the record of a network with some weights; reads no weights."""
    file = weights_file(weights)
    label = "none" if file is not None else weights
    if is_saved(canonical):
        key, record = "timm", saved_record(canonical, label)
    else:
        key, name = split_name(canonical)
        record = FAMILIES[key].record(name, label)
    if file is not None:
        fetch = partial(read_weights, file)
        record = dataclasses.replace(record, weights=f"file {file.name}", fetch=fetch, licence=None)
    elif record.fetch is None:
        record = dataclasses.replace(record, licence=None)  # random numbers have none
    return key, record


def _for_fixed_size(record: Record, size: int) -> Record:
    """Change the image size in the record of a network that is built for one size."""
    own = record.preprocess
    if size != own.image_size and record.fetch is not None and record.convert is None:
        raise BackboneError(
            f"{record.name} with weights takes images of {own.image_size} pixels only, not {size}",
            hint=f"leave `image_size` out or give {own.image_size}",
        )
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise BackboneError(f"{record.name} cannot be built for images of {size} pixels")
    return dataclasses.replace(record, preprocess=resized(own, size, crop=True))


def _build_with_weights(family: Family, record: Record, seed: int) -> nn.Module:
    # The weights first: if they are not available, building would be wasted time.
    state = record.fetch() if record.fetch is not None else None
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = family.build(record.name, record.arguments, record.preprocess.image_size)
    module = module.eval().requires_grad_(requires_grad=False)
    if state is not None:
        if record.convert is not None and mismatches(module, state, record.heads):
            state = record.convert(state, module)
        load_into(module, state, heads=record.heads, what=f"weights {record.weights}")
    return module


def build(name: str, arguments: Mapping[str, Scalar], *, image_size: int | None) -> nn.Module:
    """Build a network with random weights, for a bundle to fill; reads no file, downloads nothing.

    The name is a canonical one and the arguments are those of ``Backbone.arguments``; both may come
    from a bundle that nobody has checked.

    Examples
    --------
    >>> build("embedded", {}, image_size=224).num_features
    1280
    """
    key, short = split_name(name)
    family = FAMILIES.get(key)
    if family is None or short not in family.names():
        raise BackboneError(f"unknown backbone {name}")
    if image_size is not None and not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise BackboneError(f"{name} cannot be built for images of {image_size} pixels")
    with torch.random.fork_rng(devices=()):
        module = family.build(short, arguments, image_size)
    return module.eval().requires_grad_(requires_grad=False)
