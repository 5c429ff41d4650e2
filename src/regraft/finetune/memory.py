"""The memory that a training needs on a processor, where the system kills without an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from regraft.core.keyed_random import torch_seeded
from regraft.core.text import counted
from regraft.errors import RegraftError
from regraft.finetune.precision import autocast
from regraft.finetune.state import State, copied

if TYPE_CHECKING:
    from regraft.core.reporter import Reporter
    from regraft.features.compute import Compute
    from regraft.finetune.network import TrainableNetwork

#: One step took 0.92 of the estimate for EfficientNet-Lite0, 0.65 for a small ViT and 0.47
#: for ResNet-18 (224 pixels, batches of 16 and 8, bfloat16, one thread).
_MARGIN = 1.2


def fit_memory(state: State, side: int, compute: Compute, reporter: Reporter, free: int) -> None:
    """Halve ``state.progress.micro`` until a step fits into ``free`` bytes; ``side`` is in pixels.

    Only on a processor: on a GPU, a step that does not fit is repeated in smaller micro-batches.
    Raises RegraftError where the smallest micro-batch does not fit.
    """
    if compute.device != "cpu":
        return
    one = int(_MARGIN * activation_bytes(state.network, side, compute))
    # Gradients, at most two moments, the best epoch's tensors and a checkpoint as bytes.
    trained = sum(t.numel() * t.element_size() for t in state.network.state().values())
    fixed = 7 * trained
    asked, progress, least = state.progress.micro, state.progress, state.network.least_images
    while progress.micro > least and fixed + progress.micro * one > free:
        progress.micro = max(-(-progress.micro // 2), least)
    # Batches differ by one image: some are odd, and BatchNorm's passes of two then have one of 3.
    most = 3 if progress.micro == least == 2 else progress.micro
    if fixed + most * one > free:
        raise RegraftError(
            f"training needs about {_gib(fixed + most * one)} of memory, with {counted(most)} at a "
            f"time; {_gib(free)} are free",
            hint="a smaller `image_size` or `model`, or fewer stages with `unfreeze`",
        )
    if progress.micro < asked:
        reporter.say(
            f"{_gib(free)} of memory are free: {counted(progress.micro)} in one forward pass "
            f"instead of {asked}; a step keeps its images"
        )


def activation_bytes(network: TrainableNetwork, side: int, compute: Compute) -> int:
    """Return the bytes that one image keeps for the backward pass, by a forward pass of two.

    The network is in training mode; its statistics are restored.
    """
    held: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = copied(dict(network.named_buffers()))
    images = torch.zeros(2, 3, side, side).contiguous(memory_format=torch.channels_last)
    with (
        torch_seeded(torch.device("cpu"), "memory"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        autocast(compute),
    ):
        logits = network(images)
    del logits
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    return sum(held.values()) // 2


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
