"""Networks without memory for their parameters, to find out shapes in little time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from regraft.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from regraft.backbones.family import Family, Record


class _EmptyOnMeta(TorchFunctionMode):
    """Create parameters without memory: filling a billion of them would take a minute.

    ``torch.device("meta")`` would move every tensor there, and some constructors compute with small
    tensors (torchvision's RegNet).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


def build_on_meta(family: Family, record: Record) -> nn.Module:
    """Build a network on the meta device, without its classifier, in evaluation mode."""
    size = record.preprocess.image_size
    with torch.random.fork_rng(devices=()):
        try:
            with _EmptyOnMeta():
                module = family.build(record.name, record.arguments, size)
        except BackboneError:  # its constructor reads its own parameters (timm's ViTamin)
            module = family.build(record.name, record.arguments, size)
    return module.to("meta").eval().requires_grad_(requires_grad=False)
