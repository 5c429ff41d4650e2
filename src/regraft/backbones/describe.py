"""Lists and descriptions of networks, made without their weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
import torchinfo
from torch.utils.flop_counter import FlopCounterMode

from regraft.backbones.meta_device import build_on_meta
from regraft.backbones.registry import FAMILIES, full_name, record_of, resolve
from regraft.backbones.stages import find_stages
from regraft.backbones.sums import split_sum
from regraft.errors import BackboneError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from regraft.backbones.family import Family, Record
    from regraft.images.render import Preprocess

T = TypeVar("T")


@dataclass(frozen=True)
class ListedBackbone:
    """A row in the list of networks."""

    name: str
    image_size: int | None  # pixels; None if its record does not say
    weights: str  # the default ones; "none" if none are published
    licence: str


def list_backbones(pattern: str = "*") -> list[ListedBackbone]:
    """List networks by a part of their name or a pattern with ``*`` and ``?``; builds none.

    Examples
    --------
    >>> [entry.name for entry in list_backbones("torchvision/resnet?8")]
    ['torchvision/resnet18']
    """
    wanted = pattern.lower()
    glob = wanted if any(sign in wanted for sign in "*?[") else f"*{wanted}*"
    rows = []
    for key, family in FAMILIES.items():
        for name in family.names():
            full = full_name(key, name)
            short = full.lower().rpartition("/")[2]
            if fnmatchcase(full.lower(), glob) or fnmatchcase(short, glob):
                rows.append(_row(family, name, full))
    return rows


def _row(family: Family, name: str, full: str) -> ListedBackbone:
    try:
        record = _published(partial(family.record, name))
    except BackboneError:  # not for square colour images
        return ListedBackbone(full, None, "none", "")
    size = record.preprocess.image_size
    if record.fetch is None:
        return ListedBackbone(full, size, "none", "")
    return ListedBackbone(full, size, record.weights, record.licence or "")


def _published(record: Callable[[str], T]) -> T:
    """Return the record for the default weights, or for random ones if none are published."""
    try:
        return record("default")
    except WeightsError:
        return record("none")


def describe_backbone(name: str) -> str:
    """Describe the layers, stages, parameters and preprocessing of a network, or of each of A+B.

    It downloads nothing.

    Examples
    --------
    >>> print(describe_backbone("embedded").splitlines()[0])
    embedded
    """
    tables = []
    for each in split_sum(name):
        key, record = _published(partial(record_of, resolve(each)))
        module = build_on_meta(FAMILIES[key], record)
        tables.append(_layer_table(full_name(key, record.name), module, record))
    return "\n\n".join(tables)


def _layer_table(name: str, module: nn.Module, record: Record) -> str:
    """Write some lines and torchinfo's table; the module is on the meta device, all frozen."""
    size = record.preprocess.image_size
    shapes = find_stages(module, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = torchinfo.summary(
            module,
            input_size=(1, 3, size, size),
            col_names=("output_size", "num_params", "trainable"),
            row_settings=("var_names",),
            depth=3,
            verbose=0,
            device="meta",
        )
    # The rest of torchinfo's text is wrong: it counts attention and every Linear as one position.
    layers, _, _ = str(table).partition("\nTotal mult-adds")
    stages = [f"  {stage.name}: {stage.channels} channels" for stage in shapes.stages]
    return "\n".join(
        (
            name,
            f"licence: {record.licence or 'not stated'}",
            _input_line(record.preprocess),
            f"features: {shapes.n_features}",
            "stages:" if stages else "stages: none; only the pooled features can be used",
            *stages,
            layers,
            f"Multiply-adds of one image: {_multiply_adds(module, size) / 1e6:,.1f} million",
        )
    )


def _input_line(preprocess: Preprocess) -> str:
    return (
        f"input: {preprocess.image_size} pixels, short side resized to {preprocess.resize_size}, "
        f"{preprocess.interpolation}, mean {preprocess.mean}, std {preprocess.std}"
    )


def _multiply_adds(module: nn.Module, size: int) -> int:
    """Count those of convolutions and matrix products, attention included, on the meta device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator, which is not counted
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.empty(1, 3, size, size, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and an addition as two
