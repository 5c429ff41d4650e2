"""Mixup and CutMix: blend each image of a step with another image of it, and their targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from regraft.core.keyed_random import generator


@dataclass(frozen=True)
class Mixing:
    """How the images of one step are blended."""

    share: float  # of each image in its blend; 1 where nothing is blended
    partners: np.ndarray[tuple[int], np.dtype[np.int64]]  # (n,) a permutation: the other images
    box: tuple[int, int, int, int] | None  # CutMix: top, bottom, left, right of the partner's part

    def images(self, images: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        """Blend images (n, 3, S, S) with their partners of the same shape."""
        if self.share == 1:
            return images
        if self.box is None:
            return torch.lerp(partners, images, self.share)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed

    def targets(self, targets: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        """Blend targets (n, K) with their partners'."""
        return targets if self.share == 1 else torch.lerp(partners, targets, self.share)


def draw_mixing(n: int, side: int, *, mixup: float, cutmix: float, seed: int, step: int) -> Mixing:
    """Draw how n images of a step are blended; it depends on seed and step alone.

    ``mixup`` and ``cutmix`` are the parameters of Beta distributions; 0 is off. With both, each
    step takes one at random. Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019.

    >>> draw_mixing(4, 32, mixup=0, cutmix=0, seed=0, step=1).share
    1.0
    """
    if not (mixup or cutmix):
        return Mixing(1.0, np.arange(n), None)
    random = generator(seed, "mixing", step)
    partners = random.permutation(n)
    if mixup and not (cutmix and random.random() < 0.5):
        return Mixing(float(random.beta(mixup, mixup)), partners, None)
    half = np.sqrt(1 - random.beta(cutmix, cutmix)) * side / 2
    middle = random.uniform(0, side, size=2)
    (top, left), (bottom, right) = (
        np.clip(np.round(middle + way * half), 0, side).astype(int).tolist() for way in (-1, 1)
    )
    # What remains of the image, after clipping at its borders.
    share = 1 - (bottom - top) * (right - left) / side**2
    return Mixing(share, partners, (top, bottom, left, right))
