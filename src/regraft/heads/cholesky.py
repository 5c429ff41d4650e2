"""The Cholesky factor of a matrix that rounding may have left indefinite."""

from __future__ import annotations

import torch
from torch import Tensor

from regraft.errors import InputError


def cholesky(matrix: Tensor, shift: float) -> Tensor:
    """Return the lower factor of a symmetric matrix (D, D) float64, which is changed in place.

    ``shift``, above 0, is added to the diagonal; if that is not enough, ten times as much, and so
    on.
    """
    if not bool(matrix.isfinite().all()):  # no shift would ever be enough
        raise InputError("features, or products of them, are not finite")
    while True:
        matrix.diagonal().add_(shift)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not int(failed):
            return factor
        shift *= 10
