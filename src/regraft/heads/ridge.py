"""Ridge regression on one-hot classes: closed form, exact leave-one-out, float64.

Least squares has what logistic regression has not: one eigendecomposition gives the fits of all
penalties, and the prediction of each row by a fit that had not seen it, exactly. Its probabilities
come from one temperature on those predictions. A fast second opinion; the log-loss of logistic
regression is mostly lower.

References
----------
Golub, Heath and Wahba, Generalized cross-validation as a method for choosing a good ridge
parameter, 1979; the formula for a held-out group is in Hastie, Tibshirani and Friedman, The
Elements of Statistical Learning, 2nd edition, exercise 7.3, with a block in place of a row.
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

#: Penalties that are tried, in largest eigenvalues of the second moments.
_PATH = 10.0 ** np.arange(1.0, -7.01, -0.5)
#: Predictions lie between 0 and 1, mostly: logits are several times as far apart.
_TEMPERATURES = (1e-3, 10.0)


def fit_ridge(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    folds: NDArray[np.int64],
    n_classes: int,
    weights: NDArray[np.float64],
    standard: Standard,
    scored: NDArray[np.bool_] | None = None,
) -> FittedHead:
    """Fit on all rows with the penalty of least held-out log-loss.

    Parameters
    ----------
    x : array of shape (N, D), float32
        Features; what is held besides is a float64 copy of them in at most D coordinates.
    y : array of shape (N,), int64
        Classes, 0 to K - 1.
    folds : array of shape (N,), int64
        Rows of one number are held out together; a number for each row is leave-one-out. -1 is in
        every fit and scored by none.
    n_classes : int
        K.
    weights : array of shape (N,), float64
        What a sample counts in fits and scores.
    standard : Standard
        How features are standardised.
    scored : array of shape (N,), bool, optional
        Rows that may be scored; all where not given.

    Returns
    -------
    FittedHead
    """
    began = time.perf_counter()
    problem, mean, vectors, middle = _decompose(x, y, folds, n_classes, weights, standard)
    values = problem.values
    scored = folds >= 0 if scored is None else scored & (folds >= 0)
    history: list[dict[str, Any]] = []
    least, penalty, oof = np.inf, float(values[-1]) / len(y) or 1.0, np.zeros((len(y), n_classes))
    for tried in (_PATH * float(values[-1])).tolist() if scored.any() and values[-1] > 0 else []:
        held_out = problem.held_out(tried).numpy()
        temperature = fit_temperature(
            held_out[scored].astype(np.float32), y[scored], weights[scored], bounds=_TEMPERATURES
        )
        logits = held_out / temperature
        losses = log_losses(logits[scored], y[scored])
        scores = OutOfFoldScores.of(losses, logits[scored].argmax(1) == y[scored], weights[scored])
        history.append(
            {
                "penalty": tried,
                "log_loss": scores.log_loss,
                "log_loss_se": scores.standard_error,
                "accuracy": scores.accuracy,
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        began = time.perf_counter()
        if scores.log_loss < least:
            least, penalty, oof, scale = scores.log_loss, tried, held_out, temperature
        elif scores.log_loss > 1.5 * least:
            break  # weaker penalties only overfit further
    history = [row | {"chosen": row["penalty"] == penalty} for row in history]
    scale = scale if history else 0.1
    weight = (vectors @ problem.weights(penalty)).T / scale  # (K, D)
    bias = middle / scale - weight @ mean
    head = LinearHead(standard.mean, standard.scale, weight.float().contiguous(), bias.float())
    record = {"head": "ridge", "penalty": penalty, "scale": scale}
    oof = ((oof + middle.numpy()) / scale).astype(np.float32)
    return finish_fit(head, oof, scored, y, weights, history, record)


def _decompose(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    folds: NDArray[np.int64],
    n_classes: int,
    weights: NDArray[np.float64],
    standard: Standard,
) -> tuple[_Problem, Tensor, Tensor, Tensor]:
    """Return the problem, the mean of its rows, its eigenvectors and the classes' shares."""
    rows = Rows(torch.from_numpy(x), standard)
    total = float(weights.sum())
    share = torch.from_numpy(weights / total)  # (N,)
    mean = torch.zeros(x.shape[1], dtype=torch.float64)
    for where, z in rows.chunks():
        mean += share[where] @ z.double()
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for where, z in rows.chunks():
        centred = z.double() - mean
        gram.addmm_(centred.T * share[where], centred)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    targets = torch.zeros(len(y), n_classes, dtype=torch.float64)
    targets[torch.arange(len(y)), torch.from_numpy(y)] = 1
    middle = share @ targets
    targets -= middle
    rotated = torch.empty(len(y), len(values), dtype=torch.float64)  # (N, D), decorrelated
    for where, z in rows.chunks():
        rotated[where] = (z.double() - mean) @ vectors
    return _Problem(rotated, values, targets, share, _groups(folds)), mean, vectors, middle


@dataclass(frozen=True)
class _Problem:
    """Weighted ridge regression in the basis of its eigenvectors.

    ``share`` sums to 1; the fit has an intercept, which costs each row ``share`` of its leverage.
    """

    rotated: Tensor  # (N, D)
    values: Tensor  # (D,)
    targets: Tensor  # (N, K), centred
    share: Tensor  # (N,)
    groups: tuple[Tensor, ...]  # rows that are held out together, two and more

    def weights(self, penalty: float) -> Tensor:
        """Return (D, K)."""
        moments = self.rotated.T @ (self.targets * self.share[:, None])
        return moments / (self.values + penalty)[:, None]

    def held_out(self, penalty: float) -> Tensor:
        """Return each row's prediction by the fit without its group, (N, K), centred."""
        fitted = self.rotated @ self.weights(penalty)
        residuals = self.targets - fitted
        scaled = self.rotated / (self.values + penalty)
        leverage = self.share * (1 + (scaled * self.rotated).sum(1))
        residuals_out = residuals / (1 - leverage).clamp_min(1e-12)[:, None]
        for group in self.groups:
            hat = (1 + scaled[group] @ self.rotated[group].T) * self.share[group]
            matrix = torch.eye(len(group), dtype=hat.dtype) - hat
            residuals_out[group] = torch.linalg.solve(matrix, residuals[group])
        return self.targets - residuals_out


def _groups(folds: NDArray[np.int64]) -> tuple[Tensor, ...]:
    order = np.argsort(folds, kind="stable")
    numbers, starts = np.unique(folds[order], return_index=True)
    parts = np.split(order, starts[1:])
    return tuple(
        torch.from_numpy(part)
        for number, part in zip(numbers, parts, strict=True)
        if number >= 0 and len(part) > 1
    )
