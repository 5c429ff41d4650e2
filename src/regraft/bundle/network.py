"""The network of a bundle: planned without memory, compared with the tensors, and only then built.

The tensors, the stages and the width of the features follow from the name of the network and the
image size. They are derived here and compared with the manifest, which is not trusted.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
import torch

from regraft.backbones import registry
from regraft.backbones.backbone import Backbone, Stage
from regraft.backbones.freeze import state_hash
from regraft.backbones.meta_device import build_on_meta
from regraft.backbones.stages import StageShapes, find_stages
from regraft.core.text import counted, listed
from regraft.errors import BackboneError, BundleError, WeightsError
from regraft.images.render import Preprocess

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from regraft.backbones.backbone import Scalar
    from regraft.bundle.manifest import NetworkRecord

#: Buffers that are not part of the state, such as tables of relative positions, grow with the
#: fourth power of the image size. At their own image sizes, none of 1,447 networks of timm and
#: torchvision has such buffers larger than two thirds of its state (tiny_vit_21m_512), or larger
#: than 192 MiB.
_SPARE_BYTES = 256 * 2**20


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of tensors; those on the meta device count too."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def plan_backbone(record: NetworkRecord) -> Backbone:
    """Return the network of a record, with its module on the meta device and its derived shapes.

    Raises
    ------
    BundleError
        There is no such network, it does not take the image size, or its stages, features or
        buffers are not those of the manifest.
    """
    try:
        arguments = tuple(record.arguments.items())
        module, shapes = _derived(record.name, arguments, record.preprocess.image_size)
    except (BackboneError, WeightsError) as error:
        message = f"manifest.json: network: {error.message[:300]}"
        raise BundleError(message, hint=error.hint) from error
    stages = tuple(Stage(**msgspec.structs.asdict(stage)) for stage in record.stages)
    if shapes != StageShapes(record.n_features, stages):
        raise BundleError(
            f"manifest.json: network: the stages or n_features are not those of {record.name}",
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


@lru_cache(maxsize=8)  # the first time takes a tenth of a second
def _derived(
    name: str, arguments: tuple[tuple[str, Scalar], ...], size: int
) -> tuple[nn.Module, StageShapes]:
    """Return the network on the meta device, and its shapes from a pass of one image there."""
    module = _without_memory(name, dict(arguments), size)
    check_buffers(module, f"{name} at {size} pixels")
    try:
        return module, find_stages(module, size)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, KeyError,
            ArithmeticError, AttributeError) as error:  # fmt: skip
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise BackboneError(f"{name} does not take images of {size} pixels: {reason}") from error


def _without_memory(name: str, arguments: dict[str, Scalar], size: int) -> nn.Module:
    try:
        with torch.device("meta"):
            return registry.build(name, arguments, image_size=size)
    except BackboneError:
        # Some constructors calculate with tensors (torchvision's RegNet): only their parameters can
        # be left out. Not if the network depends on the image size: its buffers would need memory.
        prefix, _, short = name.partition("/")
        family = registry.FAMILIES.get(prefix)
        if family is None or (short or prefix) not in family.names():
            raise
        known = family.record(short or prefix, "none")
        if known.sizes.fixed:
            raise
        return build_on_meta(family, dataclasses.replace(known, arguments=arguments))


def check_buffers(module: nn.Module, what: str) -> None:
    """Check that parameters and buffers take at most three times the state and 256 MiB.

    ``what`` names the network in the message.
    """
    kept = bytes_of(module.state_dict().values())
    held = bytes_of([*module.parameters(), *module.buffers()])
    if held > 3 * kept + _SPARE_BYTES:
        raise BundleError(
            f"{what} takes {held / 2**20:,.0f} MiB for {kept / 2**20:,.0f} MiB of tensors",
            hint="a smaller image size needs less",
        )


def fill_backbone(plan: Backbone, state: Mapping[str, torch.Tensor], file: str) -> Backbone:
    """Build the network that was planned, on the processor, frozen, and fill it with tensors.

    ``file`` is where they are from, for messages.

    Raises
    ------
    BundleError
        A tensor is missing, unexpected or of another shape or type, or is not that of the training.
    """
    expected = plan.module.state_dict()
    wrong = sorted(set(expected) ^ set(state)) or [
        name
        for name, tensor in state.items()
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype)
    ]
    if wrong:
        shown = listed([name[:100] for name in wrong], 5)
        raise BundleError(
            f"{file}: {counted(len(wrong), 'tensor')} missing, unexpected or of another shape or "
            f"type: {shown}"
        )
    module = registry.build(plan.name, plan.arguments, image_size=plan.preprocess.image_size)
    module.load_state_dict(state)
    module.eval().requires_grad_(requires_grad=False)
    if state_hash(module) != plan.weights_sha256:
        raise BundleError(f"{file}: the tensors are not those of the training")
    return dataclasses.replace(plan, module=module)
