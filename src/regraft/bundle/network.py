"""The network of a bundle: planned on no device, compared with its tensors, only then built.

What follows from the network's name and the image size (its tensors, its stages, the width of its
features) is derived here and compared with what the manifest says; nothing of it is believed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import torch

from regraft.backbones import registry
from regraft.backbones.backbone import Backbone, Preprocess, Stage
from regraft.backbones.describe import skeleton
from regraft.backbones.freeze import state_hash
from regraft.backbones.stages import Shapes, find_stages
from regraft.errors import BackboneError, BundleError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from regraft.bundle.manifest import BackboneRecord

#: Buffers that are no part of the state, such as tables of relative positions, grow with the fourth
#: power of the image size. At their own size no network of timm's or torchvision's has more than a
#: quarter of its state in them.
_SPARE_BYTES = 256 * 2**20


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the size of tensors; those on no device count too."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def plan_backbone(record: BackboneRecord) -> Backbone:
    """Look a network up by its name and derive its shapes, without memory for its parameters.

    Parameters
    ----------
    record : BackboneRecord
        From the manifest.

    Returns
    -------
    Backbone
        Its module is on the meta device: ``fill_backbone`` builds the real one.

    Raises
    ------
    BundleError
        Where there is no such network, it does not take the image size, or its stages, features
        or buffers are not what the manifest and the tensors leave room for.
    """
    size = record.preprocess.image_size
    try:
        module = _without_memory(record)
    except (BackboneError, WeightsError) as error:
        raise BundleError(f"manifest.json: backbone: {error.message}", hint=error.hint) from error
    check_buffers(module, f"{record.name} at {size} pixels")
    stages = tuple(Stage(**msgspec.structs.asdict(stage)) for stage in record.stages)
    if _shapes(module, record) != Shapes(record.n_features, stages):
        raise BundleError(
            f"manifest.json: backbone: the stages or n_features are not those of {record.name}",
            hint="other releases of timm or torchvision may cut a network elsewhere",
        )
    return Backbone(
        name=record.name,
        weights=record.weights,
        weights_sha256=record.weights_sha256,
        licence=record.licence,
        preprocess=Preprocess(**msgspec.structs.asdict(record.preprocess)),
        stages=stages,
        n_features=record.n_features,
        module=module,
        arguments=dict(record.arguments),
    )


def _without_memory(record: BackboneRecord) -> nn.Module:
    size, arguments = record.preprocess.image_size, dict(record.arguments)
    try:
        with torch.device("meta"):
            return registry.build(record.name, arguments, image_size=size)
    except BackboneError:
        # Some constructors calculate with tensors (torchvision's RegNet), so that only parameters
        # can be left away. Never where the image size makes the network: its buffers would be real.
        prefix, _, short = record.name.partition("/")
        family = registry.FAMILIES[prefix]
        if short not in family.names():
            raise
        known = family.record(short, "none")
        if known.sizes.fixed:
            raise
        return skeleton(family, dataclasses.replace(known, arguments=arguments))


def check_buffers(module: nn.Module, what: str) -> None:
    """Check that a network holds little beside the tensors that a bundle keeps.

    Parameters
    ----------
    module : nn.Module
        On any device.
    what : str
        Names it in the message.

    Raises
    ------
    BundleError
        Where it holds more than three times that, and 256 MiB.
    """
    kept = bytes_of(module.state_dict().values())
    held = bytes_of([*module.parameters(), *module.buffers()])
    if held > 3 * kept + _SPARE_BYTES:
        raise BundleError(
            f"{what} takes {held / 2**20:,.0f} MiB for {kept / 2**20:,.0f} MiB of tensors",
            hint="a smaller image size needs less",
        )


def _shapes(module: nn.Module, record: BackboneRecord) -> Shapes:
    size = record.preprocess.image_size
    try:
        return find_stages(module, size)
    except BackboneError as error:
        raise BundleError(f"manifest.json: backbone: {error.message}") from error
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, KeyError,
            ArithmeticError, AttributeError) as error:  # fmt: skip
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise BundleError(
            f"manifest.json: {record.name} does not take images of {size} pixels: {reason}"
        ) from error


def fill_backbone(plan: Backbone, state: Mapping[str, torch.Tensor]) -> Backbone:
    """Build the network that was planned, and fill it.

    Parameters
    ----------
    plan : Backbone
        From ``plan_backbone``.
    state : mapping of str to tensor
        From ``backbone.safetensors``.

    Returns
    -------
    Backbone
        In evaluation mode, without gradients, on the processor.

    Raises
    ------
    BundleError
        Where a tensor is missing, unexpected or of another shape or type, or is not what the
        training used.
    """
    expected = plan.module.state_dict()
    wrong = sorted(set(expected) ^ set(state)) or [
        name
        for name, tensor in state.items()
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype)
    ]
    if wrong:
        shown = ", ".join(name[:100] for name in wrong[:5])
        raise BundleError(
            f"backbone.safetensors: {len(wrong)} tensors are missing, unexpected or of another "
            f"shape or type: {shown}"
        )
    module = registry.build(plan.name, plan.arguments, image_size=plan.preprocess.image_size)
    module.load_state_dict(state)
    module.eval().requires_grad_(requires_grad=False)
    if state_hash(module) != plan.weights_sha256:
        raise BundleError("backbone.safetensors: the tensors are not those that were trained with")
    return dataclasses.replace(plan, module=module)
