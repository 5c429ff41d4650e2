"""timm's networks, without their classifiers."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.backbones.backbone import ImageSizes
from regraft.backbones.downloads import fetch_hub, fetch_hub_file, fetch_url
from regraft.backbones.family import Family, Record
from regraft.backbones.weights import listed, read_file
from regraft.core.torchvision_shim import load_timm
from regraft.errors import BackboneError, WeightsError
from regraft.images.render import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from regraft.backbones.backbone import Scalar
    from regraft.backbones.family import State

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_MAX_CONFIG_BYTES = 2**20
_POOLS = {"", "avg", "max", "avgmax", "catavgmax", "token", "map", "fast"}
# Settings of a saved model that say nothing about the network without its classifier, when it runs.
_IDLE = {"num_classes", "drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate"}


def _names() -> list[str]:
    names: list[str] = load_timm().list_models()
    return names


@cache
def _all_tags() -> dict[str, list[str]]:
    """Names of published weights by network; timm's own search walks all of them at each call."""
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
    if weights in {"default", "none", default.tag}:
        return _record_of(base, default.to_dict(), {}, fetching=weights != "none")
    configuration = timm.get_pretrained_cfg(f"{base}.{weights}").to_dict()
    return _record_of(base, configuration, {"tag": weights}, fetching=True)


def _record_of(
    name: str,
    configuration: Mapping[str, Any],
    arguments: dict[str, Scalar],
    *,
    fetching: bool,
) -> Record:
    """Read a ``pretrained_cfg``: timm's own, or one that came with a saved model."""
    channels, height, width = configuration.get("input_size") or (3, 224, 224)
    if channels != 3 or height != width:
        raise BackboneError(
            f"timm/{name} sees {channels} channels of {height} x {width} pixels; "
            "only square colour images can be given"
        )
    classifier = configuration.get("classifier") or ()
    minimum = (configuration.get("min_input_size") or (3, 32, 32))[1]
    return Record(
        name=name,
        weights=configuration.get("tag") or "default",
        preprocess=_preprocess(name, height, configuration),
        licence=configuration.get("license"),
        sizes=ImageSizes(minimum=minimum, fixed=bool(configuration.get("fixed_input_size", False))),
        fetch=_fetcher(name, configuration) if fetching else None,
        heads=(classifier,) if isinstance(classifier, str) else tuple(classifier),
        convert=_convert,
        arguments=arguments,
    )


def _preprocess(name: str, size: int, configuration: Mapping[str, Any]) -> Preprocess:
    # Some 60 records ask for the whole image squeezed into the square, 3 for a border around it.
    # All but few of them keep the whole short side; so do we, and cut the long side instead: one
    # rendering for every network.
    interpolation: Any = configuration.get("interpolation") or "bicubic"
    if interpolation not in {"bilinear", "bicubic"}:
        raise BackboneError(
            f"timm/{name} asks for {interpolation} interpolation, which is not there"
        )
    crop = float(configuration.get("crop_pct") or 0.875)
    if not 0.1 <= crop <= 2:
        raise BackboneError(f"timm/{name} asks for a crop of {crop:g}, which is not 0.1 to 2")
    return Preprocess(
        image_size=size,
        # Above 1 (VOLO) timm would put a black border around the image; the whole of it is as near.
        resize_size=max(size, math.floor(size / crop)),
        mean=_three(configuration.get("mean") or (0.485, 0.456, 0.406)),
        std=_three(configuration.get("std") or (0.229, 0.224, 0.225)),
        interpolation=interpolation,
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _fetcher(name: str, configuration: Mapping[str, Any]) -> Callable[[], State]:
    repository, url = configuration.get("hf_hub_id"), configuration.get("url")
    if repository:
        file = configuration.get("hf_hub_filename")
        if file is None:
            return partial(fetch_hub, repository, _WEIGHT_FILES)
        # timm's own order: the safetensors beside a pickle, then the pickle.
        safe = Path(file).with_suffix(".safetensors").name.replace("pytorch_model", "model")
        return partial(fetch_hub, repository, (safe, file))
    if url:
        return partial(fetch_url, url)

    raise WeightsError(
        f"timm has no pretrained weights for {name}",
        hint="give a local file with --weights FILE, or --weights none for random ones",
    )


def _convert(state: State, module: nn.Module) -> State:
    """Rename tensors of an older layout, where the network's file in timm knows how."""
    source = sys.modules[type(module).__module__]
    for name in ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained"):
        function = getattr(source, name, None)
        if function is not None:
            try:
                converted: State = function(dict(state), module)
            except TypeError:  # some take the tensors alone
                converted = function(dict(state))
            except (KeyError, IndexError, RuntimeError, AttributeError, ValueError):
                return state  # not a layout that it knows: the caller lists what does not fit
            return converted
    return state


def _build(name: str, arguments: Mapping[str, Scalar], image_size: int | None) -> nn.Module:
    timm = load_timm()
    unknown = arguments.keys() - {"tag", "global_pool"}
    tag, pool = arguments.get("tag"), arguments.get("global_pool")
    if unknown or not (pool is None or pool in _POOLS):
        raise BackboneError(
            f"timm/{name} cannot be built with {listed(sorted(unknown) or [f'global_pool={pool}'])}"
        )
    if tag is not None and tag not in _tags(name):
        raise BackboneError(f"timm/{name} has no weights named {tag}")
    options: dict[str, Any] = {} if pool is None else {"global_pool": pool}
    full = name if tag is None else f"{name}.{tag}"
    configuration = timm.get_pretrained_cfg(full)
    fixed = configuration is not None and configuration.fixed_input_size
    if fixed and image_size not in {None, configuration.input_size[1]}:
        options["img_size"] = image_size
    try:
        module: nn.Module = timm.create_model(full, pretrained=False, num_classes=0, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BackboneError(
            f"timm/{name} cannot be built at {image_size} pixels: {reason}"
        ) from error
    return module


def saved_record(name: str, *, weights: str) -> Record:
    """Look up a model that was saved with timm: ``local-dir:PATH`` or ``hf-hub:OWNER/NAME``.

    Parameters
    ----------
    name : str
        With its prefix.
    weights : str
        "default" for the ones beside its config.json, "none" for random ones.

    Returns
    -------
    Record
        Its name is the architecture in timm, so that it can be rebuilt without the folder.

    Raises
    ------
    BackboneError
        Where config.json is missing or asks for something that cannot be rebuilt.
    WeightsError
        Where the hub cannot be reached, or weights other than these two are asked for.
    """
    if weights not in {"default", "none"}:
        raise WeightsError(f"{name} has no weights named {weights}", hint="use default or none")
    kind, _, place = name.partition(":")
    if kind == "local-dir":
        file = Path(place, "config.json")
    else:
        file = fetch_hub_file(place, ["config.json"])
    configuration = _read_config(file, name)
    architecture = configuration.get("architecture")
    if not isinstance(architecture, str) or architecture not in _names():
        raise BackboneError(f"{name} names an architecture that timm does not have: {architecture}")
    inner = configuration.get("pretrained_cfg", configuration)
    if not isinstance(inner, dict):
        raise BackboneError(f"{name}: pretrained_cfg in config.json is not an object")
    inner = {**inner, "hf_hub_id": None if kind == "local-dir" else place, "hf_hub_filename": None}
    arguments = _arguments(configuration, name)
    try:
        record = _record_of(architecture, inner, arguments, fetching=False)
    except (TypeError, ValueError) as error:
        raise BackboneError(
            f"{name}: pretrained_cfg in config.json is malformed: {error}"
        ) from error
    fetch = None
    if weights == "default":
        fetch = (
            partial(_read_folder, Path(place))
            if kind == "local-dir"
            else (partial(fetch_hub, place, _WEIGHT_FILES))
        )
    # The folder's name, not its path: a record of a run shows nobody's folders.
    label = f"local-dir {Path(place).resolve().name}" if kind == "local-dir" else name
    return dataclasses.replace(record, weights=label, fetch=fetch)


def _read_config(file: Path, name: str) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_CONFIG_BYTES + 1)
        configuration = json.loads(text) if len(text) <= _MAX_CONFIG_BYTES else None
    except OSError as error:
        raise BackboneError(
            f"{name}: cannot read {file}: {error.strerror}",
            hint="give the folder that timm's save_for_hf wrote: config.json and model.safetensors",
        ) from error
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{name}: config.json is not JSON: {error}") from error
    if not isinstance(configuration, dict):
        raise BackboneError(f"{name}: config.json holds no object of at most 1 MB")
    return configuration


def _arguments(configuration: Mapping[str, Any], name: str) -> dict[str, Scalar]:
    given = configuration.get("model_args") or {}
    if not isinstance(given, dict):
        raise BackboneError(f"{name}: model_args in config.json is not an object")
    arguments: dict[str, Scalar] = {
        key: value for key, value in given.items() if key not in _IDLE | {"img_size", "in_chans"}
    }
    pool = configuration.get("global_pool")
    if isinstance(pool, str) and pool in _POOLS - {""}:
        arguments.setdefault("global_pool", pool)
    return arguments


def _read_folder(folder: Path) -> State:
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return read_file(folder / name)
    raise WeightsError(f"{folder} holds none of {', '.join(_WEIGHT_FILES)}")


FAMILY = Family(names=cache(_names), record=_record, build=_build)
