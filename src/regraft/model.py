"""The trained model: networks, the blocks that are read, a head and a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from regraft.backbones.backbone import Backbone
    from regraft.features.taps import Block


@dataclass(frozen=True)
class Model:
    """A trained classifier: the result of a run and the content of a bundle.

    Attributes
    ----------
    backbone : Backbone
        Network with its preprocessing; the first one, if there are several.
    blocks : tuple of Block
        The parts of the features that the head reads, side by side; D numbers in all.
    head : nn.Module
        One of ``regraft.heads.modules.HEADS``: features (N, D) float32 to logits (N, K) float32.
    temperature : float
        Positive number; logits are divided by it before the softmax.
    classes : tuple of str
        K names, sorted by code point.
    max_pixels : int
        Largest height times width of an image; a larger image is refused.
    others : tuple of Backbone
        Further networks, whose features are beside those of the first: A + B.
    """

    backbone: Backbone
    blocks: tuple[Block, ...]
    head: nn.Module
    temperature: float
    classes: tuple[str, ...]
    max_pixels: int
    others: tuple[Backbone, ...] = ()

    @property
    def networks(self) -> tuple[Backbone, ...]:
        """Return all networks, in the order that ``Block.network`` counts."""
        return (self.backbone, *self.others)

    @property
    def no_bundle(self) -> str | None:
        """Return the reason why no bundle can hold the model; None if one can."""
        return next((each.no_bundle for each in self.networks if each.no_bundle), None)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the head's logits, before the temperature.

        Parameters
        ----------
        features : array of shape (N, D), float32
            The blocks side by side, rounded as in the feature store.

        Returns
        -------
        array of shape (N, K), float32
        """
        with torch.inference_mode():
            logits: torch.Tensor = self.head(torch.from_numpy(features))
            return logits.numpy()

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities.

        Parameters
        ----------
        features : array of shape (N, D), float32
            As for ``logits``.

        Returns
        -------
        array of shape (N, K), float32
            Each row sums to 1.
        """
        return self.calibrated(self.logits(features))

    def calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities of logits.

        Parameters
        ----------
        logits : array of shape (N, K), float32
            From ``logits``.

        Returns
        -------
        array of shape (N, K), float32
            Each row sums to 1.
        """
        return (torch.from_numpy(logits) / self.temperature).softmax(1).numpy()


class Statistics:
    """Of pickles of ``Classifier`` from before there were decisions; nothing uses it any more."""
