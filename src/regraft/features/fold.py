"""BatchNorm folded into the convolution before it: fewer passes over memory, the same function."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


def fold_norms(
    module: nn.Module, example: Tensor, tapped: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Fold each BatchNorm that can be folded, in place; return (convolution, norm) by their paths.

    One forward pass of a copy records which operation uses which tensor. A norm is folded if
    nothing else uses the output of the convolution, if both run exactly once, and if no tap reads
    between them. A network whose operations depend on the values of its input stays unchanged. The
    activation that is part of timm's ``BatchNormAct2d`` replaces the norm.

    ``module`` is float32 and in evaluation mode. ``example`` (1, 3, S, S) has the size of the
    images; its values do not matter. ``tapped`` are the paths of modules whose output must not
    change.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> fold_norms(network, torch.zeros(1, 3, 8, 8))
    [('0', '1')]
    """
    if not any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
        return []
    observer = _Observer(copy.deepcopy(module), tapped)
    folded = []
    for convolution, path in observer.foldable(example):
        norm = module.get_submodule(path)
        if _fold(module.get_submodule(convolution), norm):
            parent, _, last = path.rpartition(".")
            setattr(module.get_submodule(parent), last, _activation_of(norm))
            folded.append((convolution, path))
    return folded


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records in one forward pass which operations use parameters and outputs of convolutions.

    Hooks report what goes into a layer and comes out of it; ``__torch_dispatch__`` reports every
    operation between them. The mode belongs to the calling thread. ``torch.fx`` would replace
    ``nn.Module.__call__`` for all threads while it traces, and networks that run in other threads
    at that time would give wrong results.
    """

    def __init__(self, module: nn.Module, tapped: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._module = module
        #: Tensors whose uses are counted, by id. They are kept alive: a freed id could be reused.
        self._watched = {id(value): value for value in module.state_dict(keep_vars=True).values()}
        self._n_uses: Counter[int] = Counter()  # operations that take a watched tensor, by its id
        self._results: dict[int, list[Any]] = {}  # of the last such operation, by the same id
        self._n_calls: Counter[str] = Counter()  # of each layer, by its path
        self._convolution_of: dict[int, str] = {}  # the path of the layer, by the id of its output
        self._input_of: dict[str, Tensor] = {}  # the input of a norm, by its path
        self._read_outside: list[Any] = []  # outputs that taps or the caller read
        self._depends_on_values = False
        n_paths = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
        for path, part in module.named_modules():
            if n_paths[id(part)] > 1:
                continue  # replaced under one path, it would stay under the other
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(self._after_convolution(path))
            elif isinstance(part, nn.BatchNorm2d):
                part.register_forward_hook(self._after_norm(path))
        for path in tapped:
            module.get_submodule(path).register_forward_hook(self._after_tapped)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
            self._depends_on_values = True
        used = {id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._watched}
        self._n_uses.update(used)
        result = func(*args, **(kwargs or {}))
        self._results.update((each, tree_leaves(result)) for each in used)
        return result

    def _after_convolution(self, path: str) -> Callable[..., None]:
        def hook(convolution: nn.Conv2d, _inputs: object, output: Tensor) -> None:
            self._n_calls[path] += 1
            # A layer that does more than convolve, or computes its weights, gives another tensor.
            if any(output is each for each in self._results.get(id(convolution.weight), ())):
                self._convolution_of[id(output)] = path
                self._watched[id(output)] = output

        return hook

    def _after_norm(self, path: str) -> Callable[..., None]:
        def hook(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._n_calls[path] += 1
            results = self._results.get(id(norm.running_mean), ())
            if hasattr(norm, "act") or any(output is each for each in results):
                self._input_of[path] = inputs[0]

        return hook

    def _after_tapped(self, _module: nn.Module, _inputs: object, output: object) -> None:
        self._read_outside += tree_leaves(output)

    def foldable(self, example: Tensor) -> list[tuple[str, str]]:
        """Return the paths of convolution and norm, for each pair that can be folded."""
        try:
            # inference_mode would hide operations that read values.
            with torch.inference_mode(mode=False), torch.no_grad(), self:
                self._read_outside += tree_leaves(self._module(example))
        except Exception:  # noqa: BLE001 - code of any network; if it fails, nothing is folded
            return []
        if self._depends_on_values:
            return []
        outside = {id(each) for each in self._read_outside}
        pairs = []
        for norm, between in self._input_of.items():
            convolution = self._convolution_of.get(id(between))
            if convolution is None or id(between) in outside or self._n_uses[id(between)] != 1:
                continue
            if self._runs_once(convolution) and self._runs_once(norm):
                pairs.append((convolution, norm))
        return pairs

    def _runs_once(self, path: str) -> bool:
        part = self._module.get_submodule(path)
        tensors = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        used_once = all(self._n_uses[id(tensor)] <= 1 for tensor in tensors)
        return self._n_calls[path] == 1 and used_once


def _fold(convolution: nn.Module, norm: nn.Module) -> bool:
    """Scale a convolution by the statistics of a norm, in float64: it is rounded only once."""
    if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        return False
    if norm.running_mean is None or norm.running_var is None:
        return False
    scale = (norm.running_var.double() + norm.eps).rsqrt()  # (C,)
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double()
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = convolution.weight.double() * scale[:, None, None, None]
    convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(convolution.weight.dtype), requires_grad=False)
    return True


def _activation_of(norm: nn.Module) -> nn.Module:
    """Return what timm's norm layers compute after the norm; torch's own compute nothing."""
    parts = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    return nn.Sequential(*parts) if parts else nn.Identity()
