"""L-BFGS over several members at once, with the preconditioner that softmax regression allows.

SciPy's L-BFGS-B takes one problem at a time and a diagonal scale. Here the members share each pass
over the rows, and the Cholesky factor of a curvature-weighted Gram matrix stands in for the
Hessian. One penalty of the path takes 5 to 15 iterations on flowers, 11 to 38 on MNIST.

Notation, with that of ``softmax``:

    x     (F, P)    parameters of all members
    g     (F, P)    gradient
    d     (A, P)    direction of the next step of the members that still move
    gap   (F,)      -g'd / 2, half the Newton decrement: an estimate of how far the objective is
                    above its minimum, in nats

Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 7.4 and 3.1.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from regraft.heads.cholesky import cholesky
from regraft.heads.softmax import inner_products

if TYPE_CHECKING:
    from regraft.heads.softmax import Softmax

#: A step is halved at most this many times.
_HALVINGS = 20
#: From this many rows on, most passes leave out settled rows (``Softmax.without_settled``). With
#: 8,192 rows and five folds that gained nothing.
_MANY_ROWS = 20_000
#: A fit of many rows goes in rounds. Each round reads all rows once, leaves out the settled ones,
#: and makes steps on the others until every gap is _REDUCTION times what it was at first. A round
#: in which too few rows are settled makes steps on all rows, until it is the square of that.
_ROUNDS, _STEPS, _REDUCTION = 10, 100, 0.01
#: A fit has not converged if its gap is larger than this and than the tolerance, in nats.
CONVERGED = 1e-5
#: Rounding of a mean log-loss in float32: relative to it, and in nats (the probability of a certain
#: class is 1 to within 6e-8).
_NOISE, _FLOOR = 2e-7, 3e-8


@dataclass(frozen=True)
class Solution:
    """Where a minimisation ended."""

    parameters: Tensor  # (F, P)
    gradient_norm: float  # the largest of all members
    gap: float  # the largest of all members, in nats
    iterations: int
    converged: bool  # whether every gap is at most CONVERGED or the tolerance


def minimise(
    problem: Softmax,
    start: Tensor,  # (F, P)
    penalty: float,  # above 0
    *,
    curvature: tuple[Tensor, float],
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Minimise the objective of every member.

    ``curvature`` is ``Softmax.curvature`` near the solution. A member is done when its gap is at
    most ``tolerance`` nats, or ``tolerance`` times ten objectives if that is less. The gap is
    measured with the Hessian that L-BFGS knows; objectives end above their minimum by a twentieth
    of it to all of it.
    """
    descent = _Descent(start, penalty, tolerance, _Preconditioner(problem, penalty, *curvature))
    n_rows, members = problem.rows.shape[0], range(len(start))
    rounds = _ROUNDS if n_rows >= _MANY_ROWS else 0
    iterations = 0
    before: tuple[Tensor, Tensor, int] | None = None  # parameters, objective and iterations
    while True:
        few = None  # frees the copy of rows before the next one is made
        missing = torch.empty(n_rows)
        descent.value, descent.gradient = problem.evaluate(descent.x, penalty, members, missing)
        if before and bool((descent.value > _with_noise(before[1])).any()):
            # The objective of all rows has risen: the tangent misled. Go back, read all rows from
            # now on, and forget the steps, which were made on other objectives.
            descent.x, _, iterations = before
            descent.forget()
            before, rounds = None, 0
            continue
        before = descent.x.clone(), descent.value.clone(), iterations
        if rounds:
            few = problem.without_settled(
                descent.x, penalty, descent.value, descent.gradient, missing
            )
        most = max_iterations - iterations
        reduction = (_REDUCTION if few else _REDUCTION**2) if rounds else 0
        gap, steps = descent.run(few or problem, reduction, min(most, _STEPS) if few else most)
        iterations += steps
        done = not few and bool((gap <= descent.small_gap()).all())
        if done or not rounds or not steps:
            break
        rounds -= 1
    return Solution(
        descent.x, float(descent.gradient.norm(dim=1).max()), float(gap.max()), iterations,
        bool((gap <= max(CONVERGED, tolerance)).all()),
    )  # fmt: skip


class _Pair(NamedTuple):
    """A step, the change of the gradient along it, and one over their product."""

    step: Tensor  # (P,)
    change: Tensor  # (P,)
    inverse: float


class _Descent:
    """Where the members are now, and the steps that they remember."""

    value: Tensor  # (F,) float64
    gradient: Tensor  # (F, P)

    def __init__(
        self, start: Tensor, penalty: float, tolerance: float, precondition: _Preconditioner
    ) -> None:
        self.x = start.clone()  # (F, P)
        self.penalty, self.tolerance, self.precondition = penalty, tolerance, precondition
        # Up to thirty pairs a member, oldest first; fewer if one pair of all members is large.
        n_pairs = int(min(30, max(4, 2**27 // start.numel())))
        self.pairs: list[deque[_Pair]] = [deque(maxlen=n_pairs) for _ in start]

    def forget(self) -> None:
        """Forget the pairs of all members."""
        for known in self.pairs:
            known.clear()

    def small_gap(self) -> Tensor:
        """Return the gap (F,) at which a member is done.

        The objective of separable classes goes to 0, so the gap has to go there, too.
        """
        return (self.tolerance * (10 * self.value).clamp_max(1)).clamp_min(_FLOOR)

    def run(self, problem: Softmax, reduction: float, max_steps: int) -> tuple[Tensor, int]:
        """Make steps until every gap is small, or ``reduction`` times what it was at first.

        Return the gaps (F,) float64 and the number of steps.
        """
        gap = torch.full((len(self.x),), torch.inf, dtype=torch.float64)
        reduced = gap
        active, steps = list(range(len(self.x))), 0
        while active:
            d = self._directions(active)  # (A, P)
            slope = inner_products(self.gradient[active], d)  # (A,), below 0
            gap[active] = -slope / 2
            if not steps:
                reduced = reduction * gap
            enough = self.small_gap().maximum(reduced)
            going = (gap[active] > enough[active]).nonzero()[:, 0].tolist()
            active, d, slope = [active[j] for j in going], d[going], slope[going]
            # A tangent can be followed to an objective below 0, where it says nothing of its rows.
            if not active or steps == max_steps or bool((self.value < 0).any()):
                break
            steps += 1
            stuck = self._step(problem, active, d, slope)
            # In float32, old pairs may point nowhere: try once without them, then give up.
            active = [i for i in active if i not in stuck or self.pairs[i]]
            for i in stuck:
                self.pairs[i].clear()
        return gap, steps

    def _directions(self, active: list[int]) -> Tensor:
        """Return descent directions (A, P) by the two-loop recursion."""
        q = self.gradient[active].clone()
        pairs = [self.pairs[i] for i in active]
        factors: list[list[float]] = []
        for row, known in zip(q, pairs, strict=True):  # newest pair first
            used = []
            for step, change, inverse in reversed(known):
                used.append(inverse * float(step @ row))
                row.sub_(change, alpha=used[-1])
            factors.append(used[::-1])
        r = self.precondition(q)
        some = [j for j, known in enumerate(pairs) if known]
        if some:  # the newest pair shows the scale of the Hessian along its step
            newest = torch.stack([pairs[j][-1].change for j in some])
            lengths = inner_products(newest, self.precondition(newest))
            products = lengths.new_tensor([1 / pairs[j][-1].inverse for j in some])
            r[some] *= (products / lengths)[:, None].float()
        for row, known, used in zip(r, pairs, factors, strict=True):  # oldest pair first
            for (step, change, inverse), factor in zip(known, used, strict=True):
                row.add_(step, alpha=factor - inverse * float(change @ row))
        return r.neg_()

    def _step(self, problem: Softmax, active: list[int], d: Tensor, slope: Tensor) -> list[int]:
        """Move each active member along its direction; return the members that found no descent.

        A step is halved until the objective descends (Armijo's rule).
        """
        size = torch.ones(len(active))
        waiting = list(range(len(active)))  # positions in active
        for _ in range(_HALVINGS):
            members = [active[j] for j in waiting]
            there = self.x[members] + size[waiting, None] * d[waiting]
            value, gradient = problem.evaluate(there, self.penalty, members)
            allowed = self.value[members] + 1e-4 * size[waiting] * slope[waiting]
            descends = (value <= _with_noise(allowed)).tolist()
            for row, i in enumerate(members):
                if descends[row]:
                    self._move(i, there[row], value[row], gradient[row])
            waiting = [j for j, moved in zip(waiting, descends, strict=True) if not moved]
            if not waiting:
                break
            size[waiting] /= 2
        return [active[j] for j in waiting]

    def _move(self, i: int, x: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Move member i to x (P,) and remember the step."""
        step, change = x - self.x[i], gradient - self.gradient[i]
        product = float(step.double() @ change.double())
        if product > 1e-5 * float(step.norm()) * float(change.norm()):  # less may be rounding
            self.pairs[i].append(_Pair(step, change, 1 / product))
        self.x[i], self.value[i], self.gradient[i] = x, value, gradient


class _Preconditioner:
    """The inverse of ``gram + penalty`` for weights, and of the mean curvature for biases."""

    def __init__(self, problem: Softmax, penalty: float, gram: Tensor, mean: float) -> None:
        self.problem = problem
        # The rounding of the Gram matrix in float32 may exceed a weak penalty.
        shift = max(penalty, 1e-7 * float(gram.diagonal().mean()))
        self.factor = cholesky(gram.double(), shift).float()  # (D, D)
        self.mean = max(mean, 1e-6)

    def __call__(self, gradients: Tensor) -> Tensor:
        """Return the preconditioned gradients (A, P)."""
        result = torch.empty_like(gradients)
        weights, biases = self.problem.split(gradients)
        to_weights, to_biases = self.problem.split(result)
        flat = weights.reshape(-1, weights.shape[2])  # (A * K, D)
        to_weights.copy_(torch.cholesky_solve(flat.T, self.factor).T.view_as(weights))
        to_biases.copy_(biases / self.mean)
        return result


def _with_noise(value: Tensor) -> Tensor:
    """Return the largest value that may differ from this one by rounding alone."""
    return value + _NOISE * value.abs() + _FLOOR
