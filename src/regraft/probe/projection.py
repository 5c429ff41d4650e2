"""Project features: blocks on one scale become at most as many coordinates as landmarks.

A linear head with an L2 penalty on N images has weights in the span of its N rows (the representer
theorem), so with fewer images than features N coordinates are enough. With more images, the rows of
two thousand of them span nearly all directions in which the penalty permits a weight. On CIFAR-10
with 20,000 images and 14,832 features, the log-loss is 0.457 with 1,000 coordinates, 0.447 with
2,000 and 0.439 with 4,000 (docs/design/heads.md). So every fit has at most two thousand
coordinates, for any network and any number of stages, and its memory does not grow with the
features.

The final head reads the blocks themselves: its weights are computed exactly from those on
coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from regraft.heads.cholesky import cholesky
from regraft.heads.modules import LinearHead
from regraft.heads.standardise import Standard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """A map from features to coordinates: standardise, weigh each block, project."""

    standard: Standard  # (D,), with the weight of each block in its scale
    vectors: Tensor | None  # (D, r), orthonormal columns; None if D is at most the landmarks

    @property
    def width(self) -> int:
        """Return the number of coordinates, r."""
        return len(self.standard.mean) if self.vectors is None else self.vectors.shape[1]

    def apply(self, x: Tensor) -> Tensor:
        """Return the coordinates (n, r) of features (n, D) float32, which are overwritten."""
        x.sub_(self.standard.mean).mul_(self.standard.scale)
        return x if self.vectors is None else x @ self.vectors

    def to_features(self, head: LinearHead) -> LinearHead:
        """Return the head on features that gives the logits of a head on coordinates.

        The head on coordinates must not standardise them.
        """
        weight = head.weight  # (K, r)
        if self.vectors is not None:
            weight = (weight.double() @ self.vectors.T.double()).float()  # (K, D)
        return LinearHead(
            self.standard.mean, self.standard.scale, weight.contiguous(), head.bias.clone()
        )


def span_of(
    landmarks: Tensor,  # (M, D), blocks side by side
    standard: Standard,  # of these features, block by block
    widths: Sequence[int],  # of the blocks
    shares: Sequence[float],  # of each block in the mean squared length of a row, above 0
) -> Basis:
    """Return the basis of the span of the landmarks' rows.

    Rows of coordinates have a mean squared length of 1, so that the penalties of several sets can
    be compared.

    Examples
    --------
    >>> x = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    >>> basis = span_of(x, Standard.measure(x, [30, 20]), [30, 20], [0.5, 0.5])
    >>> basis.width, tuple(basis.apply(x.clone()).shape)
    (20, (20, 20))
    """
    z = (landmarks - standard.mean) * standard.scale
    factors = []
    for block, share in zip(torch.split(z, list(widths), dim=1), shares, strict=True):
        length = float(block.square().sum(1, dtype=torch.float64).mean())
        factors += [(share / length) ** 0.5 if length else 0.0] * block.shape[1]
    factor = torch.tensor(factors)  # (D,)
    weighted = Standard(standard.mean, standard.scale * factor)
    if z.shape[1] <= len(z):
        return Basis(weighted, None)
    z *= factor
    # The Cholesky factor of the kernel gives an orthonormal basis of the span of the rows at a
    # thirtieth of the cost of eigenvectors. Copies among the landmarks, and the rounding of
    # float32, make a small shift necessary.
    kernel = (z @ z.T).double()  # (M, M)
    shift = 1e-5 * float(kernel.diagonal().mean()) + 1e-30
    lower = cholesky(kernel, shift)
    vectors = torch.linalg.solve_triangular(lower, z.double(), upper=False)  # (M, D)
    return Basis(weighted, vectors.T.float().contiguous())
