"""Where an architecture's own block groups end: one table for all families.

A tap's map is read at these places, so each path is a module whose output is the end of a group.
``STAGES`` maps an architecture's class name to a function that lists the groups' paths; what the
table does not know falls back to timm's own list of features, then to four equal groups of blocks,
then to no stages at all: the pooled features are always there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from regraft.backbones.backbone import Stage
from regraft.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn


#: Lists the paths at which a network's groups end, in order from the input.
Finder: TypeAlias = Callable[["nn.Module"], list[str]]


def _children(path: str) -> Finder:
    """Every child of a container is a group: blocks.0, blocks.1, ..."""

    def find(module: nn.Module) -> list[str]:
        return [f"{path}.{name}" for name, _ in module.get_submodule(path).named_children()]

    return find


STAGES: dict[str, Finder] = {
    "EfficientNet": _children("blocks"),
}


@dataclass(frozen=True)
class Shapes:
    """What one image told: the width of the pooled features and the stages with theirs."""

    n_features: int
    stages: tuple[Stage, ...]


def find_stages(module: nn.Module, image_size: int) -> Shapes:
    """Find the ends of a network's block groups and measure them with one forward pass.

    Parameters
    ----------
    module : nn.Module
        The network without its classifier, in evaluation mode.
    image_size : int
        Pixels; a size that the network accepts.

    Returns
    -------
    Shapes
        Width of the pooled features, and the stages in order from the input.

    Raises
    ------
    BackboneError
        Where the network does not give one row of features for one image.
    """
    paths = STAGES[type(module).__name__](module)
    outputs: dict[str, Any] = {}

    def remember(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # Shapes only: the values may change in place after this.
            outputs[path] = output.shape if isinstance(output, torch.Tensor) else None

        return hook

    handles = [module.get_submodule(path).register_forward_hook(remember(path)) for path in paths]
    first = next(iter(module.parameters()))
    try:
        # Not inference_mode: its tensors cannot be used later, and some networks keep caches.
        with torch.no_grad():
            features = module(torch.zeros(1, 3, image_size, image_size, device=first.device))
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(features, torch.Tensor) or features.dim() != 2:
        raise BackboneError("the network gives no pooled features: one row of numbers per image")
    stages = []
    for path in paths:
        shape = outputs.get(path)
        if shape is not None:
            stages.append(Stage(path, path, shape[1]))
    return Shapes(features.shape[1], tuple(stages))
