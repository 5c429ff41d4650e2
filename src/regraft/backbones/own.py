"""A network that was built in Python: measured as it is, and known by name where that is the same.

A bundle holds no code, so a network in it is built by its name: that works for an architecture of
timm, of torchvision or of regraft, whatever its parameters are. Whether it is such a one is not
taken from its class alone. The architecture is built by name and filled with the parameters; then
stages and outputs must be the same.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from regraft.backbones import registry
from regraft.backbones.backbone import Backbone, ImageSizes, Scalar
from regraft.backbones.freeze import state_hash
from regraft.backbones.image_size import MAX_IMAGE_SIZE
from regraft.backbones.meta_device import build_on_meta
from regraft.backbones.stages import StageShapes, find_stages
from regraft.backbones.timm_models import record_from
from regraft.backbones.torchvision_models import torchvision_preprocess
from regraft.backbones.weights import mismatches
from regraft.core.text import listed
from regraft.core.torchvision_shim import torchvision
from regraft.errors import BackboneError, WeightsError
from regraft.images.render import Preprocess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.backbones.family import Record

#: Label of the weights: no family has weights of that name, so no other ones take their place.
WEIGHTS = "own"
#: What a network or its copy may raise for reasons of its own.
_FAILURES = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError,
    ArithmeticError, NotImplementedError,
)  # fmt: skip


def from_module(
    module: nn.Module,
    stages: Sequence[str] | None,
    preprocess: Any,
    licence: str | None,
) -> Backbone:
    """Return a copy of a module as a backbone; see ``Backbone.from_module``."""
    network = _frozen_copy(module)
    rendering = _preprocess(network, preprocess)
    size = rendering.image_size
    try:
        shapes = find_stages(network, size, stages)
        outputs = _outputs(network, shapes, size)
    except _FAILURES as error:
        raise BackboneError(
            f"{_class(network)} fails on an image of {size} pixels: {_reason(error)}",
            hint="it must map images (1, 3, S, S) in float32 to features (1, F)",
        ) from error
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise BackboneError(f"{_class(network)} gives infinite or undefined features")
    found = _known_by_name(network, shapes, rendering, outputs)
    if isinstance(found, str):  # the reason why not
        # Not the parameters alone: another forward pass with the same ones gives other features.
        behaviour = hashlib.sha256(b"".join(each.numpy().tobytes() for each in outputs))
        name = f"module/{re.sub(r'[^A-Za-z0-9_]', '', type(network).__name__)}"
        identity = _Identity(name, {"behaviour": behaviour.hexdigest()[:16]}, ImageSizes(minimum=1))
    else:
        identity = found
    return Backbone(
        name=identity.name,
        weights=WEIGHTS,
        weights_sha256=state_hash(network),
        licence=licence,
        preprocess=rendering,
        stages=shapes.stages,
        n_features=shapes.n_features,
        module=network,
        arguments=identity.arguments,
        sizes=identity.sizes,
        no_bundle=found if isinstance(found, str) else None,
    )


class _Identity(NamedTuple):
    """What a network is called, and what building it needs besides the name."""

    name: str
    arguments: dict[str, Scalar]
    sizes: ImageSizes


def _frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the processor in float32, in evaluation mode, without gradients."""
    if not isinstance(module, nn.Module):
        raise BackboneError(f"from_module takes an nn.Module, not {type(module).__name__}")
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    if isinstance(module, torch.jit.ScriptModule):
        raise BackboneError(
            "a scripted module cannot be changed to run fast",
            hint="give the nn.Module that it was made of",
        )
    try:
        network = copy.deepcopy(module).cpu().float().eval().requires_grad_(requires_grad=False)
    except _FAILURES as error:
        raise BackboneError(f"{_class(module)} cannot be copied: {_reason(error)}") from error
    return network


def _preprocess(network: nn.Module, given: Any) -> Preprocess:
    """Return the rendering that is given, or that timm has recorded in the network."""
    if given is None:
        config = getattr(network, "pretrained_cfg", None)
        if not isinstance(config, dict):
            raise BackboneError(
                f"{_class(network)} does not say how its images are prepared",
                hint="preprocess=regraft.Preprocess(image_size=224, resize_size=256, mean=..., "
                "std=..., interpolation='bilinear'), or the transforms() of torchvision's weights",
            )
        return record_from(str(config.get("architecture")), config, {}).preprocess
    rendering = given if isinstance(given, Preprocess) else torchvision_preprocess(given)
    if rendering is None:
        raise BackboneError(
            f"preprocess is {type(given).__name__}; it must be a regraft.Preprocess, or the "
            "transforms() of torchvision's weights"
        )
    _check_preprocess(rendering)
    return rendering


def _check_preprocess(rendering: Preprocess) -> None:
    sizes = rendering.image_size, rendering.resize_size
    numbers = (*rendering.mean, *rendering.std)
    if not (
        1 <= sizes[0] <= sizes[1] <= 2 * MAX_IMAGE_SIZE
        and sizes[0] <= MAX_IMAGE_SIZE
        and [len(list(values)) for values in (rendering.mean, rendering.std)] == [3, 3]
        and all(math.isfinite(number) for number in numbers)
        and min(rendering.std) > 0
        and rendering.interpolation in {"bilinear", "bicubic"}
    ):
        raise BackboneError(
            f"{rendering} cannot be used",
            hint="1 <= image_size <= resize_size; three finite numbers each in mean and std, those "
            "of std above 0; interpolation bilinear or bicubic",
        )


def _outputs(network: nn.Module, shapes: StageShapes, size: int) -> list[torch.Tensor]:
    """Return what each stage and the network give for an image of noise, always the same one."""
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        kept.append(output.detach().float().contiguous())

    handles = [
        network.get_submodule(stage.path).register_forward_hook(keep) for stage in shapes.stages
    ]
    noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            kept.append(network(noise).float())
    finally:
        for handle in handles:
            handle.remove()
    return kept


def _known_by_name(
    network: nn.Module, shapes: StageShapes, rendering: Preprocess, outputs: list[torch.Tensor]
) -> _Identity | str:
    """Return the name by which the same network can be built, or the reason why there is none."""
    reasons: list[tuple[int, str]] = []  # with the number of tensors that differ
    for name, arguments in _candidates(network, shapes.n_features):
        key, short = registry.split_name(name)
        try:
            family = registry.FAMILIES[key]
            record = family.record(short, "none")
            record = dataclasses.replace(record, preprocess=rendering, arguments=arguments)
            empty = build_on_meta(family, record)
            wrong = mismatches(empty, network.state_dict(), ())
            if wrong:
                count = sum(int(number) for number in re.findall(r"\((\d+)\):", " ".join(wrong)))
                text = f"it is not {name} without its classifier: {'; '.join(wrong)}"
                reasons.append((count, text))
                continue
            difference = _other_stages(empty, rendering.image_size, shapes, name) or _other_outputs(
                network, shapes, record, outputs, name
            )
        except (BackboneError, WeightsError) as error:
            difference = error.message
        if difference is None:
            return _Identity(name, arguments, record.sizes)
        reasons.append((0, difference))
    if reasons:
        return min(reasons)[1]
    return (
        f"a bundle holds no code, and {_class(network)} is no architecture of timm, torchvision or "
        "regraft that could be built by its name"
    )


def _candidates(network: nn.Module, n_features: int) -> Iterator[tuple[str, dict[str, Scalar]]]:
    """Yield names and arguments of architectures that the network may be, the likeliest first."""
    home = type(network).__module__
    config = getattr(network, "pretrained_cfg", None)
    if home.startswith("timm.") and isinstance(config, dict):
        name = f"timm/{config.get('architecture')}"
        pool = getattr(network, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        yield name, {}
        if isinstance(pool, str):
            yield name, {"global_pool": pool}
    elif home.startswith("torchvision.models."):
        models = torchvision.models
        names = [
            short
            for short in registry.FAMILIES["torchvision"].names()
            if models.get_model_builder(short).__module__ == home
        ]
        # To build each costs seconds. Published numbers of parameters count a classifier of 1,000.
        published = sum(each.numel() for each in network.parameters()) + 1000 * (n_features + 1)
        for short in sorted(
            names,
            key=lambda short: abs(
                models.get_model_weights(short).DEFAULT.meta["num_params"] - published
            ),
        ):
            yield f"torchvision/{short}", {}
    elif home == "regraft.backbones.minivgg":
        for short in registry.FAMILIES["minivgg"].names():
            yield registry.full_name("minivgg", short), {}


def _other_stages(empty: nn.Module, size: int, shapes: StageShapes, name: str) -> str | None:
    """Say that an architecture has other stages than the network; None if it has the same."""
    its_stages = find_stages(empty, size).stages
    if its_stages == shapes.stages:
        return None
    names = listed([stage.path for stage in its_stages])
    return f"in a bundle the stages of {name} are {names}, and others are given"


def _other_outputs(
    network: nn.Module,
    shapes: StageShapes,
    record: Record,
    outputs: list[torch.Tensor],
    name: str,
) -> str | None:
    """Say that an architecture gives other outputs than the network; None if they are the same."""
    size = record.preprocess.image_size
    built = registry.build(name, record.arguments, image_size=size)
    built.load_state_dict(network.state_dict())
    for ours, theirs in zip(outputs, _outputs(built, shapes, size), strict=True):
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5):
            return f"{name} with the same parameters gives other features"
    return None


def _class(module: nn.Module) -> str:
    return type(module).__name__


def _reason(error: Exception) -> str:
    return (str(error).partition("\n")[0] or type(error).__name__)[:200]
