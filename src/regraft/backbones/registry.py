"""Networks by name: ``embedded``, ``timm/NAME``, ``torchvision/NAME``, or saved by timm.

A new family is one module with a ``Family`` and one entry in ``FAMILIES``.
"""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from regraft.backbones import embedded, minivgg, timm_models, torchvision_models
from regraft.backbones.backbone import Backbone, Scalar
from regraft.backbones.describe import Listed, layer_table, listing, skeleton
from regraft.backbones.freeze import state_hash
from regraft.backbones.image_size import (
    MAX_IMAGE_SIZE,
    at_image_size,
    automatic_image_size,
    fitted_to,
    scaled,
)
from regraft.backbones.stages import find_stages
from regraft.backbones.weights import load_into, misfit, read_file
from regraft.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from regraft.backbones.family import Family, Record

__all__ = [
    "FAMILIES",
    "at_image_size",
    "automatic_image_size",
    "build",
    "describe",
    "fitted_to",
    "list_backbones",
    "load_backbone",
    "name_note",
    "resolve",
]

FAMILIES: dict[str, Family] = {
    "embedded": embedded.FAMILY,
    "torchvision": torchvision_models.FAMILY,
    "timm": timm_models.FAMILY,
    "minivgg": minivgg.FAMILY,
}

_SAVED = ("local-dir:", "hf-hub:")
_FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".ckpt"}


@cache
def _all_names() -> frozenset[str]:
    return frozenset(
        _full_name(prefix, name) for prefix, family in FAMILIES.items() for name in family.names()
    )


def _full_name(prefix: str, name: str) -> str:
    return name if name == prefix else f"{prefix}/{name}"


def resolve(name: str) -> str:
    """Give a network's canonical name.

    Parameters
    ----------
    name : str
        "embedded", "torchvision/NAME", "timm/NAME" or "timm/NAME.TAG"; a bare NAME, which means
        torchvision's where both have it; "local-dir:PATH" or "hf-hub:OWNER/NAME", which stay as
        they are.

    Returns
    -------
    str
        With the family in front.

    Raises
    ------
    BackboneError
        Where no family has it; the hint names its nearest matches.

    Examples
    --------
    >>> resolve("resnet50"), resolve("vit_base_patch16_224")
    ('torchvision/resnet50', 'timm/vit_base_patch16_224')
    """
    if name.startswith(_SAVED) or name == "embedded":
        return name
    known = _all_names()
    for candidate in (name, f"torchvision/{name}", f"timm/{name}"):
        base, _, tag = candidate.partition(".")
        if base in known and (not tag or base.startswith("timm/")):
            return candidate
    # Compared without the family, which the user may have left away or mistaken; the sorting lets
    # torchvision's entry win, as a bare name would.
    spellings = {full.partition("/")[2] or full: full for full in sorted(known)}
    near = get_close_matches(name.rpartition("/")[2], spellings, n=5)
    raise BackboneError(
        f"unknown backbone {name}",
        hint=f"nearest: {', '.join(spellings[match] for match in near)}"
        if near
        else "regraft backbones lists all of them",
    )


def name_note(name: str) -> str | None:
    """Say which network a bare name means where two families have it.

    Parameters
    ----------
    name : str
        As the user gave it.

    Returns
    -------
    str or None
        One line, or None where there is nothing to say.

    Examples
    --------
    >>> name_note("resnet50")
    'resnet50 means torchvision/resnet50; timm/resnet50 is another network'
    >>> name_note("timm/resnet50")
    """
    if name == "embedded" or not {f"torchvision/{name}", f"timm/{name}"} <= _all_names():
        return None
    return f"{name} means torchvision/{name}; timm/{name} is another network"


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
        Pixels; the network's own where not given. A network of fixed size is built for it; its
        learnt positions are resampled where the family knows how (timm's does).
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
    prefix, record = _look_up(resolve(name), weights, seed)
    if image_size is not None and record.sizes.fixed:
        record = _built_for(record, image_size)
    module = _filled(FAMILIES[prefix], record, seed)
    shapes = find_stages(module, record.preprocess.image_size)
    backbone = Backbone(
        name=_full_name(prefix, record.name),
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


def _built_for(record: Record, size: int) -> Record:
    """Ask for a network of fixed size at another one."""
    own = record.preprocess
    if size != own.image_size and record.fetch is not None and record.convert is None:
        raise BackboneError(
            f"{record.name} with weights takes images of {own.image_size} pixels only, not {size}",
            hint=f"leave --image-size away or give {own.image_size}",
        )
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise BackboneError(f"{record.name} cannot be built for images of {size} pixels")
    return dataclasses.replace(record, preprocess=scaled(own, size, crop=True))


def _look_up(canonical: str, weights: str, seed: int) -> tuple[str, Record]:
    """Find the family and the record of a network with some weights; reads no weights yet."""
    file = Path(weights) if Path(weights).suffix.lower() in _FILE_SUFFIXES else None
    known = "none" if file is not None else weights
    if canonical.startswith(_SAVED):
        prefix, record = "timm", timm_models.saved_record(canonical, weights=known)
    else:
        prefix, _, short = canonical.partition("/")
        record = FAMILIES[prefix].record(short or prefix, known)
    changes: dict[str, Any] = {"licence": None}
    if file is not None:
        changes |= {"weights": f"file {file.name}", "fetch": lambda: read_file(file)}
    elif record.fetch is None:
        changes |= {"weights": f"none (seed {seed})"}
    else:
        changes = {}
    return prefix, dataclasses.replace(record, **changes)


def _filled(family: Family, record: Record, seed: int) -> nn.Module:
    # The weights first: where they cannot be had, no time goes into building.
    state = record.fetch() if record.fetch is not None else None
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = family.build(record.name, record.arguments, record.preprocess.image_size)
    module = module.eval().requires_grad_(requires_grad=False)
    if state is not None:
        if record.convert is not None and misfit(module, state, record.heads):
            state = record.convert(state, module)
        load_into(module, state, heads=record.heads, what=f"weights {record.weights}")
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
        Pixels, for networks of fixed size; None means their own.

    Returns
    -------
    nn.Module
        The network without its classifier, in evaluation mode, without gradients.

    Raises
    ------
    BackboneError
        Where the name or an argument is unknown, or the network cannot be built at this size.

    Examples
    --------
    >>> build("embedded", {}, image_size=224).num_features
    1280
    """
    prefix, _, short = name.partition("/")
    family = FAMILIES.get(prefix)
    if family is None or (short or prefix) not in family.names():
        raise BackboneError(f"unknown backbone {name}")
    if image_size is not None and not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise BackboneError(f"{name} cannot be built for images of {image_size} pixels")
    with torch.random.fork_rng(devices=()):
        module = family.build(short or prefix, arguments, image_size)
    return module.eval().requires_grad_(requires_grad=False)


def list_backbones(pattern: str = "*") -> list[Listed]:
    """List networks, without building or fetching any.

    Parameters
    ----------
    pattern : str
        Part of a name, or a pattern with ``*`` and ``?``.

    Returns
    -------
    list of Listed
        Sorted by family and name; empty where nothing matches.

    Examples
    --------
    >>> [entry.name for entry in list_backbones("torchvision/resnet?8")]
    ['torchvision/resnet18']
    """
    names = [
        (prefix, name, _full_name(prefix, name))
        for prefix, family in FAMILIES.items()
        for name in family.names()
    ]
    return listing(FAMILIES, names, pattern)


def describe(name: str) -> str:
    """Tell a network's layers, stages, parameters and preprocessing; downloads nothing.

    Parameters
    ----------
    name : str
        As ``resolve`` takes it.

    Returns
    -------
    str
        Some lines and a table.

    Raises
    ------
    BackboneError
        Where the name is unknown.

    Examples
    --------
    >>> print(describe("embedded").splitlines()[0])
    embedded
    """
    prefix, record = _look_up(resolve(name), "none", 0)
    module = skeleton(FAMILIES[prefix], record)
    return layer_table(_full_name(prefix, record.name), module, record)
