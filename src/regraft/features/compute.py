"""Where and how the forward pass runs: device, precision, memory format, folded norms.

The fast path on a processor is channels_last, BatchNorm folded into the convolution that feeds it,
and bfloat16 where the instruction set has it. It works on a copy: the backbone itself stays as it
was hashed. ``fingerprint`` is what a feature's bits depend on besides the image and the weights.
"""

from __future__ import annotations

import copy
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from regraft.config import Precision

FOLD_RULES = 1  # raised when folding or pooling change: part of every feature's key


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
        Where the device is unknown or not there.

    Examples
    --------
    >>> choose_compute("cpu", "float32", 16)
    Compute(device='cpu', precision='float32', batch_size=16)
    """
    available = ["cpu"]
    available += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    available += ["mps"] if torch.backends.mps.is_available() else []
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


def prepare(module: nn.Module, compute: Compute) -> nn.Module:
    """Return a copy of a frozen network, rearranged to run fast.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; it is not changed.
    compute : Compute
        Device and precision.

    Returns
    -------
    nn.Module
        Same submodule names (hooks attach to them afterwards), norms folded where the graph proves
        that a convolution feeds them, channels_last, on the device and in its precision.
    """
    fast = copy.deepcopy(module)
    fold_norms(fast)
    fast.to(device=compute.device, dtype=compute.dtype)
    to_layout: Callable[..., nn.Module] = fast.to  # torch's stubs leave memory_format out
    to_layout(memory_format=torch.channels_last)
    return fast.eval().requires_grad_(requires_grad=False)


class _Tracer(fx.Tracer):
    """Keeps convolutions and norms whole: timm subclasses them outside of torch.nn."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(
            m, module_qualified_name
        )


def fold_norms(module: nn.Module) -> int:
    """Fold BatchNorm into the convolutions before it, in place; return how many were folded.

    A norm is folded only where the traced graph shows a convolution whose single user it is, both
    used once. A network that cannot be traced is left as it is. The activation that timm's
    ``BatchNormAct2d`` carries stays in the norm's place.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; changed in place.

    Returns
    -------
    int
        Number of folded norms.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> fold_norms(network)
    1
    """
    try:
        graph = _Tracer().trace(module)
    except Exception:  # noqa: BLE001 - tracing runs foreign code; whatever fails, nothing is folded
        return 0
    modules = dict(module.named_modules())
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    folded = 0
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        feeder = node.args[0]
        if feeder.op != "call_module" or len(feeder.users) != 1:
            continue
        convolution, norm = modules[feeder.target], modules[node.target]
        once = calls[feeder.target] == calls[node.target] == 1
        if once and isinstance(convolution, nn.Conv2d) and _fold(convolution, norm):
            parent, _, name = node.target.rpartition(".")
            setattr(module.get_submodule(parent), name, _activation_of(norm))
            folded += 1
    return folded


def _fold(convolution: nn.Conv2d, norm: nn.Module) -> bool:
    """Scale the convolution by the norm's statistics; in float64, so that rounding comes once."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
        return False
    if norm.running_var is None or convolution.padding_mode != "zeros":
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
