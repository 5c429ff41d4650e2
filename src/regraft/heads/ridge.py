"""Ridge regression on one-hot classes: closed form, exact leave-one-out, float64.

Least squares has two advantages over logistic regression: one eigendecomposition gives the fits of
all penalties, and the exact prediction of each row by a fit that had not seen it. Its probabilities
come from one temperature on those predictions. It is a fast second opinion; the log-loss of
logistic regression is mostly lower.

Golub, Heath and Wahba, Generalized cross-validation as a method for choosing a good ridge
parameter, 1979. Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd edition,
exercise 7.3, has the formula for a held-out row; here it is for a group of rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.heads.fitted import FittedHead, OutOfFoldScores, finish_fit
from regraft.heads.modules import LinearHead
from regraft.heads.standardise import Rows, Standard
from regraft.heads.temperature import fit_temperature, log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: Penalties that are tried, as multiples of the largest eigenvalue of the second moments.
_PATH = 10.0 ** np.arange(1.0, -7.01, -0.5)
#: Predictions are mostly between 0 and 1; logits are several times as far apart.
_TEMPERATURES = (1e-3, 10.0)


def fit_ridge(  # noqa: PLR0913 - arrays and choices of one fit, each by its name
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    folds: NDArray[np.int64],
    n_classes: int,
    weights: NDArray[np.float64],
    standard: Standard,
    scored: NDArray[np.bool_] | None = None,  # (N,), rows that may be scored; all by default
) -> FittedHead:
    """Fit on all rows with the penalty of least held-out log-loss; see ``Fitter``.

    A fold for each row is leave-one-out. The problem is held as a float64 copy of the rows, (N, D).
    """
    began = time.perf_counter()
    problem = _Problem.of(Rows(torch.from_numpy(x), standard), y, folds, n_classes, weights)
    scored = folds >= 0 if scored is None else scored & (folds >= 0)
    choice, history = _choose(problem, y, scored, weights, began)
    weight = (problem.vectors @ problem.weights(choice.penalty)).T / choice.scale  # (K, D)
    bias = problem.class_shares / choice.scale - weight @ problem.mean  # (K,)
    head = LinearHead(standard.mean, standard.scale, weight.float().contiguous(), bias.float())
    record = {"head": "ridge", "penalty": choice.penalty, "scale": choice.scale}
    oof_logits = (choice.held_out / choice.scale).astype(np.float32)
    return finish_fit(FittedHead(head, 1.0, oof_logits, scored, history, record), y, weights)


@dataclass
class _Choice:
    """The best penalty so far."""

    penalty: float
    scale: float  # predictions are divided by it
    held_out: NDArray[np.float64]  # (N, K), predictions of rows that were not seen


def _choose(
    problem: _Problem,
    y: NDArray[np.int64],
    scored: NDArray[np.bool_],
    weights: NDArray[np.float64],
    began: float,
) -> tuple[_Choice, list[dict[str, Any]]]:
    """Return the penalty of least held-out log-loss, and one row for each that was tried."""
    largest = float(problem.values[-1])
    nothing = np.zeros((len(y), problem.targets.shape[1]))
    choice = _Choice(largest / len(y) or 1.0, 0.1, nothing)  # if nothing can be scored
    history: list[dict[str, Any]] = []
    least = np.inf
    for penalty in (_PATH * largest).tolist() if scored.any() and largest > 0 else []:
        held_out = problem.held_out(penalty).numpy()
        scale = fit_temperature(held_out[scored], y[scored], weights[scored], bounds=_TEMPERATURES)
        logits = (held_out / scale)[scored]
        right = logits.argmax(1) == y[scored]
        scores = OutOfFoldScores.of(log_losses(logits, y[scored]), right, weights[scored])
        seconds = round(time.perf_counter() - began, 3)
        history.append({"penalty": penalty, **scores.columns(), "seconds": seconds})
        began = time.perf_counter()
        if scores.criterion < least:
            least, choice = scores.criterion, _Choice(penalty, scale, held_out)
        elif scores.criterion > 1.5 * least:
            break  # weaker penalties only overfit further
    return choice, [row | {"chosen": row["penalty"] == choice.penalty} for row in history]


@dataclass(frozen=True)
class _Problem:
    """Weighted ridge regression in the basis of the eigenvectors of the second moments."""

    rotated: Tensor  # (N, D), rows less their mean, decorrelated
    values: Tensor  # (D,), eigenvalues, ascending
    vectors: Tensor  # (D, D), eigenvectors in columns
    mean: Tensor  # (D,), of the rows
    targets: Tensor  # (N, K), one-hot classes less their shares
    class_shares: Tensor  # (K,)
    share: Tensor  # (N,), of each row in the fit; the sum is 1
    groups: tuple[Tensor, ...]  # rows that are held out together, two and more

    @classmethod
    def of(
        cls,
        rows: Rows,
        y: NDArray[np.int64],
        folds: NDArray[np.int64],
        n_classes: int,
        weights: NDArray[np.float64],
    ) -> _Problem:
        """Decompose the second moments of the rows."""
        n_rows, n_features = rows.shape
        share = torch.from_numpy(weights / float(weights.sum()))
        mean = torch.zeros(n_features, dtype=torch.float64)
        for where, z in rows.chunks():
            mean += share[where] @ z.double()
        moments = torch.zeros(n_features, n_features, dtype=torch.float64)
        for where, z in rows.chunks():
            centred = z.double() - mean
            moments.addmm_(centred.T * share[where], centred)
        values, vectors = torch.linalg.eigh(moments)
        targets = torch.zeros(n_rows, n_classes, dtype=torch.float64)
        targets[torch.arange(n_rows), torch.from_numpy(y)] = 1
        class_shares = share @ targets
        targets -= class_shares
        rotated = torch.empty(n_rows, n_features, dtype=torch.float64)
        for where, z in rows.chunks():
            rotated[where] = (z.double() - mean) @ vectors
        values, groups = values.clamp_min(0), _groups(folds)
        return cls(rotated, values, vectors, mean, targets, class_shares, share, groups)

    def weights(self, penalty: float) -> Tensor:
        """Return the weights of the rotated features, (D, K)."""
        moments = self.rotated.T @ (self.targets * self.share[:, None])
        return moments / (self.values + penalty)[:, None]

    def held_out(self, penalty: float) -> Tensor:
        """Return each row's prediction by the fit without its group, (N, K)."""
        residuals = self.targets - self.rotated @ self.weights(penalty)
        scaled = self.rotated / (self.values + penalty)
        # The intercept costs each row its share of the leverage: hence the 1.
        leverage = self.share * (1 + (scaled * self.rotated).sum(1))  # (N,)
        residuals_out = residuals / (1 - leverage).clamp_min(1e-12)[:, None]
        for group in self.groups:  # (m,)
            hat = (1 + scaled[group] @ self.rotated[group].T) * self.share[group]  # (m, m)
            residuals_out[group] = torch.linalg.solve(torch.eye(len(group)) - hat, residuals[group])
        return self.class_shares + self.targets - residuals_out


def _groups(folds: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """Return the rows of each fold that has two or more."""
    order = np.argsort(folds)
    parts = np.split(order, np.flatnonzero(np.diff(folds[order])) + 1)
    return tuple(torch.from_numpy(part) for part in parts if len(part) > 1 and folds[part[0]] >= 0)
