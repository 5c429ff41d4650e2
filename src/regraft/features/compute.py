"""Where and how the forward pass runs: device, precision, memory format, folded norms.

The fast path on a processor is channels_last, BatchNorm folded into the convolution that feeds it,
and bfloat16 where the instruction set has it. It works on a copy: the backbone itself stays as it
was hashed. ``fingerprint`` is what a feature's bits depend on besides the image and the weights.
"""

from __future__ import annotations

import copy
import platform
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regraft.config.train_config import Precision
from regraft.errors import ConfigError
from regraft.features.fuse import fuse_clamps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from regraft.backbones.backbone import Backbone

FOLD_RULES = 3  # raised when folding or pooling change: part of every feature's key


@dataclass(frozen=True)
class Compute:
    """Where and how a forward pass runs.

    Attributes
    ----------
    device : str
        "cpu", "cuda:N" or "mps".
    precision : str
        "float32" or "bfloat16".
    batch_size : int
        Images in one forward pass; batches are padded to it where rows must repeat to the bit.
    """

    device: str
    precision: str
    batch_size: int

    @property
    def dtype(self) -> torch.dtype:
        """Of the images that enter the network."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def fingerprint(self) -> dict[str, Any]:
        """Return everything here that a feature's bits may depend on, JSON-ready."""
        device = torch.device(self.device)
        return {
            "torch": str(torch.__version__),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "batch_size": self.batch_size,
            "rules": FOLD_RULES,
        }


def images_at_once(batch_size: int, image_size: int) -> int:
    """Return how many images go through a frozen network at once: up to four times more small ones.

    They take no more memory than ``batch_size`` of 224 pixels, and calls cost more than arithmetic
    there: on two cores 48 images of 128 pixels at once are 1.4 times as fast as 16, and 64 of 64
    pixels twice (docs/design/decisions.md).

    Parameters
    ----------
    batch_size : int
        As it was set.
    image_size : int
        Pixels, side of the square.

    Returns
    -------
    int

    Examples
    --------
    >>> [images_at_once(16, size) for size in (64, 128, 160, 224, 448)]
    [64, 48, 16, 16, 16]
    """
    return batch_size * max(1, min(4, (224 * 224) // image_size**2))


def choose_compute(device: str, precision: Precision, batch_size: int) -> Compute:
    """Turn the settings into a device and a precision that this machine has.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    precision : str
        "auto", "bfloat16" or "float32".
    batch_size : int
        Images in one forward pass, at least 1.

    Returns
    -------
    Compute
        With "auto" resolved: a GPU where there is one; bfloat16 where the hardware has it.

    Raises
    ------
    ConfigError
        Where the device is unknown or not there, or another value is out of range.

    Examples
    --------
    >>> choose_compute("cpu", "float32", 16)
    Compute(device='cpu', precision='float32', batch_size=16)
    """
    available = ["cpu"]
    available += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if precision not in get_args(Precision):
        allowed = ", ".join(get_args(Precision))
        raise ConfigError(f"precision is {precision}; it must be one of {allowed}")
    if not 1 <= batch_size <= 65_536:
        raise ConfigError(f"batch_size is {batch_size}; it must lie between 1 and 65536")
    if device == "auto":
        chosen = next((name for name in ("cuda:0", "mps") if name in available), "cpu")
    else:
        chosen = "cuda:0" if device == "cuda" else device
    if chosen not in available:
        raise ConfigError(
            f"device {device} is not there",
            hint=f"this machine has {', '.join(available)}; --device auto takes the best one",
        )
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(chosen) else "float32"
    return Compute(chosen, precision, batch_size)


def has_bfloat16(device: str) -> bool:
    """Tell whether bfloat16 is native on a device, that is, faster than float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu":
        # Without the instructions bfloat16 is emulated and slower than float32.
        checks: list[Callable[[], bool]] = [
            getattr(torch.cpu, name)
            for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
            if hasattr(torch.cpu, name)
        ]
        mkldnn: Callable[[], bool] = torch.backends.mkldnn.is_available
        return mkldnn() and any(check() for check in checks)
    return False


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Ask for kernels that repeat to the bit; on the processor they do anyway."""
    if not device.startswith("cuda"):
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before[0])
        torch.backends.cudnn.benchmark = before[1]


def prepare(backbone: Backbone, compute: Compute) -> nn.Module:
    """Return a copy of a frozen network, rearranged to run fast.

    Parameters
    ----------
    backbone : Backbone
        Its module, in evaluation mode, is not changed.
    compute : Compute
        Device and precision.

    Returns
    -------
    nn.Module
        Same submodule names (hooks attach to them afterwards), norms folded where that changes
        nothing that a stage reads, channels_last, on the device and in its precision.
    """
    fast = copy.deepcopy(backbone.module)
    side = backbone.preprocess.image_size
    tapped = [stage.path for stage in backbone.stages]
    folded = fold_norms(fast, torch.zeros(1, 3, side, side), tapped)
    fast.to(device=compute.device, dtype=compute.dtype)
    to_layout: Callable[..., nn.Module] = fast.to  # torch's stubs leave memory_format out
    to_layout(memory_format=torch.channels_last)
    fast.eval().requires_grad_(requires_grad=False)
    if torch.device(compute.device).type == "cpu":
        noise = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        noise = noise.to(compute.dtype, memory_format=torch.channels_last)
        fuse_clamps(fast, folded, tapped, noise)
    return fast


def fold_norms(
    module: nn.Module, example: Tensor, tapped: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Fold BatchNorm into the convolutions before it, in place; return which were folded.

    A forward pass of a copy shows who uses what: a norm is folded where it alone uses a
    convolution's output, both run once, and no tap reads what lies between. A network whose way
    depends on its input's values is left as it is. The activation that timm's ``BatchNormAct2d``
    carries stays in the norm's place.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, float32; changed in place.
    example : tensor of shape (1, 3, S, S), float32
        Of the size that the network will see; its values do not matter.
    tapped : sequence of str
        Submodules whose output must stay what it is.

    Returns
    -------
    list of tuple of str
        Convolution and norm, by their names.

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
    for feeder, name in observer.foldable(example):
        norm = module.get_submodule(name)
        if _fold(module.get_submodule(feeder), norm):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, _activation_of(norm))
            folded.append((feeder, name))
    return folded


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches one forward pass: who uses the convolutions' outputs, and every parameter.

    The mode is the calling thread's own. ``torch.fx`` patches ``nn.Module.__call__`` for all
    threads while it traces, and networks that run meanwhile come out wrong.
    """

    def __init__(self, module: nn.Module, tapped: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._module = module
        self._uses: Counter[int] = Counter()  # by id: what is counted is kept alive
        self._results: dict[int, list[Any]] = {}  # of the last operation that used a parameter
        self._by_values = False
        self._calls: Counter[str] = Counter()
        self._made_by: dict[int, str] = {}  # a convolution's output
        self._fed_by: dict[str, Tensor] = {}  # a norm's input
        self._read: list[Any] = []  # what taps see
        self._watched = {id(value): value for value in module.state_dict(keep_vars=True).values()}
        places = Counter(id(m) for _, m in module.named_modules(remove_duplicate=False))
        for name, part in module.named_modules():
            if places[id(part)] > 1:
                continue  # replaced in one of its places, it would stay in the other
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(self._after_convolution(name))
            elif isinstance(part, nn.BatchNorm2d):
                part.register_forward_hook(self._after_norm(name))
        for name in tapped:
            module.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output: self._read.extend(tree_leaves(output))
            )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
            self._by_values = True
        used = {id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._watched}
        self._uses.update(used)
        result = func(*args, **(kwargs or {}))
        self._results.update((each, tree_leaves(result)) for each in used)
        return result

    def _after_convolution(self, name: str) -> Callable[..., None]:
        def hook(convolution: nn.Conv2d, _inputs: object, output: Tensor) -> None:
            self._calls[name] += 1
            # Not so where the layer does more, or weighs with something made from its weights.
            if any(output is each for each in self._results.get(id(convolution.weight), ())):
                self._made_by[id(output)] = name
                self._watched[id(output)] = output

        return hook

    def _after_norm(self, name: str) -> Callable[..., None]:
        def hook(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._calls[name] += 1
            results = self._results.get(id(norm.running_mean), ())
            if hasattr(norm, "act") or any(output is each for each in results):
                self._fed_by[name] = inputs[0]

        return hook

    def foldable(self, example: Tensor) -> list[tuple[str, str]]:
        """Return paths of convolution and norm, for each pair that can be folded."""
        try:
            # inference_mode would hide that values were looked at.
            with torch.inference_mode(mode=False), torch.no_grad(), self:
                self._read += tree_leaves(self._module(example))
        except Exception:  # noqa: BLE001 - foreign code; whatever fails, nothing is folded
            return []
        if self._by_values:
            return []
        outside = {id(each) for each in self._read}
        return [
            (self._made_by[id(between)], name)
            for name, between in self._fed_by.items()
            if id(between) in self._made_by
            and id(between) not in outside
            and self._uses[id(between)] == 1
            and self._once(self._made_by[id(between)])
            and self._once(name)
        ]

    def _once(self, name: str) -> bool:
        part = self._module.get_submodule(name)
        tensors = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        return self._calls[name] == 1 and all(self._uses[id(tensor)] <= 1 for tensor in tensors)


def _fold(convolution: nn.Module, norm: nn.Module) -> bool:
    """Scale the convolution by the norm's statistics; in float64, so that rounding comes once."""
    if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        return False
    if norm.running_mean is None or norm.running_var is None:
        return False
    scale = (norm.running_var.double() + norm.eps).rsqrt()
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
    """Return what timm's norm layers do after the norm; nothing for torch's own."""
    parts = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    return nn.Sequential(*parts) if parts else nn.Identity()
