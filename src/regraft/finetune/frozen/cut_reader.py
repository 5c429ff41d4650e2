"""A tap reader that is cut like the network: validation runs frozen stages once an image, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from regraft.features.taps import POOLED, Block, TapReader, side_by_side
from regraft.finetune.frozen.cut_network import Activations
from regraft.images.render import normalise_pixels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from regraft.features.compute import Compute
    from regraft.finetune.network import TrainableNetwork
    from regraft.model import Model


class CutReader(TapReader):
    """A ``TapReader`` whose network is cut where that of the training is.

    All models of one training have the same front.
    """

    def __init__(self, model: Model, compute: Compute, network: TrainableNetwork) -> None:
        super().__init__(model.backbone, model.blocks, compute)
        self._cut = network.cut_of(self._module)
        self._early = network.early

    def front(self, images: torch.Tensor) -> Activations:
        """Run images (N, 3, S, S), uint8, up to the cut."""
        with self._turn, torch.inference_mode():
            x = normalise_pixels(
                images.to(self.compute.device), self.backbone.preprocess, self.compute.dtype
            )
            self._read.clear()
            kept = self._cut.front(x.contiguous(memory_format=torch.channels_last))
            return Activations((kept, *(self._read[block] for block in self._early)))

    def features(self, images: Activations) -> NDArray[np.float32]:
        """Return the features (N, D) that ``read_features`` returns for the whole images."""
        kept, *early = images.to(self.compute.device).tensors
        with self._turn, torch.inference_mode():
            self._read.clear()
            self._read[Block(POOLED)] = self._cut.back(kept).float()
            self._read.update(zip(self._early, early, strict=True))
            rows = [self._read[block].cpu().numpy() for block in self.blocks]
        return side_by_side(rows)
