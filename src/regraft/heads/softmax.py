"""Several softmax regressions on the same rows at once: loss, gradient, curvature.

The members (one for each fold, or the final fit alone) read the same rows with other weights of
samples, so that one pass serves them all: a product with 50 columns is bound by arithmetic, five
products with 10 columns each by memory. Parameters are one flat row a member: ``K * D`` weights,
then K biases.
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


#: What rows may lack together, of all that the rows lack, to count as settled ...
_SETTLED = 0.01
#: ... and how many of the rows the others may be, which are copied.
_UNSETTLED = 1 / 3


@dataclass(frozen=True)
class Tangent:
    """What rows that are left out add to each member's objective, to first order.

    Attributes
    ----------
    total : tensor of shape (F,), float64
        Sum of the sample weights of all rows.
    offset : tensor of shape (F,), float64
        At parameters of zero.
    slope : tensor of shape (F, P), float32
        Per unit of each parameter.
    """

    total: Tensor
    offset: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Softmax:
    """Mean weighted cross-entropy plus ``penalty / 2 * |W|^2``; biases are not penalised.

    Attributes
    ----------
    rows : Rows
        N rows of D features.
    labels : tensor of shape (N,), int64
        Classes, 0 to K - 1.
    sample_weights : tensor of shape (N, F), float32
        What each sample weighs in each member; 0 where it is held out.
    n_classes : int
        K.
    tangent : Tangent, optional
        Of rows that are not among these.
    """

    rows: Rows
    labels: Tensor
    sample_weights: Tensor
    n_classes: int
    tangent: Tangent | None = None

    @property
    def n_parameters(self) -> int:
        """Length of one member's parameters."""
        return self.n_classes * (self.rows.shape[1] + 1)

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (F, K, D) and biases (F, K), as views."""
        n_weights = self.n_classes * self.rows.shape[1]
        shape = (len(parameters), self.n_classes, self.rows.shape[1])  # of no member, too
        weights = parameters[:, :n_weights].view(shape)
        return weights, parameters[:, n_weights:]

    def start(self) -> Tensor:
        """Return weights of zero and biases of the log class shares, (F, P)."""
        counts = torch.zeros(self.n_classes, self.sample_weights.shape[1], dtype=torch.float64)
        counts.index_add_(0, self.labels, self.sample_weights.double())
        parameters = torch.zeros(self.sample_weights.shape[1], self.n_parameters)
        # Half a sample more a class: one that a member never sees must not start at -inf.
        half = 0.5 * counts.sum(0) / (self.sample_weights > 0).sum(0).clamp_min(1)
        self.split(parameters)[1].copy_(((counts + half) / (counts + half).sum(0)).log().T)
        return parameters

    def unsettled(
        self, parameters: Tensor, penalty: float, value: Tensor, gradient: Tensor, missing: Tensor
    ) -> Softmax | None:
        """Return the problem with its settled rows in the form of their tangent.

        A row whose class is all but certain has next to no curvature, and a slope that hardly
        changes: at the minimum, 50,000 of MNIST's 60,000 are within 1e-4 of certainty. The tangent
        touches what it stands for at ``parameters``, where objective and gradient stay those of
        all rows, and lies below it elsewhere.

        Parameters
        ----------
        parameters : tensor of shape (F, P), float32
            Of all members; where the tangent touches.
        penalty : float
            At least 0.
        value, gradient, missing : tensor
            As ``evaluate`` gives them there.

        Returns
        -------
        Softmax or None
            None where too many rows are unsettled.
        """
        most, order = missing.sort(descending=True)
        so_far = most.cumsum(0, dtype=torch.float64)
        n_kept = int(torch.searchsorted(so_far, (1 - _SETTLED) * so_far[-1])) + 1
        if n_kept > _UNSETTLED * len(missing):
            return None
        kept = order[:n_kept].sort()[0]
        total = self.sample_weights.sum(0, dtype=torch.float64)
        few = replace(
            self, rows=self.rows.only(kept), labels=self.labels[kept],
            sample_weights=self.sample_weights[kept],
            tangent=Tangent(total, torch.zeros_like(value), torch.zeros_like(gradient)),
        )  # fmt: skip
        value_of_few, gradient_of_few = few.evaluate(parameters, penalty, range(len(parameters)))
        slope = gradient - gradient_of_few
        offset = value - value_of_few - _products(slope, parameters)
        return replace(few, tangent=Tangent(total, offset, slope))

    def evaluate(
        self,
        parameters: Tensor,
        penalty: float,
        members: Sequence[int],
        missing: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return each member's objective and gradient.

        Parameters
        ----------
        parameters : tensor of shape (A, P), float32
            Of the members asked for.
        penalty : float
            At least 0.
        members : sequence of int
            A numbers: which columns of the sample weights.
        missing : tensor of shape (N,), float32, optional
            Is given what each row lacks in the probability of its class, times its share of the
            weights, in the member where that is most.

        Returns
        -------
        tuple of tensor of shape (A,), float64, and tensor of shape (A, P), float32
        """
        weights, biases = self.split(parameters)
        n, k = len(members), self.n_classes
        flat, offsets = weights.reshape(n * k, -1), biases.reshape(-1)
        gradient = torch.zeros_like(flat)
        of_biases = torch.zeros(n * k, dtype=torch.float64)
        loss = torch.zeros(n, dtype=torch.float64)
        sample_weights = self.sample_weights[:, list(members)]
        tangent = self.tangent
        total = sample_weights.sum(0, dtype=torch.float64)
        total = (tangent.total[list(members)] if tangent else total).clamp_min(1e-300)
        for where, z in self.rows.chunks(n * k):
            labels, share = self.labels[where], sample_weights[where]
            index = labels[:, None, None].expand(-1, n, 1)
            logits = torch.addmm(offsets, z, flat.T).view(len(z), n, k)
            logits -= logits.amax(2, keepdim=True)
            right = logits.gather(2, index)
            p = logits.exp_()
            norm = p.sum(2, keepdim=True)
            loss += ((norm.log() - right).squeeze(2) * share).sum(0, dtype=torch.float64)
            p *= share[:, :, None] / norm
            p.scatter_add_(2, index, -share[:, :, None])
            if missing is not None:
                lacks = p.gather(2, index).squeeze(2) / total.clamp_min(1e-30).float()
                missing[where] = -lacks.amin(1)
            errors = p.view(len(z), n * k)
            # errors.T @ z, not z.T @ errors: the tall matrix on the left runs 7 times slower.
            gradient.addmm_(errors.T, z)
            of_biases += errors.sum(0, dtype=torch.float64)
        result = torch.empty_like(parameters)
        into_weights, into_biases = self.split(result)
        into_weights.copy_(gradient.view_as(weights) / total[:, None, None].float())
        into_weights.add_(weights, alpha=penalty)
        into_biases.copy_(of_biases.view(n, k) / total[:, None])
        value = loss / total + penalty / 2 * weights.flatten(1).square().sum(1, dtype=torch.float64)
        if tangent:
            slope = tangent.slope[list(members)]
            result += slope
            value += tangent.offset[list(members)] + _products(slope, parameters)
        return value, result

    def curvature(self, parameters: Tensor) -> tuple[Tensor, float]:
        """Return the Gram matrix weighted by each sample's curvature, for a preconditioner.

        The Hessian's mean diagonal block is ``sum_i h_i z_i z_i'`` with h_i the mean of p (1 - p)
        over classes: samples that are settled weigh nothing. Measured on flowers, this halves the
        iterations of the unweighted Gram matrix; Boehning's bound needs three times as many.

        Parameters
        ----------
        parameters : tensor of shape (F, P), float32
            Where. The first member speaks for all.

        Returns
        -------
        tuple of tensor of shape (D, D), float32, and float
            The matrix and the mean of h_i; the matrix from the 8,192 (or 2 D) rows of largest h_i
            where there are more. A regular subset of rows needed 117 iterations on MNIST's 60,000
            where these need 78.
        """
        n_rows, n_features = self.rows.shape
        weights, biases = self.split(parameters[:1])
        h = torch.empty(n_rows)
        for where, z in self.rows.chunks(self.n_classes):
            p = torch.addmm(biases[0], z, weights[0].T).softmax(1)
            h[where] = (1 - p.square().sum(1)) / max(self.n_classes - 1, 1)
        total = float(h.sum(dtype=torch.float64))
        most = min(n_rows, max(8192, 2 * n_features))
        # Where most samples are settled, those that are not hold nearly all of the curvature.
        # Of equals (all are, at weights of zero) any: rows may be sorted by class.
        mixed = torch.randperm(n_rows, generator=torch.Generator().manual_seed(0))
        chosen = mixed[h[mixed].argsort(descending=True, stable=True)[:most]].sort()[0]
        # BLAS's own product of a matrix with itself takes half the time of one that does not know.
        half = np.zeros((n_features, n_features), np.float32, order="F")
        for some, z in self.rows.some(chosen):
            weighted = (z * h[some].sqrt()[:, None]).numpy()
            half = ssyrk(1.0, weighted.T, beta=1.0, c=half, lower=1, overwrite_c=1)
        seen = float(h[chosen].sum(dtype=torch.float64))
        gram = torch.from_numpy(np.asarray(half)).mul_(total / max(seen, 1e-300) / n_rows)
        return gram + gram.tril(-1).T, total / n_rows

    def logits(self, parameters: Tensor, member_of: Tensor) -> Tensor:
        """Return each row's logits by one member.

        Parameters
        ----------
        parameters : tensor of shape (F, P), float32
            Of all members.
        member_of : tensor of shape (N,), int64
            Which member speaks for a row; -1 for none.

        Returns
        -------
        tensor of shape (N, K), float32
            Zero where no member speaks.
        """
        weights, biases = self.split(parameters)
        result = torch.zeros(self.rows.shape[0], self.n_classes)
        for where, z in self.rows.chunks():
            for member in range(len(parameters)):
                mine = member_of[where] == member
                if bool(mine.any()):
                    result[where][mine] = torch.addmm(biases[member], z[mine], weights[member].T)
        return result


def _products(one: Tensor, other: Tensor) -> Tensor:
    """Return each row's inner product (F,), float64."""
    return (one.double() * other.double()).sum(1)
