"""A norm is folded into a convolution only if nothing else can notice."""

import importlib

import pytest
import torch
from torch import nn

from regraft.features.fold import fold_norms


class Twice(nn.Module):
    """A convolution used twice must not be folded into the norm after one of its uses."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(self.convolution(x)))


class Branch(nn.Module):
    """A convolution whose output is also used without the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        return y + self.norm(y)


class Untraceable(nn.Module):
    """Control flow that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x)) if x.sum() > 0 else x


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(5)


class Standardised(nn.Conv2d):
    """It multiplies with other weights than its parameter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return nn.functional.conv2d(x, weight, self.bias)


class Doubled(nn.Conv2d):
    """Does more than a convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Borrowed(nn.Module):
    """Uses a convolution's weights without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.conv2d(x, self.convolution.weight))


class Returned(nn.Module):
    """Returns the output of the convolution, too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        return self.norm(y)[:, :1], y


class TwoNames(nn.Module):
    """One norm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.same = self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.same(self.convolution(x))


@pytest.mark.parametrize(
    ("network", "folded"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)), 1),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, affine=False)), 1),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.BatchNorm2d(5)), 0),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False)), 0),
        (Twice(), 0),
        (Branch(), 0),
        (Untraceable(), 0),
        (nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), norm()), 1),
        (nn.Sequential(Standardised(3, 5, 1), norm()), 0),
        (nn.Sequential(Doubled(3, 5, 1), norm()), 0),
        (Borrowed(), 0),
        (Returned(), 0),
        (TwoNames(), 0),
    ],
)
def test_norms_fold_only_where_the_graph_proves_it(network, folded):
    torch.manual_seed(0)
    randomise_norms(network)
    network.eval()
    x = torch.rand(2, 3, 9, 9)
    with torch.inference_mode():
        before = network(x)
        assert len(fold_norms(network, x[:1])) == folded
        torch.testing.assert_close(network(x), before, atol=1e-5, rtol=1e-5)


def randomise_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, -1, 1)


@pytest.mark.parametrize("tap", ["0", "inner", "inner.0"])
def test_what_a_tap_reads_keeps_its_meaning(tap):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), norm())
    if tap != "0":
        network = nn.Sequential()
        network.add_module("inner", nn.Sequential(nn.Conv2d(3, 5, 3)))
        network.add_module("norm", norm())
    randomise_norms(network)
    network.eval()
    assert fold_norms(network, torch.zeros(1, 3, 9, 9), [tap]) == []
    assert len(fold_norms(network, torch.zeros(1, 3, 9, 9))) == 1


def test_timm_norms_keep_the_activation_that_they_carry():
    importlib.import_module("regraft.core.torchvision_shim")  # the shim comes before timm
    layers = importlib.import_module("timm.layers")
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4)).eval()
    x = torch.randn(1, 3, 5, 5)
    with torch.inference_mode():
        before = network(x)
        assert len(fold_norms(network, x)) == 1
        assert torch.allclose(network(x), before, atol=1e-6)
        assert bool((before >= 0).all())
