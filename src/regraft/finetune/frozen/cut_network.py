"""A network cut after a stage: its front runs once for each view, its back in every epoch.

Nothing is traced and no code is rewritten. The back is the network's own ``forward`` with its own
modules, on an image that has a shape and no values (torch's meta device); at the cut the kept
activations replace the computed ones. Any other tensor made of the image that would pass from the
front to the back meets tensors of another device, and fails. So one pass of two images shows
whether a network can be cut at one tensor.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Activations:
    """The activations of n images at the cut."""

    #: Each with n rows: the output of the stage, in its own precision; then the features that were
    #: pooled before the cut.
    tensors: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: slice) -> Activations:
        return Activations(tuple(tensor[rows] for tensor in self.tensors))

    def to(self, device: str) -> Activations:
        """Copy to a device."""
        return Activations(tuple(tensor.to(device) for tensor in self.tensors))


class _CutReached(Exception):  # noqa: N818 - no error: the front ends here
    """Ends a forward pass at the cut."""


class CutNetwork:
    """The front and the back of a network; both share its modules, hooks and modes."""

    def __init__(
        self,
        module: nn.Module,  # on its device; neither changed nor copied
        stage_of_module: Mapping[str, int],  # as ``stage_of_modules`` gives it
        first: int,  # stage after the cut
        path: str,  # the module whose output is kept: the end of stage first - 1, or "" for all
        side: int,  # of an image, in pixels
    ) -> None:
        self._module = module
        self._stage_of_module = stage_of_module
        self._first = first
        self._path = path
        self._image: dict[str, Any] = {"dtype": next(module.parameters()).dtype, "device": "meta"}
        self._side = side
        self._kept: list[torch.Tensor] = []  # the input of the back
        self._back = self._after_cut(module, "")

    def front(self, images: torch.Tensor) -> torch.Tensor:
        """Run images (n, 3, S, S) up to the cut; return its output (n, ...).

        Raises TypeError where that is not one tensor with a row for each image.
        """
        found: list[Any] = []

        def stop(_module: nn.Module, _inputs: object, output: object) -> None:
            found.append(output)
            raise _CutReached

        handle = self._module.get_submodule(self._path).register_forward_hook(stop)
        try:
            self._module(images)
        except _CutReached:
            pass
        finally:
            handle.remove()
        kept = found[0] if found else None
        if not isinstance(kept, torch.Tensor) or len(kept) != len(images):
            raise TypeError(f"{self._path} gives no row for each image")
        return kept.detach()

    def back(self, kept: torch.Tensor) -> torch.Tensor:
        """Run the network from the cut on; return the pooled features (n, F)."""
        self._kept = [kept]
        try:
            pooled: torch.Tensor = self._back(
                torch.empty(len(kept), 3, self._side, self._side, **self._image)
            )
        finally:
            self._kept = []
        return pooled

    def _after_cut(self, module: nn.Module, name: str) -> nn.Module:
        """Return the replacement of a module in the back."""
        if name == self._path:
            return self._with_forward(module, lambda *_, **__: self._kept.pop())
        inside = f"{name}." if name else ""
        stages = [
            stage
            for path, stage in self._stage_of_module.items()
            if path == name or path.startswith(inside)
        ]
        if not self._path.startswith(inside):
            if min(stages) >= self._first:
                return module
            if max(stages) < self._first:
                return self._with_forward(module, _Shapes(module))
        # It runs on both sides of the cut: its own tensors belong to the front.
        mixed = copy.copy(module)
        mixed._modules = {  # noqa: SLF001
            child: None if part is None else self._after_cut(part, inside + child)
            for child, part in module._modules.items()  # noqa: SLF001
        }
        mixed._parameters = {  # noqa: SLF001
            own: None if value is None else nn.Parameter(value.to("meta"), requires_grad=False)
            for own, value in module._parameters.items()  # noqa: SLF001
        }
        mixed._buffers = {  # noqa: SLF001
            own: None if value is None else value.to("meta")
            for own, value in module._buffers.items()  # noqa: SLF001
        }
        return mixed

    @staticmethod
    def _with_forward(module: nn.Module, forward: Any) -> nn.Module:
        """Return a module with the same attributes, another ``forward`` and no hooks."""
        other = copy.copy(module)
        other._forward_hooks = OrderedDict()  # noqa: SLF001
        other._forward_pre_hooks = OrderedDict()  # noqa: SLF001
        other.forward = forward
        return other


class _Shapes:
    """Computes the output of a module for an image without values, once for each shape."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._without_values = copy.deepcopy(module).to("meta")
        for part in self._without_values.modules():
            part._forward_hooks.clear()  # noqa: SLF001
            part._forward_pre_hooks.clear()  # noqa: SLF001
        self._made: dict[torch.Size, Any] = {}

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not (inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].is_meta):
            # Used on both sides, such as an activation function.
            return self._module(*inputs, **named)
        shape = inputs[0].shape
        if shape not in self._made:
            # Both sides may read what depends on no image, such as angles of rotated positions.
            inputs, named = tree_map_only(torch.Tensor, _without_values, (inputs, named))
            self._made[shape] = self._without_values(*inputs, **named)
        return self._made[shape]


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("meta")
