"""Multinomial logistic regression over a path of L2 penalties, chosen by out-of-fold log-loss.

The objective is that of ``softmax``; in scikit-learn's words, ``penalty = 1 / (C * N)``. Biases
are not penalised.

All folds are fitted together, in one pass over the rows, and each penalty starts from the fits of
the one before. Features are read in place and standardised a thousand rows at a time. Memory beside
them: four matrices (D, D), some tens of parameter vectors (F, K * D) and, from 20,000 rows on, a
copy of a third of the rows at most. The probe passes at most 2,000 coordinates
(``probe/projection.py``).

Standardisation uses all rows, also those of held-out folds. The labels of a held-out row influence
none of its scores.

The penalty of least out-of-fold log-loss is chosen. Also tried, on ten draws each of flowers (5 and
25 images a class) and digits (10 a class): the strongest penalty within one or half a paired
standard error, and the vertex of a parabola. Accuracy on held-out images differs by at most 0.001,
log-loss by at most 2.3 of its own errors, mostly for the worse or within one error.

For one penalty per block, multiply the block's part of ``standard.scale``; see ``Standard``.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.core.text import counted
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
#: The path begins at this many times the usual penalty, which is largest eigenvalue / N.
_STRONG = 10.0
#: No penalty is above this many times the largest eigenvalue: there all logits are nearly equal.
_STRONGEST = 10.0
#: No penalty is below this many times the usual one: the loss of separable classes falls for ever.
#: Medians of the measured optima: 0.01 to 1 of it on flowers, 0.3 on MNIST, 0.0005 to 0.01 on
#: digits.
_WEAKEST = 1e-5
#: Estimated nats above the minimum, relative if the objective is under 0.1. Measured: objectives of
#: the path end within 6e-5 of their minimum, the final one within half of that.
_TOLERANCE_PATH = 2e-6
_TOLERANCE_FINAL = 1e-6
#: The penalty of a fit of fewer samples is taken over if that fit had this many of each class, or
#: half of all. With fewer, everything can be separated and the least loss is flat: then all samples
#: try the path again, less precisely. That also takes fewer iterations than one long way to a weak
#: penalty from a start far away (docs/design/heads.md, "Large fits").
_ENOUGH_OF_A_CLASS = 100
_TOLERANCE_AGAIN = 2e-5
#: No more folds are fitted once the scored ones have this many samples: on MNIST, the standard
#: error of an out-of-fold loss of 0.017 is then 0.0015, and a pass costs a fifth.
_ENOUGH_SCORED = 8_192
#: Folds that are fitted together have at most this many classes in all, but at least two folds are
#: fitted. Five folds of a thousand classes cost more than twice as much as two, and chose the same
#: penalty or the one beside it (docs/design/heads.md). This counts classes and not weights, so that
#: all sets of blocks have the same folds.
MOST_CLASSES_AT_ONCE = 2_000


def fit_logistic(  # noqa: PLR0913 - a fitter, with what only this one can choose
    x: NDArray[np.float32],  # (N, D)
    y: NDArray[np.int64],
    *,
    folds: NDArray[np.int64],
    n_classes: int,
    weights: NDArray[np.float64],
    standard: Standard,
    scored: NDArray[np.bool_] | None = None,  # (N,), rows that may be scored; all by default
    near: FittedHead | None = None,
    refit: bool = True,
    max_iterations: int = 500,
) -> FittedHead:
    """Fit on all rows with the penalty of least out-of-fold log-loss; see ``Fitter``.

    ``near`` is a fit of fewer samples with the same features. If it had a hundred samples of each
    class, or half of all, its penalty is used in proportion to the number of samples, no other is
    tried, and the fit starts from its weights.

    Without ``refit`` the head is the mean of the fits of the folds: enough for a choice.

    A fit that stops before its gradient is small gives one ``ConvergenceWarning``.
    """
    rows = Rows(torch.from_numpy(x), standard)
    sample_weights = torch.from_numpy(weights)[:, None].float()  # (N, 1)
    whole = Softmax(rows, torch.from_numpy(y), sample_weights, n_classes)
    scorable = folds >= 0 if scored is None else scored & (folds >= 0)
    largest = _largest_eigenvalue(*whole.curvature(whole.start()))
    path = _Path(whole, folds, scorable, _Penalties.of(whole, largest), max_iterations)
    if near is None:
        path.walk(_TOLERANCE_PATH)
    elif path.n_folds and near.record["n"] < min(_ENOUGH_OF_A_CLASS * n_classes, len(x) / 2):
        path.walk(_TOLERANCE_AGAIN)
    else:
        path.take_over(near)
    final = path.refit() if refit else path.mean()
    path.warn(final)
    w, b = whole.split(final.parameters)  # (1, K, D), (1, K)
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
    fitted = FittedHead(head, 1.0, path.oof_logits, path.scored, path.history(), record)
    return finish_fit(fitted, y, weights)


@dataclass(frozen=True)
class _Penalties:
    """The range of the path."""

    strongest: float
    first: float
    usual: float
    weakest: float

    @classmethod
    def of(cls, whole: Softmax, largest_eigenvalue: float) -> _Penalties:
        """Return the range for a problem."""
        largest = largest_eigenvalue or 1.0  # constant features: any penalty gives weights of zero
        # One class of K has a share of 1/K in the loss and in its curvature. So many classes end
        # at weaker penalties, and strong ones take the most iterations.
        many = min(1.0, 10 / whole.n_classes)
        usual = many * largest / whole.rows.shape[0]
        return cls(_STRONGEST * largest, _STRONG * usual, usual, _WEAKEST * usual * STEP)


@dataclass
class _Tried:
    """One penalty of the path."""

    penalty: float
    solution: Solution
    losses: NDArray[np.float64]  # of each scored row
    scores: OutOfFoldScores
    seconds: float


class _Path:
    """All folds at once, from strong to weak penalties; and the final fit of all rows."""

    def __init__(
        self,
        whole: Softmax,
        folds: NDArray[np.int64],
        scorable: NDArray[np.bool_],
        penalties: _Penalties,
        max_iterations: int,
    ) -> None:
        self.whole, self.penalties, self.max_iterations = whole, penalties, max_iterations
        fitted = _folds_to_fit(folds, scorable, whole.n_classes)
        self.n_folds = len(fitted)  # F
        member_of = np.full(len(folds), -1)  # (N,), the member that has not seen a row
        for member, fold in enumerate(fitted):
            member_of[folds == fold] = member
        self.member_of = torch.from_numpy(member_of)
        self.scored = (member_of >= 0) & scorable  # (N,)
        inside = self.member_of[:, None] != torch.arange(self.n_folds)  # (N, F)
        self.members = replace(whole, sample_weights=whole.sample_weights * inside)
        self.labels = whole.labels.numpy()
        self.weights = whole.sample_weights[:, 0].numpy().astype(np.float64)
        self.tried: dict[float, _Tried] = {}
        self.chosen = penalties.usual
        self.oof_logits = np.zeros((len(folds), whole.n_classes), np.float32)  # of the choice
        self.best_parameters = whole.start()  # (F, P), of the choice; (1, P) before there is one

    def walk(self, tolerance: float) -> None:
        """Try penalties until the loss has clearly risen on both sides of the least."""
        if not self.n_folds:
            return  # nothing can be scored: the usual penalty stays
        penalty, start = self.penalties.first, self.members.start()
        before = self.attempt(penalty, start, tolerance)
        while penalty >= self.penalties.weakest and not self._clearly_risen(penalty):
            penalty /= STEP
            now = self.attempt(penalty, start if len(self.tried) > 1 else before, tolerance)
            # Start the next one as far ahead as the last two are apart: a third of the passes less.
            start, before = 2 * now - before, now
        while self.chosen == max(self.tried) and self.chosen * STEP <= self.penalties.strongest:
            start = self.tried[self.chosen].solution.parameters
            self.attempt(self.chosen * STEP, start, tolerance)

    def take_over(self, near: FittedHead) -> None:
        """Try the penalty of a fit of fewer samples, and no other."""
        # The sum of losses grows with the samples and the penalty does not: their ratio stays.
        scaled = near.record["penalty"] * near.record["n"] / self.whole.rows.shape[0]
        self.chosen = min(scaled, self.penalties.strongest)
        start = self.best_parameters  # (1, P)
        weights, biases = self.whole.split(start)
        tensors = near.head.state_dict()
        weights.copy_(tensors["weight"].expand_as(weights))
        biases.copy_(tensors["bias"].expand_as(biases))
        if self.n_folds:
            self.attempt(self.chosen, start.repeat(self.n_folds, 1), _TOLERANCE_PATH)

    def attempt(self, penalty: float, start: Tensor, tolerance: float) -> Tensor:
        """Fit all folds with a penalty, score them, keep the best; return the parameters (F, P)."""
        began = time.perf_counter()
        solution = minimise(
            self.members, start, penalty, curvature=self.members.curvature(start),
            tolerance=tolerance, max_iterations=self.max_iterations,
        )  # fmt: skip
        all_logits = self.members.logits(solution.parameters, self.member_of).numpy()  # (N, K)
        logits, labels = all_logits[self.scored], self.labels[self.scored]
        losses = log_losses(logits, labels)
        right = logits.argmax(1) == labels
        scores = OutOfFoldScores.of(losses, right, self.weights[self.scored])
        seconds = time.perf_counter() - began
        best = self.tried.get(self.chosen)
        self.tried[penalty] = _Tried(penalty, solution, losses, scores, seconds)
        if best is None or scores.criterion < best.scores.criterion:
            self.chosen, self.oof_logits = penalty, all_logits
            self.best_parameters = solution.parameters
        return solution.parameters

    def _clearly_risen(self, penalty: float) -> bool:
        """Return whether the loss is two paired standard errors above the least, or rose twice."""
        best, now = self.tried[self.chosen], self.tried[penalty]
        rise, error = weighted_mean(now.losses - best.losses, self.weights[self.scored])
        return rise > 2 * error or (self.chosen >= 0.99 * STEP**2 * penalty and rise > 0)

    def mean(self) -> Solution:
        """Return the mean of the folds' fits at the chosen penalty; without folds, a fit."""
        if not self.tried:
            return self.refit()
        ended = self.tried[self.chosen].solution
        return replace(ended, parameters=self.best_parameters.mean(0, keepdim=True))

    def refit(self) -> Solution:
        """Fit all rows at the chosen penalty, from the mean of the folds' fits."""
        start = self.best_parameters.mean(0, keepdim=True)
        return minimise(
            self.whole, start, self.chosen, curvature=self.whole.curvature(start),
            tolerance=_TOLERANCE_FINAL, max_iterations=self.max_iterations,
        )  # fmt: skip

    def warn(self, final: Solution) -> None:
        """Warn once about a fit that did not converge: about the final one before any other."""
        ends = [(self.chosen, final), *((t.penalty, t.solution) for t in self.tried.values())]
        for penalty, solution in ends:
            if not solution.converged:
                warnings.warn(
                    f"logistic regression with penalty {penalty:.3g} stopped after "
                    f"{counted(solution.iterations, 'iteration')} with a gradient norm of "
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
                **t.scores.columns(),
                "iterations": t.solution.iterations,
                "seconds": round(t.seconds, 3),
                "chosen": t.penalty == self.chosen,
            }
            for t in sorted(self.tried.values(), key=lambda t: -t.penalty)
        ]


def _folds_to_fit(
    folds: NDArray[np.int64], scorable: NDArray[np.bool_], n_classes: int
) -> NDArray[np.int64]:
    """Return the folds (F,) that are held out: enough samples, and not too many classes."""
    present, sizes = np.unique(folds[scorable], return_counts=True)
    present = present[: int(np.searchsorted(sizes.cumsum(), _ENOUGH_SCORED)) + 1]
    return present[: max(2, MOST_CLASSES_AT_ONCE // n_classes)]


def _largest_eigenvalue(gram: Tensor, mean: float) -> float:
    """Return the largest eigenvalue of the second moments, by power iteration, within a percent.

    At weights of zero all samples have the same curvature, so dividing by its mean removes it.
    """
    vector = gram[:, int(gram.diagonal().argmax())].double()
    matrix, value = gram.double(), 0.0
    for _ in range(30):
        value = float(vector.norm())
        if value == 0:
            return 0.0
        vector = matrix @ (vector / value)
    return float(vector.norm()) / mean if mean else 0.0
