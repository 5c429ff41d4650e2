"""Precision of a training's passes: what autocast gives, and depthwise gradients in float32."""

import pytest
import torch
from torch import nn

from regraft.features.compute import Compute
from regraft.finetune.precision import autocast

LOW = Compute("cpu", "bfloat16", 4)
KINDS = {
    "5x5": {"kernel_size": 5, "padding": 2},
    "stride 2": {"kernel_size": 3, "stride": 2},
    "dilated, with bias": {"kernel_size": 3, "dilation": 2, "padding": (1, 2), "bias": True},
}


def pair(**settings):
    """A pointwise and a depthwise convolution, and images."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, **{"bias": False, **settings}, groups=16), nn.ReLU()
    )
    return layers, torch.randn(4, 3, 20, 20).contiguous(memory_format=torch.channels_last)


def gradients(layers, x, context):
    layers.zero_grad()
    with context:
        out = layers(x)
    out.float().square().mean().backward()
    return out, [parameter.grad.clone() for parameter in layers.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_autocasts_to_the_bit_and_gradients_are_nearer_to_float32(kind):
    layers, x = pair(**KINDS[kind])
    mine, ours = gradients(layers, x, autocast(LOW))
    plain, theirs = gradients(layers, x, torch.autocast("cpu", torch.bfloat16))
    _, exact = gradients(layers, x, autocast(Compute("cpu", "float32", 4)))
    assert mine.dtype == torch.bfloat16
    assert torch.equal(mine, plain)
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - c).norm() <= 1.1 * (b - c).norm() + 1e-7
        torch.testing.assert_close(a, c, rtol=0.05, atol=0.02 * float(c.abs().max()))


def test_depthwise_gradients_are_computed_in_float32_and_others_in_bfloat16(monkeypatch):
    seen = []
    plain = torch.ops.aten.convolution_backward

    def watched(gradient, x, weight, *rest):
        seen.append((tuple(weight.shape), gradient.dtype, x.dtype, weight.dtype))
        return plain(gradient, x, weight, *rest)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", watched)
    layers, x = pair(**KINDS["5x5"])
    gradients(layers, x, autocast(LOW))
    assert seen == [((16, 1, 5, 5), *[torch.float32] * 3)]


def test_without_a_gradient_or_in_float32_nothing_is_changed():
    layers, x = pair(**KINDS["5x5"])
    with autocast(LOW), torch.no_grad():
        assert layers(x).grad_fn is None
    with autocast(Compute("cpu", "float32", 4)):
        assert type(layers[:2](x).grad_fn).__name__ == "ConvolutionBackward0"
    with autocast(LOW):
        assert type(layers[:2](x).grad_fn).__name__ == "_DepthwiseBackward"


def test_a_frozen_depthwise_convolution_passes_the_gradient_on():
    layers, x = pair(**KINDS["5x5"])
    layers[1].requires_grad_(requires_grad=False)
    layers.zero_grad()
    with autocast(LOW):
        layers(x).float().sum().backward()
    assert layers[1].weight.grad is None
    assert layers[0].weight.grad.abs().sum() > 0
