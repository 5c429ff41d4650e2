"""The precision of forward and backward pass in a training, and its input images.

On a processor, under bfloat16 autocast, the backward pass of depthwise convolutions runs in
float32. oneDNN 3.12 has no special bfloat16 kernel for 5x5 kernels or for stride 2, and its general
one takes up to ten times as long: 1.0 s of the 2.0 s that a step of EfficientNet-Lite0 took (32
images, 224 pixels, two cores with AVX512-BF16); in float32 it takes 0.3 s. The forward pass is the
same, bit for bit.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from regraft.images.render import normalise_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from regraft.features.compute import Compute
    from regraft.images.render import Preprocess


def on_device(images: Tensor, preprocess: Preprocess, compute: Compute) -> Tensor:
    """Move images (n, 3, S, S), uint8, to the device and normalise them for the forward pass."""
    images = images.contiguous(memory_format=torch.channels_last)
    return normalise_pixels(images.to(compute.device), preprocess)


@contextmanager
def autocast(compute: Compute) -> Iterator[None]:
    """Run a forward pass in the precision of the training; the backward pass follows from it."""
    kind, low = torch.device(compute.device).type, compute.precision == "bfloat16"
    with torch.autocast(kind, torch.bfloat16, enabled=low):
        if not low or kind != "cpu":
            yield
            return
        with _DepthwiseInFloat32():
            yield


class _DepthwiseInFloat32(TorchFunctionMode):
    """Give depthwise convolutions on a processor a backward pass of their own."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and len(args) == 7 and not kwargs:
            x, weight, bias, stride, padding, dilation, groups = args
            depthwise = 1 < groups == weight.shape[0] == weight.shape[0] * weight.shape[1]
            tuples = all(isinstance(each, tuple) for each in (stride, padding, dilation))
            if depthwise and tuples and x.device.type == "cpu" and torch.is_grad_enabled():
                return _Depthwise.apply(  # type: ignore[no-untyped-call] # torch has no types of it
                    x, weight, bias, (stride, padding, dilation)
                )
        return func(*args, **(kwargs or {}))


class _Depthwise(torch.autograd.Function):
    """A convolution with the forward pass of autocast, and a backward pass in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    ) -> Tensor:
        ctx.settings = settings  # stride, padding, dilation
        ctx.has_bias = bias is not None
        low = x.to(torch.bfloat16)
        ctx.save_for_backward(low, weight)
        bias = None if bias is None else bias.to(torch.bfloat16)
        weight = weight.to(torch.bfloat16)
        return torch.conv2d(low, weight, bias, *settings, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.settings
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradients[0].float(), x.float(), weight.float(), [len(weight)] * ctx.has_bias or None,
            stride, padding, dilation, False, [0, 0], len(weight),  # noqa: FBT003 - not transposed
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]],
        )  # fmt: skip
        return of_x, of_weight, of_bias, None
