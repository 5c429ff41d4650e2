"""Mixup and CutMix: each image of a step is blended with another one of it, as are the targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from regraft.core.keyed_random import generator


@dataclass(frozen=True)
class Mixing:
    """How one step's images are blended.

    Attributes
    ----------
    share : float
        What each image keeps of itself; 1 where nothing is blended.
    partners : array of shape (n,), int64
        Whose rest each image takes: a permutation.
    box : tuple of int or None
        For CutMix: top, bottom, left and right of what comes from the partner; None for mixup.
    """

    share: float
    partners: np.ndarray[tuple[int], np.dtype[np.int64]]
    box: tuple[int, int, int, int] | None

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
    """Draw how a step's images are blended, from seed and step alone.

    Parameters
    ----------
    n : int
        Images in the step.
    side : int
        Of an image, in pixels.
    mixup, cutmix : float
        Parameters of the Beta distributions; 0 is off. With both, each takes every second step.
    seed, step : int
        The key.

    Returns
    -------
    Mixing

    References
    ----------
    Zhang et al., mixup, ICLR 2018. Yun et al., CutMix, ICCV 2019.

    Examples
    --------
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
    share = 1 - (bottom - top) * (right - left) / side**2  # what is left of it, borders counted
    return Mixing(share, partners, (top, bottom, left, right))
