"""Several softmax regressions on the same rows at once: objective, gradient, curvature.

Notation, here and in ``lbfgs`` and ``logistic``:

    N rows    D features    K classes    P = K * D + K parameters
    F members: one fit for each fold, or the final fit alone; A of them are evaluated
    n rows in one chunk

    z      (D,)            a row of standardised features
    s      (F,)            weight of a row in each member; 0 where it is held out
    W, b   (K, D), (K,)    weights and biases of a member
    p      (K,)            softmax(W z + b)

    objective  =  sum s * -log p[y] / sum s  +  penalty / 2 * |W|^2
    gradient   =  sum s * (p - onehot(y)) z' / sum s  +  penalty * W

One pass over the rows serves all members. A product with 50 columns is bound by arithmetic; five
products with 10 columns each are bound by memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg.blas import ssyrk
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.heads.standardise import Rows


#: Rows are settled if together they lack at most this share of the probability that all rows lack.
_SETTLED = 0.01
#: The other rows are copied, if they are at most this share of all rows.
_UNSETTLED = 1 / 3


@dataclass(frozen=True)
class Tangent:
    """What the rows that are left out add to the objective, as a linear function of parameters."""

    total: Tensor  # (F,) float64, sum of the sample weights of all rows
    offset: Tensor  # (F,) float64, at parameters of zero
    slope: Tensor  # (F, P)


@dataclass(frozen=True)
class Softmax:
    """The objectives of all members on the same rows."""

    rows: Rows  # (N, D)
    labels: Tensor  # (N,) int64
    sample_weights: Tensor  # (N, F)
    n_classes: int
    tangent: Tangent | None = None  # of rows that are left out

    @property
    def n_parameters(self) -> int:
        """Number of parameters of one member: K * D weights, then K biases."""
        return self.n_classes * (self.rows.shape[1] + 1)

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights (F, K, D) and the biases (F, K) in parameters (F, P), as views."""
        n_weights = self.n_classes * self.rows.shape[1]
        shape = (len(parameters), self.n_classes, self.rows.shape[1])  # F may be 0: no -1 here
        return parameters[:, :n_weights].view(shape), parameters[:, n_weights:]

    def start(self) -> Tensor:
        """Return weights of zero and biases of the log class shares, (F, P)."""
        counts = torch.zeros(self.n_classes, self.sample_weights.shape[1], dtype=torch.float64)
        counts.index_add_(0, self.labels, self.sample_weights.double())  # (K, F)
        parameters = torch.zeros(self.sample_weights.shape[1], self.n_parameters)
        # Half a sample more in each class: a class that a member never sees must not start at -inf.
        half = 0.5 * counts.sum(0) / (self.sample_weights > 0).sum(0).clamp_min(1)
        self.split(parameters)[1].copy_(((counts + half) / (counts + half).sum(0)).log().T)
        return parameters

    def evaluate(
        self,
        parameters: Tensor,  # (A, P)
        penalty: float,
        members: Sequence[int],  # A columns of the sample weights
        missing: Tensor | None = None,  # (N,), filled in
    ) -> tuple[Tensor, Tensor]:
        """Return the objective (A,) float64 and the gradient (A, P) of some members.

        ``missing`` receives what each row lacks in the probability of its class, as a share of the
        objective's weights, in the member where that is most.
        """
        n_members, members = len(members), list(members)
        weights, biases = self.split(parameters)
        flat_weights = weights.reshape(n_members * self.n_classes, -1)  # (A * K, D)
        flat_biases = biases.reshape(-1)  # (A * K,)
        sample_weights = self.sample_weights[:, members]  # (N, A)
        total = self._total(members)  # (A,)

        loss = torch.zeros(n_members, dtype=torch.float64)
        slope_of_weights = torch.zeros_like(flat_weights)
        slope_of_biases = torch.zeros(len(flat_biases), dtype=torch.float64)
        for where, z in self.rows.chunks(len(flat_biases)):  # z (n, D)
            y, s = self.labels[where], sample_weights[where]  # (n,), (n, A)
            logits = torch.addmm(flat_biases, z, flat_weights.T)  # (n, A * K)
            losses, errors = _losses_and_errors(logits.view(len(z), n_members, -1), y, s)
            loss += (losses * s).sum(0, dtype=torch.float64)
            if missing is not None:
                at_label = errors[torch.arange(len(z)), :, y]  # (n, A), s * (p[y] - 1)
                missing[where] = -(at_label / total.clamp_min(1e-30).float()).amin(1)
            errors = errors.view(len(z), -1)  # (n, A * K)
            # errors.T @ z, not z.T @ errors: the tall matrix on the left runs 7 times slower.
            slope_of_weights.addmm_(errors.T, z)
            slope_of_biases += errors.sum(0, dtype=torch.float64)

        gradient = torch.empty_like(parameters)
        to_weights, to_biases = self.split(gradient)
        to_weights.copy_(slope_of_weights.view_as(weights) / total[:, None, None].float())
        to_weights.add_(weights, alpha=penalty)
        to_biases.copy_(slope_of_biases.view_as(biases) / total[:, None])
        squares = weights.flatten(1).square().sum(1, dtype=torch.float64)  # (A,)
        value = loss / total + penalty / 2 * squares
        if self.tangent:
            slope = self.tangent.slope[members]
            gradient += slope
            value += self.tangent.offset[members] + inner_products(slope, parameters)
        return value, gradient

    def _total(self, members: list[int]) -> Tensor:
        """Return the sum of the sample weights of all rows, also of those left out, (A,)."""
        if self.tangent:
            total = self.tangent.total[members]
        else:
            total = self.sample_weights[:, members].sum(0, dtype=torch.float64)
        return total.clamp_min(1e-300)

    def without_settled(
        self, parameters: Tensor, penalty: float, value: Tensor, gradient: Tensor, missing: Tensor
    ) -> Softmax | None:
        """Return the problem with a tangent in place of its settled rows; None if those are few.

        The last three arguments are what ``evaluate`` gives at ``parameters`` (F, P).

        A row whose class is nearly certain has almost no curvature, and its slope hardly changes:
        at the minimum, 50,000 of MNIST's 60,000 rows are within 1e-4 of certainty. At
        ``parameters``, objective and gradient stay those of all rows; elsewhere the tangent is
        below what it stands for.
        """
        most, order = missing.sort(descending=True)
        so_far = most.cumsum(0, dtype=torch.float64)
        n_kept = int(torch.searchsorted(so_far, (1 - _SETTLED) * so_far[-1])) + 1
        if n_kept > _UNSETTLED * len(missing):
            return None
        kept = order[:n_kept].sort()[0]
        total = self.sample_weights.sum(0, dtype=torch.float64)
        few = replace(
            self, rows=self.rows.copy_of(kept), labels=self.labels[kept],
            sample_weights=self.sample_weights[kept],
            tangent=Tangent(total, torch.zeros_like(value), torch.zeros_like(gradient)),
        )  # fmt: skip
        value_of_few, gradient_of_few = few.evaluate(parameters, penalty, range(len(parameters)))
        slope = gradient - gradient_of_few
        offset = value - value_of_few - inner_products(slope, parameters)
        return replace(few, tangent=Tangent(total, offset, slope))

    def curvature(self, parameters: Tensor) -> tuple[Tensor, float]:
        """Return ``sum h z z' / N`` (D, D) and the mean of h, at the first member of (F, P).

        h is the mean of p (1 - p) over the classes, so the matrix is the mean diagonal block of
        the Hessian: rows that are settled weigh nothing. Measured on flowers, this halves the
        iterations of the unweighted matrix; Boehning's bound needs three times as many.

        The matrix is of the 8,192 (or 2 D) rows of largest h if there are more. A regular subset
        of rows needed 117 iterations on MNIST's 60,000 where these need 78.
        """
        n_rows, n_features = self.rows.shape
        weights, biases = self.split(parameters[:1])
        h = torch.empty(n_rows)
        for where, z in self.rows.chunks(self.n_classes):
            p = torch.addmm(biases[0], z, weights[0].T).softmax(1)  # (n, K)
            h[where] = (1 - p.square().sum(1)) / max(self.n_classes - 1, 1)
        total = float(h.sum(dtype=torch.float64))
        most = min(n_rows, max(8192, 2 * n_features))
        # Where most rows are settled, the others have nearly all of the curvature. Equal rows (all
        # are, at weights of zero) are drawn at random: they may be sorted by class.
        mixed = torch.randperm(n_rows, generator=torch.Generator().manual_seed(0))
        chosen = mixed[h[mixed].argsort(descending=True, stable=True)[:most]].sort()[0]
        # syrk takes half the time of a product that does not know that both matrices are the same.
        half = np.zeros((n_features, n_features), np.float32, order="F")  # the lower triangle
        for numbers, z in self.rows.chunks_of(chosen):
            weighted = (z * h[numbers].sqrt()[:, None]).numpy()
            half = ssyrk(1.0, weighted.T, beta=1.0, c=half, lower=1, overwrite_c=1)
        covered = float(h[chosen].sum(dtype=torch.float64))
        gram = torch.from_numpy(np.asarray(half)).mul_(total / max(covered, 1e-300) / n_rows)
        return gram + gram.tril(-1).T, total / n_rows

    def logits(self, parameters: Tensor, member_of: Tensor) -> Tensor:
        """Return the logits (N, K) of each row by one member of (F, P).

        ``member_of`` (N,) int64 is the member; a row with -1 has logits of zero.
        """
        weights, biases = self.split(parameters)
        result = torch.zeros(self.rows.shape[0], self.n_classes)
        for where, z in self.rows.chunks():
            for member in range(len(parameters)):
                mine = member_of[where] == member
                if bool(mine.any()):
                    result[where][mine] = torch.addmm(biases[member], z[mine], weights[member].T)
        return result


def inner_products(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product of each row of two matrices (F, P), as (F,) float64."""
    return (one.double() * other.double()).sum(1)


def _losses_and_errors(logits: Tensor, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log p[y] (n, A) and s * (p - onehot(y)) (n, A, K), in the memory of the logits."""
    index = y[:, None, None].expand(-1, logits.shape[1], 1)  # (n, A, 1)
    logits -= logits.amax(2, keepdim=True)  # so that exp cannot overflow
    at_label = logits.gather(2, index)  # (n, A, 1)
    p = logits.exp_()  # not divided by its sum yet
    norm = p.sum(2, keepdim=True)
    losses = (norm.log() - at_label).squeeze(2)
    p *= s[:, :, None] / norm
    p.scatter_add_(2, index, -s[:, :, None])
    return losses, p
