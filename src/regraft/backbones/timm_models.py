"""timm's networks, without their classifiers."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.backbones.backbone import ImageSizes
from regraft.backbones.downloads import fetch_hub, fetch_url
from regraft.backbones.family import Family, Record
from regraft.core.text import listed
from regraft.core.torchvision_shim import load_timm
from regraft.errors import BackboneError, WeightsError
from regraft.images.render import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from regraft.backbones.backbone import Scalar
    from regraft.backbones.family import StateDict

#: Names that timm gives to files of weights, the preferred one first.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
#: The values of timm's argument ``global_pool`` that are passed on.
POOLS = {"", "avg", "max", "avgmax", "catavgmax", "token", "map", "fast"}


@cache
def names() -> list[str]:
    """Return the names of timm's networks."""
    found: list[str] = load_timm().list_models()
    return found


@cache
def _all_tags() -> dict[str, list[str]]:
    """Return the tags of published weights by network; timm's own search is slow at each call."""
    tags: dict[str, list[str]] = {}
    for full in load_timm().list_pretrained():
        name, _, tag = full.partition(".")
        tags.setdefault(name, []).append(tag)
    return tags


def _tags(name: str) -> list[str]:
    return _all_tags().get(name, [])


def _record(name: str, weights: str) -> Record:
    timm = load_timm()
    base, _, tag = name.partition(".")
    if tag and weights == "default":
        weights = tag
    known = _tags(base)
    if weights not in {"default", "none", *known}:
        raise WeightsError(
            f"timm/{base} has no weights named {weights}",
            hint=f"it has {listed(known) or 'none'}; or give default, none or a file",
        )
    default = timm.get_pretrained_cfg(base)
    if default is None:
        raise BackboneError(f"timm/{base} has no record of its image size")
    config = default.to_dict()
    arguments: dict[str, Scalar] = {}
    if weights not in {"default", "none", default.tag}:
        config = timm.get_pretrained_cfg(f"{base}.{weights}").to_dict()
        arguments = {"tag": weights}
    record = record_from(base, config, arguments)
    if weights == "none":
        return record
    return dataclasses.replace(record, fetch=_fetch_by(base, config))


def record_from(name: str, config: Mapping[str, Any], arguments: dict[str, Scalar]) -> Record:
    """Turn a ``pretrained_cfg`` (timm's own, or a saved model's) into a record without weights."""
    channels, height, width = config.get("input_size") or (3, 224, 224)
    if channels != 3 or height != width:
        raise BackboneError(
            f"timm/{name} takes {channels} channels of {height} x {width} pixels; "
            "only square colour images can be given"
        )
    classifier = config.get("classifier") or ()
    minimum = (config.get("min_input_size") or (3, 32, 32))[1]
    return Record(
        name=name,
        weights=config.get("tag") or "default",
        preprocess=_preprocess(name, height, config),
        licence=config.get("license"),
        sizes=ImageSizes(minimum=minimum, fixed=bool(config.get("fixed_input_size", False))),
        # The attention pool too: published files of SigLIP have one also for networks without.
        heads=(*((classifier,) if isinstance(classifier, str) else classifier), "attn_pool"),
        convert=_convert,
        arguments=arguments,
    )


def _preprocess(name: str, size: int, config: Mapping[str, Any]) -> Preprocess:
    # Some 60 records squeeze the whole image into the square, and 3 put a border around it. Nearly
    # all of these keep the whole short side. All networks get one rendering here: it keeps the
    # short side as the record says, and cuts the long side.
    interpolation: Any = config.get("interpolation") or "bicubic"
    if interpolation not in {"bilinear", "bicubic"}:
        raise BackboneError(
            f"timm/{name} asks for {interpolation} interpolation, which is not supported"
        )
    crop = float(config.get("crop_pct") or 0.875)
    if not 0.1 <= crop <= 2:
        raise BackboneError(f"timm/{name} asks for a crop of {crop:g}; supported are 0.1 to 2")
    return Preprocess(
        image_size=size,
        # Above 1 (VOLO) timm puts a black border around the image; the whole image comes closest.
        resize_size=max(size, math.floor(size / crop)),
        mean=_three(config.get("mean") or (0.485, 0.456, 0.406)),
        std=_three(config.get("std") or (0.229, 0.224, 0.225)),
        interpolation=interpolation,
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _fetch_by(name: str, config: Mapping[str, Any]) -> Callable[[], StateDict]:
    """Return the function that downloads the weights of a ``pretrained_cfg``."""
    repository, url = config.get("hf_hub_id"), config.get("url")
    if repository:
        file = config.get("hf_hub_filename")
        if file is None:
            return partial(fetch_hub, repository, WEIGHT_FILES)
        # timm's own order: a safetensors file if there is one, then the pickle.
        safe = Path(file).with_suffix(".safetensors").name.replace("pytorch_model", "model")
        return partial(fetch_hub, repository, (safe, file))
    if url:
        return partial(fetch_url, url)
    raise WeightsError(
        f"timm has no pretrained weights for {name}",
        hint="`weights=FILE` takes a local file; `weights='none'` takes random ones",
    )


def _convert(state: StateDict, module: nn.Module) -> StateDict:
    """Rename tensors of an older format, if the network's module in timm has a function for it."""
    source = sys.modules[type(module).__module__]
    for name in ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained"):
        function = getattr(source, name, None)
        if function is not None:
            # timm asks for it for DeiT-3 only; no other network has such names to change.
            named = {"adapt_layer_scale"} & inspect.signature(function).parameters.keys()
            try:
                converted: StateDict = function(dict(state), module, **dict.fromkeys(named, True))
            except TypeError:  # some take only the tensors
                converted = function(dict(state))
            except (KeyError, IndexError, RuntimeError, AttributeError, ValueError):
                return state  # another format: the caller lists what does not fit
            return converted
    return state


def _build(name: str, arguments: Mapping[str, Scalar], image_size: int | None) -> nn.Module:
    timm = load_timm()
    unknown = arguments.keys() - {"tag", "global_pool"}
    tag, pool = arguments.get("tag"), arguments.get("global_pool")
    if unknown or not (pool is None or pool in POOLS):
        raise BackboneError(
            f"timm/{name} cannot be built with {listed(sorted(unknown) or [f'global_pool={pool}'])}"
        )
    if tag is not None and tag not in _tags(name):
        raise BackboneError(f"timm/{name} has no weights named {tag}")
    options: dict[str, Any] = {} if pool is None else {"global_pool": pool}
    full = name if tag is None else f"{name}.{tag}"
    config = timm.get_pretrained_cfg(full)
    fixed = config is not None and config.fixed_input_size
    if fixed and image_size not in {None, config.input_size[1]}:
        options["img_size"] = image_size
    try:
        module: nn.Module = timm.create_model(full, pretrained=False, num_classes=0, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BackboneError(
            f"timm/{name} cannot be built at {image_size} pixels: {reason}",
            hint=f"its own size is {config.input_size[1]}" if options.get("img_size") else None,
        ) from error
    return module


FAMILY = Family(names=names, record=_record, build=_build)
