"""L-BFGS over several problems at once, with the preconditioner that softmax regression allows.

SciPy's L-BFGS-B takes one problem at a time and a diagonal scale; here the members share each pass
over the rows, and one Cholesky factor of a curvature-weighted Gram matrix stands in for the
Hessian. A penalty of the path takes 5 to 15 iterations on flowers, 11 to 38 on MNIST.

References
----------
Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 7.4 and 3.1.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regraft.errors import InputError

if TYPE_CHECKING:
    from regraft.heads.softmax import Softmax

#: Steps, what they changed of the gradient, and one over the product of both; oldest first.
Pairs = deque[tuple[Tensor, Tensor, float]]

_HALVINGS = 20
#: From so many rows on, settled ones are left out of most passes (``Softmax.unsettled``); with
#: 8,192 rows and five folds that gained nothing.
_MANY_ROWS = 20_000
#: What is left is minimised until its gap is so much smaller, in so many steps at most (and where
#: nothing is left out, until it is smaller by the square of that); then all rows are read, and
#: which of them are settled is asked anew, so often at most.
_REDUCTION, _STEPS, _ROUNDS = 0.01, 100, 10
#: A fit whose estimated gap is larger, and larger than was asked for, did not converge, in nats.
CONVERGED = 1e-5
#: What float32 leaves uncertain in a mean log-loss: relative to it, and in nats, since the
#: probability of a class that is certain is one to within 6e-8.
_NOISE, _FLOOR = 2e-7, 3e-8


@dataclass(frozen=True)
class Solution:
    """Where a minimisation ended.

    Attributes
    ----------
    parameters : tensor of shape (F, P), float32
        Of each member.
    gradient_norm : float
        Largest Euclidean norm of a member's gradient.
    gap : float
        Largest estimate of what a member's objective lies above its minimum.
    iterations : int
        Steps taken.
    converged : bool
        Whether every member's gap is at most ``CONVERGED``, or what was asked for if that is more.
    """

    parameters: Tensor
    gradient_norm: float
    gap: float
    iterations: int
    converged: bool


def minimise(
    problem: Softmax,
    start: Tensor,
    penalty: float,
    *,
    curvature: tuple[Tensor, float],
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Minimise every member's objective.

    Parameters
    ----------
    problem : Softmax
        The members.
    start : tensor of shape (F, P), float32
        Where to begin.
    penalty : float
        Above 0.
    curvature : tuple of tensor of shape (D, D) and float
        As ``Softmax.curvature`` returns near the solution.
    tolerance : float
        In nats, times ten objectives where that is less: a member is done when half its Newton
        decrement is at most this. With the Hessian that L-BFGS knows, that is a twentieth to all
        of what its objective lies above the minimum.
    max_iterations : int
        At least 1.

    Returns
    -------
    Solution
    """
    precondition = _Preconditioner(problem, penalty, *curvature)
    # Ten to thirty pairs; fewer where one pair of all members is already large.
    n_pairs = int(min(30, max(4, 2**27 // start.numel())))
    pairs: list[Pairs] = [deque(maxlen=n_pairs) for _ in start]
    x, iterations = start.clone(), 0
    before: tuple[Tensor, Tensor, int] | None = None
    rounds = _ROUNDS if problem.rows.shape[0] >= _MANY_ROWS else 0
    while True:
        few = None  # before the next one is made: its rows are a copy
        missing = torch.empty(problem.rows.shape[0])
        value, gradient = problem.evaluate(x, penalty, range(len(x)), missing)
        if before and bool((value > _above(before[1])).any()):
            # Rows that were settled are so no longer: all of them, from where it was better, and
            # nothing of what was seen on the way is true of all.
            x, _, iterations = before
            before, rounds = None, 0
            for known in pairs:
                known.clear()
            continue
        before = x.clone(), value.clone(), iterations
        state = x, value, gradient
        few = problem.unsettled(x, penalty, value, gradient, missing) if rounds else None
        reduction = _REDUCTION if few else _REDUCTION**2
        gap, steps = _descend(
            few or problem, penalty, state, pairs, precondition, tolerance=tolerance,
            reduction=reduction if rounds else 0,
            max_iterations=min(max_iterations - iterations, _STEPS if few else max_iterations),
        )  # fmt: skip
        iterations += steps
        done = not few and bool((gap <= _enough(tolerance, value)).all())
        if done or not (rounds and steps):
            break
        rounds -= 1
    return Solution(
        x, float(gradient.norm(dim=1).max()), float(gap.max()), iterations,
        bool((gap <= max(CONVERGED, tolerance)).all()),
    )  # fmt: skip


def _descend(
    problem: Softmax,
    penalty: float,
    state: tuple[Tensor, Tensor, Tensor],
    pairs: list[Pairs],
    precondition: _Preconditioner,
    *,
    tolerance: float,
    reduction: float,
    max_iterations: int,
) -> tuple[Tensor, int]:
    """Update the state until every gap is within the tolerance or so much smaller than it was.

    Returns the gaps (F,), float64, and the steps taken.
    """
    x, value, gradient = state
    gap = torch.full((len(x),), torch.inf, dtype=torch.float64)
    reduced = gap
    active, steps = list(range(len(x))), 0
    while active:
        direction = _directions(gradient[active], [pairs[i] for i in active], precondition)
        slope = (gradient[active].double() * direction.double()).sum(1)
        gap[active] = -slope / 2
        reduced = reduced if steps else reduction * gap
        enough = _enough(tolerance, value).maximum(reduced)
        going = (gap[active] > enough[active]).nonzero()[:, 0].tolist()
        active, direction, slope = [active[j] for j in going], direction[going], slope[going]
        # Less than nothing: a tangent was followed to where it says nothing of its rows.
        if not active or steps == max_iterations or bool((value < 0).any()):
            break
        steps += 1
        moved = _search(problem, penalty, state, active, direction, slope, pairs)
        stuck = [i for i, ok in zip(active, moved, strict=True) if not ok]
        # In float32 old pairs may point nowhere: without them once more, and then it is over.
        active = [i for i in active if i not in stuck or pairs[i]]
        for i in stuck:
            pairs[i].clear()
    return gap, steps


def _enough(tolerance: float, value: Tensor) -> Tensor:
    """Return the gap that will do: with the objective of separable classes it goes to 0, too."""
    return (tolerance * (10 * value).clamp_max(1)).clamp_min(_FLOOR)


def _above(value: Tensor) -> Tensor:
    """Return what is above a value by no more than rounding."""
    return value + _NOISE * value.abs() + _FLOOR


class _Preconditioner:
    """Apply the inverse of ``gram + penalty`` to weights, and of the mean curvature to biases."""

    def __init__(self, problem: Softmax, penalty: float, gram: Tensor, mean: float) -> None:
        self.problem = problem
        # float32's rounding of the Gram matrix may exceed a weak penalty.
        shift = max(penalty, 1e-7 * float(gram.diagonal().mean()))
        matrix, failed = gram.double(), torch.tensor(1)
        if not bool(matrix.isfinite().all()):  # no shift would ever be enough
            raise InputError("features, or products of them, are not finite")
        while int(failed):
            matrix.diagonal().add_(shift)
            factor, failed = torch.linalg.cholesky_ex(matrix)
            shift *= 10
        self.factor = factor.float()
        self.mean = max(mean, 1e-6)

    def __call__(self, gradients: Tensor) -> Tensor:
        result = torch.empty_like(gradients)
        weights, biases = self.problem.split(gradients)
        into_weights, into_biases = self.problem.split(result)
        flat = weights.reshape(-1, weights.shape[2])
        into_weights.copy_(torch.cholesky_solve(flat.T, self.factor).T.view_as(weights))
        into_biases.copy_(biases / self.mean)
        return result


def _directions(
    gradients: Tensor,
    pairs: list[Pairs],
    precondition: _Preconditioner,
) -> Tensor:
    """Return descent directions (A, P) by the two-loop recursion."""
    q = gradients.clone()
    factors: list[list[float]] = []
    for row, known in zip(q, pairs, strict=True):
        used = []
        for s, y, inverse in reversed(known):
            used.append(inverse * float(s @ row))
            row.sub_(y, alpha=used[-1])
        factors.append(used[::-1])
    r = precondition(q)
    some = [j for j, known in enumerate(pairs) if known]
    if some:  # the newest pair says by how much the approximate Hessian is off
        newest = torch.stack([pairs[j][-1][1] for j in some])
        lengths = (newest.double() * precondition(newest).double()).sum(1)
        products = lengths.new_tensor([1 / pairs[j][-1][2] for j in some])
        r[some] *= (products / lengths)[:, None].float()
    for row, known, used in zip(r, pairs, factors, strict=True):
        for (s, y, inverse), factor in zip(known, used, strict=True):
            row.add_(s, alpha=factor - inverse * float(y @ row))
    return r.neg_()


def _search(
    problem: Softmax,
    penalty: float,
    state: tuple[Tensor, Tensor, Tensor],
    active: list[int],
    direction: Tensor,
    slope: Tensor,
    pairs: list[Pairs],
) -> list[bool]:
    """Step each active member downhill, halving its step until it descends; update the state."""
    x, value, gradient = state
    step = torch.ones(len(active))
    waiting = list(range(len(active)))
    for _ in range(_HALVINGS):
        members = [active[j] for j in waiting]
        there = x[members] + step[waiting, None] * direction[waiting]
        new_value, new_gradient = problem.evaluate(there, penalty, members)
        allowed = value[members] + 1e-4 * step[waiting] * slope[waiting]
        fine = new_value <= _above(allowed)
        for row, (i, accept) in enumerate(zip(members, fine.tolist(), strict=True)):
            if not accept:
                continue
            s, y = there[row] - x[i], new_gradient[row] - gradient[i]
            product = float(s.double() @ y.double())
            if product > 1e-5 * float(s.norm()) * float(y.norm()):  # else rounding
                pairs[i].append((s, y, 1 / product))
            x[i], value[i], gradient[i] = there[row], new_value[row], new_gradient[row]
        waiting = [j for j, accept in zip(waiting, fine.tolist(), strict=True) if not accept]
        if not waiting:
            break
        step[waiting] /= 2
    return [j not in waiting for j in range(len(active))]
