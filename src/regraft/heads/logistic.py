"""Multinomial logistic regression over a path of L2 penalties, chosen by out-of-fold log-loss.

The objective on standardised features z is

    sum_i w_i (logsumexp(W z_i + b) - (W z_i + b)_{y_i}) / sum_i w_i  +  penalty / 2 * |W|^2

with biases free. In scikit-learn's words: ``penalty = 1 / (C * N)``.

The folds are fitted together, in one pass over the rows for all of them, and warm along the path.
Features are read where they lie and standardised a thousand rows at a time. What is held besides
is four matrices (D, D), some tens of parameter vectors (F, K * D) and, of 20,000 rows or more, a
copy of a third of the rows at most. The probe hands over at most 2,000 coordinates
(``representation.py``).

Statistics for standardisation are of all rows, held-out folds included; labels of a held-out
sample influence no score of it.

The penalty is the one of least out-of-fold log-loss. The strongest within one or half a paired
standard error, or the vertex of a parabola, were tried on ten draws each of flowers (5 and 25 a
class) and digits (10 a class): accuracy on held-out images differs by at most 0.001, and the
log-loss by at most 2.3 of its own errors, mostly for the worse or within one error.

A scale per block (which is a penalty per block): pass ``standard`` with the block's part of
``scale`` multiplied; see ``Standard``.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.errors import ConvergenceWarning
from regraft.heads.fitted import FittedHead, OutOfFoldScores, finish_fit, weighted_mean
from regraft.heads.lbfgs import Solution, minimise
from regraft.heads.modules import LinearHead
from regraft.heads.softmax import Softmax
from regraft.heads.standardise import Rows
from regraft.heads.temperature import log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from regraft.heads.standardise import Standard

#: From one penalty to the next weaker one: half a decade.
STEP = 10**0.5
#: The path begins at this many times (largest eigenvalue / N) ...
_STRONG = 10.0
#: ... and never goes beyond the largest eigenvalue times this: there all logits are nearly equal;
_STRONGEST = 10.0
#: nor below this many times (largest eigenvalue / N): where classes are separable the loss falls
#: for ever. Medians of the measured optima: 0.01 to 1 of it on flowers, 0.3 on MNIST,
#: 0.0005 to 0.01 on digits.
_WEAKEST = 1e-5
#: Estimated nats above the minimum, relative where the objective is under 0.1. Measured:
#: objectives of the path end within 6e-5 of their minimum, the final one within half of that.
_TOLERANCE_PATH = 2e-6
_TOLERANCE_FINAL = 1e-6
#: A fit of fewer samples says which penalty suits more where it had so many of each class, or half
#: of all. With fewer, everything can be separated and the least loss is flat: all samples walk the
#: path once more, less precisely. That also takes fewer iterations than one long way to a weak
#: penalty from far off (docs/design/heads.md, "Large fits").
_ENOUGH_OF_A_CLASS = 100
_TOLERANCE_AGAIN = 2e-5
#: Further folds are not fitted once the scored ones have this many samples: on MNIST the standard
#: error of an out-of-fold loss of 0.017 is then 0.0015, and a pass costs a fifth.
_ENOUGH_SCORED = 8_192
#: Nor are more folds fitted together than have so many classes in all, two at least: of a thousand
#: classes five cost more than twice what two cost, and chose the same penalty or the one beside it
#: (docs/design/heads.md). Of classes and not of weights: all sets of blocks have the same folds.
MOST_CLASSES = 2_000


def fit_logistic(  # noqa: PLR0913 - by name, all but the first two
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    folds: NDArray[np.int64],
    n_classes: int,
    weights: NDArray[np.float64],
    standard: Standard,
    scored: NDArray[np.bool_] | None = None,
    near: FittedHead | None = None,
    refit: bool = True,
    max_iterations: int = 500,
) -> FittedHead:
    """Fit on all rows with the penalty of least out-of-fold log-loss.

    Parameters
    ----------
    x : array of shape (N, D), float32
        Features; read where they lie.
    y : array of shape (N,), int64
        Classes, 0 to K - 1.
    folds : array of shape (N,), int64
        Fold of each sample; -1 is in every fit and scored by none.
    n_classes : int
        K.
    weights : array of shape (N,), float64
        What a sample counts in fits and scores.
    standard : Standard
        How features are standardised.
    scored : array of shape (N,), bool, optional
        Rows that may be scored; all where not given.
    near : FittedHead, optional
        A fit of fewer samples with the same features. Where it had a hundred a class or half of
        all, its penalty is taken over, in proportion to the number of samples, and none is tried
        beside it; its weights are where the fit begins.
    refit : bool
        False where the choice is all that is wanted: the head is then the mean of the folds' fits.
    max_iterations : int
        Of each fit.

    Returns
    -------
    FittedHead

    Warns
    -----
    ConvergenceWarning
        Once, where a fit stopped before its gradient was small.
    """
    features = torch.from_numpy(x)
    rows = Rows(features, standard)
    labels = torch.from_numpy(y)
    sample_weights = torch.from_numpy(weights)[:, None].float()
    whole = Softmax(rows, labels, sample_weights, n_classes)
    top = _largest_eigenvalue(*whole.curvature(whole.start()))
    scorable = folds >= 0 if scored is None else scored & (folds >= 0)
    path = _Path(whole, folds, scorable, top, max_iterations)
    if near is None:
        path.walk(_TOLERANCE_PATH)
    elif path.n_folds and near.record["n"] < min(_ENOUGH_OF_A_CLASS * n_classes, len(x) / 2):
        path.walk(_TOLERANCE_AGAIN)
    else:
        path.take(near)
    final = path.refit() if refit else path.mean()
    path.warn(final)
    w, b = whole.split(final.parameters)
    head = LinearHead(standard.mean, standard.scale, w[0].contiguous(), b[0].clone())
    record = {
        "head": "logistic",
        "penalty": path.chosen,
        "iterations": final.iterations,
        "gradient_norm": final.gradient_norm,
        "gap": final.gap,
        "converged": final.converged,
        "folds_scored": path.n_folds,
    }
    return finish_fit(head, path.oof_logits, path.scored, y, weights, path.history(), record)


@dataclass
class _Tried:
    """One penalty of the path."""

    penalty: float
    solution: Solution
    losses: NDArray[np.float64]
    scores: OutOfFoldScores
    seconds: float


class _Path:
    """The walk from strong to weak penalties with all folds at once."""

    def __init__(
        self,
        whole: Softmax,
        folds: NDArray[np.int64],
        scorable: NDArray[np.bool_],
        top: float,
        max_iterations: int,
    ) -> None:
        n_rows = whole.rows.shape[0]
        present, sizes = np.unique(folds[scorable], return_counts=True)
        present = present[: int(np.searchsorted(sizes.cumsum(), _ENOUGH_SCORED)) + 1]
        present = present[: max(2, MOST_CLASSES // whole.n_classes)]
        self.n_folds = len(present)
        self.whole, self.max_iterations = whole, max_iterations
        self.labels = whole.labels.numpy()
        self.weights = whole.sample_weights[:, 0].numpy().astype(np.float64)
        member_of = np.full(n_rows, -1)
        for member, fold in enumerate(present):
            member_of[folds == fold] = member
        self.member_of = torch.from_numpy(member_of)
        self.scored = (member_of >= 0) & scorable
        inside = self.member_of[:, None] != torch.arange(self.n_folds)
        self.members = Softmax(
            whole.rows, whole.labels, whole.sample_weights * inside, whole.n_classes
        )
        top = top or 1.0  # constant features: any penalty gives weights of zero
        self.strongest = _STRONGEST * top
        # One class of K has a share of 1/K in the loss, and in its curvature: many classes settle
        # at weaker penalties, and strong ones take the most iterations.
        many = min(1.0, 10 / whole.n_classes)
        self.middle = min(many * top / n_rows, self.strongest)
        self.first = min(_STRONG * self.middle, self.strongest)
        self.tried: dict[float, _Tried] = {}
        self.chosen = self.middle
        self.oof_logits = np.zeros((n_rows, whole.n_classes), np.float32)
        self.best_parameters: Tensor | None = None

    def take(self, near: FittedHead) -> None:
        """Try the penalty that fewer samples have chosen, and no other."""
        # The sum of losses grows with the samples and the penalty does not: their ratio stays.
        n_rows = self.whole.rows.shape[0]
        self.chosen = min(near.record["penalty"] * near.record["n"] / n_rows, self.strongest)
        # One row, not one a member: there may be no fold that can be scored.
        self.best_parameters = start = self.whole.start()
        weights, biases = self.whole.split(start)
        tensors = near.head.state_dict()
        weights.copy_(tensors["weight"].expand_as(weights))
        biases.copy_(tensors["bias"].expand_as(biases))
        if self.n_folds:
            self._try(self.chosen, start.repeat(self.n_folds, 1), _TOLERANCE_PATH)

    def walk(self, tolerance: float) -> None:
        """Try penalties until the loss has clearly risen on both sides of the least."""
        if not self.n_folds:
            return  # nothing can be scored: the rule of thumb stays, largest eigenvalue / N
        penalty, start = self.first, self.members.start()
        before = self._try(penalty, start, tolerance)
        weakest = _WEAKEST * self.middle * STEP
        while penalty >= weakest and not self._clearly_risen(penalty):
            penalty /= STEP
            now = self._try(penalty, start if len(self.tried) > 1 else before, tolerance)
            # On along the path, as far again: that saves a third of the passes.
            start, before = 2 * now - before, now
        while self.chosen == max(self.tried) and self.chosen * STEP <= self.strongest:
            stronger, start = self.chosen * STEP, self.tried[self.chosen].solution.parameters
            self._try(stronger, start, tolerance)

    def _try(self, penalty: float, start: Tensor, tolerance: float) -> Tensor:
        began = time.perf_counter()
        solution = minimise(
            self.members, start, penalty, curvature=self.members.curvature(start),
            tolerance=tolerance, max_iterations=self.max_iterations,
        )  # fmt: skip
        logits = self.members.logits(solution.parameters, self.member_of).numpy()
        mine, labels = logits[self.scored], self.labels[self.scored]
        losses = log_losses(mine, labels)
        scores = OutOfFoldScores.of(losses, mine.argmax(1) == labels, self.weights[self.scored])
        seconds = time.perf_counter() - began
        best = self.tried.get(self.chosen)
        self.tried[penalty] = _Tried(penalty, solution, losses, scores, seconds)
        if best is None or scores.log_loss < best.scores.log_loss:
            self.chosen, self.oof_logits = penalty, logits
            self.best_parameters = solution.parameters
        return solution.parameters

    def _clearly_risen(self, penalty: float) -> bool:
        """Whether the loss is two paired standard errors above the least, or rose twice."""
        best, now = self.tried[self.chosen], self.tried[penalty]
        rise, error = weighted_mean(now.losses - best.losses, self.weights[self.scored])
        return rise > 2 * error or (self.chosen >= 0.99 * STEP**2 * penalty and rise > 0)

    def mean(self) -> Solution:
        """Return the mean of the folds' fits at the chosen penalty; a fit where there are none."""
        if self.best_parameters is None:
            return self.refit()
        ended = self.tried[self.chosen].solution
        return replace(ended, parameters=self.best_parameters.mean(0, keepdim=True))

    def refit(self) -> Solution:
        """Fit all rows at the chosen penalty, from the mean of the folds' fits."""
        start = self.whole.start()
        if self.best_parameters is not None:
            start = self.best_parameters.mean(0, keepdim=True)
        return minimise(
            self.whole, start, self.chosen, curvature=self.whole.curvature(start),
            tolerance=_TOLERANCE_FINAL, max_iterations=self.max_iterations,
        )  # fmt: skip

    def warn(self, final: Solution) -> None:
        """Warn once of what did not converge: the final fit before any other."""
        ends = [(self.chosen, final), *((t.penalty, t.solution) for t in self.tried.values())]
        for penalty, solution in ends:
            if not solution.converged:
                warnings.warn(
                    f"logistic regression with penalty {penalty:.3g} stopped after "
                    f"{solution.iterations} iterations with a gradient norm of "
                    f"{solution.gradient_norm:.2g}, about {solution.gap:.2g} nats above its "
                    "minimum",
                    ConvergenceWarning,
                    stacklevel=2,
                )
                return

    def history(self) -> list[dict[str, Any]]:
        """Return one row a penalty, from strong to weak."""
        return [
            {
                "penalty": t.penalty,
                "log_loss": t.scores.log_loss,
                "log_loss_se": t.scores.standard_error,
                "accuracy": t.scores.accuracy,
                "iterations": t.solution.iterations,
                "seconds": round(t.seconds, 3),
                "chosen": t.penalty == self.chosen,
            }
            for t in sorted(self.tried.values(), key=lambda t: -t.penalty)
        ]


def _largest_eigenvalue(gram: Tensor, mean: float) -> float:
    """Return the largest eigenvalue of the second moments, by power iteration, within a percent.

    At weights of zero all samples have the same curvature, and it divides out.
    """
    vector = gram[:, int(gram.diagonal().argmax())].double()
    matrix, value = gram.double(), 0.0
    for _ in range(30):
        value = float(vector.norm())
        if value == 0:
            return 0.0
        vector = matrix @ (vector / value)
    return float(vector.norm()) / mean if mean else 0.0
