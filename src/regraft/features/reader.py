"""The reader of a model: images to the features that its head reads, by one network or several."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from regraft.features.taps import POOLED, Block, TapReader, side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.features.compute import Compute


class FeatureReader:
    """Copies of the networks of a model that are ready to run, each on its own rendering.

    Threads may share a reader; they take turns.
    """

    def __init__(
        self, networks: Sequence[Backbone], blocks: Sequence[Block], compute: Compute
    ) -> None:
        self.compute = compute
        self._blocks = tuple(blocks)
        self._taps = [
            TapReader(network, [b.alone for b in blocks if b.network == k], compute)
            for k, network in enumerate(networks)
        ]

    def __call__(
        self, images: Sequence[torch.Tensor]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the blocks side by side (N, D), and the pooled features of the first network.

        Both are rounded as in the store. ``images`` has the same N images for each network,
        rendered for it: (N, 3, S, S) uint8, or (N, V, 3, S, S) with V views.
        """
        pooled = Block(POOLED)
        found: dict[Block, NDArray[np.float32]] = {}
        for k, (tap_reader, rendered) in enumerate(zip(self._taps, images, strict=True)):
            rows = tap_reader(rendered, () if k else (pooled,))
            found |= {dataclasses.replace(block, network=k): each for block, each in rows.items()}
        return side_by_side([found[block] for block in self._blocks]), side_by_side([found[pooled]])
