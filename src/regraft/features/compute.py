"""Where and how a forward pass runs: device, precision, memory format, folded norms.

On a processor the fastest way is channels_last, BatchNorm folded into the convolution before it,
and bfloat16 if the processor has instructions for it. A copy of the network is changed in this way;
the backbone itself keeps the tensors that were hashed.
"""

from __future__ import annotations

import copy
import platform
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch

from regraft.config.train_config import Precision
from regraft.errors import ConfigError
from regraft.features.fold import fold_norms
from regraft.features.fuse import fuse_clamps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from regraft.backbones.backbone import Backbone

FOLD_RULES = 3  # raised when folding or pooling change; part of the key of every stored feature


@dataclass(frozen=True)
class Compute:
    """Where and how a forward pass runs."""

    device: str  # "cpu", "cuda:N" or "mps"
    precision: str  # "float32" or "bfloat16"
    batch_size: int  # images in one pass; smaller batches are padded, so that bits repeat

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the images that enter the network."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def fingerprint(self) -> dict[str, Any]:
        """Return what a feature's bits may depend on besides image and weights, JSON-ready."""
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
    """Return how many images of a size (pixels a side) go through a frozen network at once.

    Small images take less memory, and calls cost more than arithmetic for them: up to four times
    ``batch_size``, but no more pixels than ``batch_size`` images of 224 pixels have. On two cores
    48 images of 128 pixels at once are 1.4 times as fast as 16, and 64 of 64 pixels twice
    (docs/design/decisions.md).

    Examples
    --------
    >>> [images_at_once(16, size) for size in (64, 128, 160, 224, 448)]
    [64, 48, 16, 16, 16]
    """
    return batch_size * max(1, min(4, (224 * 224) // image_size**2))


def choose_compute(device: str, precision: Precision, batch_size: int) -> Compute:
    """Choose a device and a precision that this machine has.

    "auto" is a GPU if there is one, and bfloat16 if the hardware has instructions for it.

    Raises
    ------
    ConfigError
        The device is unknown or not in this machine, or another value is out of range.

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
        raise ConfigError(f"batch_size is {batch_size}; it must be between 1 and 65536")
    if device == "auto":
        chosen = next((name for name in ("cuda:0", "mps") if name in available), "cpu")
    else:
        chosen = "cuda:0" if device == "cuda" else device
    if chosen not in available:
        raise ConfigError(
            f"device {device} is not there",
            hint=f"this machine has {', '.join(available)}; `device='auto'` takes the best one",
        )
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(chosen) else "float32"
    return Compute(chosen, precision, batch_size)


def has_bfloat16(device: str) -> bool:
    """Return whether a device has instructions for bfloat16, so that it is faster than float32."""
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
    """Ask for kernels that give the same bits each time; on the processor all of them do."""
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
    """Return a copy of a frozen network that is fast: norms folded, clamps fused, channels last.

    Submodules keep their names, so that hooks can be attached to the copy. Stages give what they
    gave before, up to rounding.
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
