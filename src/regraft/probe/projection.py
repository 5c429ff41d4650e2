"""What a head sees: blocks on one scale, and never more coordinates than landmarks.

A linear head with an L2 penalty on N images has weights in the span of its N rows (the representer
theorem), so fewer images than features need only N coordinates. With more images the rows of two
thousand of them span nearly all that the penalty leaves alive: CIFAR-10's 20,000 images and 14,832
features, log-loss 0.457 with 1,000 coordinates, 0.447 with 2,000, 0.439 with 4,000
(docs/design/heads.md). So every fit is one of at most two thousand coordinates, whatever the
network and however many stages are read; what is held in memory does not grow with the features.

The head that comes out reads the blocks themselves: weights are carried back, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from regraft.errors import InputError
from regraft.heads.modules import LinearHead
from regraft.heads.standardise import Standard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """Standardise, weigh each block, and project on the span of the landmarks' rows.

    Attributes
    ----------
    standard : Standard
        Of the blocks side by side, (D,), with each block's weight in its scale.
    basis : tensor of shape (D, r), float32, or None
        Orthonormal columns; None where there are no more features than landmarks.
    """

    standard: Standard
    basis: Tensor | None

    @property
    def width(self) -> int:
        """Number of coordinates."""
        return len(self.standard.mean) if self.basis is None else self.basis.shape[1]

    def apply(self, x: Tensor) -> Tensor:
        """Map features (n, D) float32 to coordinates (n, r) float32; ``x`` is overwritten."""
        x.sub_(self.standard.mean).mul_(self.standard.scale)
        return x if self.basis is None else x @ self.basis

    def to_features(self, head: LinearHead) -> LinearHead:
        """Return the head on features that gives what a head on coordinates gives.

        Parameters
        ----------
        head : LinearHead
            Fitted on coordinates as they are.

        Returns
        -------
        LinearHead
        """
        weight = head.weight
        if self.basis is not None:
            weight = (weight.double() @ self.basis.T.double()).float()
        return LinearHead(
            self.standard.mean, self.standard.scale, weight.contiguous(), head.bias.clone()
        )


def span_of(
    landmarks: Tensor, standard: Standard, widths: Sequence[int], shares: Sequence[float]
) -> Basis:
    """Make the representation that the landmarks' rows span.

    Parameters
    ----------
    landmarks : tensor of shape (M, D), float32
        Features of the landmarks, blocks side by side.
    standard : Standard
        Of these features, block by block.
    widths : sequence of int
        Of the blocks.
    shares : sequence of float
        What each block contributes to the mean squared length of a row, above 0.

    Returns
    -------
    Basis
        Rows have a mean squared length of 1, so that penalties of several sets compare.

    Raises
    ------
    InputError
        Where features, or products of them, are not finite.

    Examples
    --------
    >>> x = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    >>> standard = Standard.measure(x, [30, 20])
    >>> seen = span_of(x, standard, [30, 20], [0.5, 0.5])
    >>> seen.width, tuple(seen.apply(x.clone()).shape)
    (20, (20, 20))
    """
    z = (landmarks - standard.mean) * standard.scale
    factors = []
    for block, share in zip(torch.split(z, list(widths), dim=1), shares, strict=True):
        length = float(block.square().sum(1, dtype=torch.float64).mean())
        factors += [(share / length) ** 0.5 if length else 0.0] * block.shape[1]
    factor = torch.tensor(factors)
    weighted = Standard(standard.mean, standard.scale * factor)
    if z.shape[1] <= len(z):
        return Basis(weighted, None)
    z *= factor
    # Cholesky's factor of the kernel makes rows orthonormal: a basis of their span at a thirtieth
    # of the price of its eigenvectors. Copies among the landmarks, and what float32 has rounded,
    # need a small shift.
    kernel = (z @ z.T).double()
    if not bool(kernel.isfinite().all()):  # no shift would ever be enough
        raise InputError("features, or products of them, are not finite")
    shift = 1e-5 * float(kernel.diagonal().mean()) + 1e-30
    failed = torch.tensor(1)
    while int(failed):
        kernel.diagonal().add_(shift)
        factor_of_kernel, failed = torch.linalg.cholesky_ex(kernel)
        shift *= 10
    basis = torch.linalg.solve_triangular(factor_of_kernel, z.double(), upper=False)
    return Basis(weighted, basis.T.float().contiguous())
