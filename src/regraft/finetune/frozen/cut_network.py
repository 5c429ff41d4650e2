"""A network cut behind a stage: what lies in front runs once, what lies behind runs alone.

Nothing is traced and nothing is rewritten. Behind the cut the network's own ``forward`` runs, with
its own modules, on an image that has a shape and no values (torch's meta device); where the cut is,
the kept activations take the place of what was computed. Whatever else would pass from the front to
the back meets tensors of another device there, and fails: so that a network which cannot be cut at
one tensor is told from one that can, by one pass of two images.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Activations:
    """Some images as they are at the cut.

    Attributes
    ----------
    tensors : tuple of tensor, each with n rows
        What the stage gave, in its own precision; then the features that were pooled before it.
    """

    tensors: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: slice) -> Activations:
        return Activations(tuple(tensor[rows] for tensor in self.tensors))

    def to(self, device: str) -> Activations:
        """Return it on a device."""
        return Activations(tuple(tensor.to(device) for tensor in self.tensors))


class _Reached(Exception):  # noqa: N818 - no error: the pass has come as far as it should
    """The cut is reached: what lies behind is not run."""


class CutNetwork:
    """A network in two halves that share its modules, hooks and modes.

    Parameters
    ----------
    module : nn.Module
        The network, where it is to run; neither changed nor copied.
    stage_of_module : mapping of str to int
        As ``stage_of_modules`` gives it.
    first : int
        First stage behind the cut.
    path : str
        The module whose output is kept: where stage ``first - 1`` ends, or "" for the whole
        network's.
    side : int
        Of an image, in pixels.
    """

    def __init__(
        self,
        module: nn.Module,
        stage_of_module: Mapping[str, int],
        first: int,
        path: str,
        side: int,
    ) -> None:
        self._module = module
        self._stage_of_module = stage_of_module
        self._first = first
        self._path = path
        self._image: dict[str, Any] = {"dtype": next(module.parameters()).dtype, "device": "meta"}
        self._side = side
        self._given: list[torch.Tensor] = []
        self._back = self._behind(module, "")

    def front(self, images: torch.Tensor) -> torch.Tensor:
        """Run images (n, 3, S, S) as far as the cut; return what is kept, (n, ...).

        Raises
        ------
        TypeError
            Where that is not one tensor with a row for each image.
        """
        found: list[Any] = []

        def stop(_module: nn.Module, _inputs: object, output: object) -> None:
            found.append(output)
            raise _Reached

        handle = self._module.get_submodule(self._path).register_forward_hook(stop)
        try:
            self._module(images)
        except _Reached:
            pass
        finally:
            handle.remove()
        kept = found[0] if found else None
        if not isinstance(kept, torch.Tensor) or len(kept) != len(images):
            raise TypeError(f"{self._path} gives no row for each image")
        return kept.detach()

    def back(self, kept: torch.Tensor) -> torch.Tensor:
        """Run what lies behind the cut on what was kept; return the pooled features (n, F)."""
        self._given = [kept]
        try:
            pooled: torch.Tensor = self._back(
                torch.empty(len(kept), 3, self._side, self._side, **self._image)
            )
        finally:
            self._given = []
        return pooled

    def _behind(self, module: nn.Module, name: str) -> nn.Module:
        """Return what takes a module's place behind the cut."""
        if name == self._path:
            return self._with_forward(module, lambda *_, **__: self._given.pop())
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
        mixed = copy.copy(module)  # on both sides of the cut: its own tensors are the front's
        mixed._modules = {  # noqa: SLF001
            child: None if part is None else self._behind(part, inside + child)
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
        """Return a module with the same attributes that does something else, and no hooks."""
        other = copy.copy(module)
        other._forward_hooks = OrderedDict()  # noqa: SLF001
        other._forward_pre_hooks = OrderedDict()  # noqa: SLF001
        other.forward = forward
        return other


class _Shapes:
    """Gives what a module would give for a shape without values, computed once a shape."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._without_values = copy.deepcopy(module).to("meta")
        for part in self._without_values.modules():
            part._forward_hooks.clear()  # noqa: SLF001
            part._forward_pre_hooks.clear()  # noqa: SLF001
        self._made: dict[torch.Size, Any] = {}

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not (inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].is_meta):
            return self._module(*inputs, **named)  # an activation, used on both sides
        shape = inputs[0].shape
        if shape not in self._made:
            self._made[shape] = self._without_values(*inputs, **named)
        return self._made[shape]
