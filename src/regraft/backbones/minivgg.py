"""The small network of many tutorials, to train from scratch: it has no published weights.

Three 3x3 convolutions of 16, 32 and 64 channels, each with ReLU and max pooling, then adaptive
pooling to 7x7: 3,136 features for the linear layer. ``minivgg`` uses colours, ``minivgg/gray`` the
mean of the three channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from regraft.backbones.backbone import ImageSizes
from regraft.backbones.family import Family, Record
from regraft.errors import BackboneError, WeightsError
from regraft.images.render import Preprocess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regraft.backbones.backbone import Scalar

#: By name: the number of input channels of the first convolution.
_CHANNELS = {"minivgg": 3, "gray": 1}


class MiniVGG(nn.Module):
    """The network without its linear layer; with one channel it averages the three it is given.

    Examples
    --------
    >>> MiniVGG(channels=1)(torch.zeros(2, 3, 28, 28)).shape
    torch.Size([2, 3136])
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.block1, self.block2, self.block3 = (
            nn.Sequential(nn.Conv2d(wide, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            for wide, out in ((channels, 16), (16, 32), (32, 64))
        )
        self.pool = nn.AdaptiveAvgPool2d(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, S, S) to features (N, 3136)."""
        if self.channels == 1:
            x = x.mean(1, keepdim=True)
        features: torch.Tensor = self.pool(self.block3(self.block2(self.block1(x))))
        return features.flatten(1)


def _record(name: str, weights: str) -> Record:
    if weights not in {"default", "none"}:
        raise WeightsError(
            f"{name} has no weights named {weights}", hint="use none or a local file"
        )
    return Record(
        name=name,
        weights="none",
        preprocess=Preprocess(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear"),
        licence=None,
        sizes=ImageSizes(minimum=8),
    )


def _build(name: str, arguments: Mapping[str, Scalar], _image_size: int | None) -> nn.Module:
    if arguments:
        raise BackboneError(f"minivgg takes no arguments: {', '.join(arguments)}")
    return MiniVGG(_CHANNELS[name])


FAMILY = Family(names=lambda: list(_CHANNELS), record=_record, build=_build)
