"""Drift: whether new images are less typical than the training's, and the classes' shares others.

Both tests count one image of each unit, and draw what there would be if nothing had changed.
docs/design/decisions-drift.md has their measured levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Draws of a test: the smallest p-value is 1 / (DRAWS + 1).
DRAWS = 9_999
_STEPS = 16  # of a weight of 1; weights are rounded, so that images of one weight are drawn at once
_AT_ONCE = 500  # draws in one table


@dataclass(frozen=True)
class ComparedShares:
    """Shares of K classes, and how well chance explains that they differ.

    Parameters
    ----------
    expected : array of shape (K,), float64
        Shares of the answers for images of the training.
    found : array of shape (K,), float64
        Shares of the answers for new images.
    p_value : float
        Small where the shares are others.
    """

    expected: NDArray[np.float64]
    found: NDArray[np.float64]
    p_value: float


def compare_typicality(p_values: NDArray[np.float64], n_scores: int) -> float:
    """Return the p-value of "new images are as typical as the training's"; small: they are less.

    The strangeness of each image among all, those of the training and the new ones, is the share
    that is at least as strange. Two means of the new images are compared with those of as many
    images drawn from all: of the shares, which finds that most images are somewhat stranger, as the
    test of Mann and Whitney does; and of their logarithms, as in Fisher's test, which finds that a
    few are much stranger. The one that differs more counts, in every draw too.

    To take the p-values for independent would be wrong: they share one bank and one set of scores,
    so that all are small together, or large. Here scores and new images are drawn together, and
    what they share cancels.

    Parameters
    ----------
    p_values : array of shape (m,), float64
        Typicality of the new images, one of each unit.
    n_scores : int
        Scores of the training that the p-values come from.

    Examples
    --------
    >>> compare_typicality(np.linspace(0.05, 0.95, 19), 100) > 0.3
    True
    >>> compare_typicality(np.full(20, 0.05), 100) < 0.001
    True
    """
    # A p-value tells how many scores are at least as strange: the place of the image among them.
    places = np.rint(p_values * (n_scores + 1)) - 0.5
    everybody = np.concatenate([np.arange(1, n_scores + 1), places])
    # Images between the same two scores are all new: their order changes nothing.
    at_least = np.empty(len(everybody))
    at_least[np.argsort(everybody, kind="stable")] = np.arange(1, len(everybody) + 1)
    at_least /= len(everybody)
    steps, kind = np.unique(np.rint(-np.log(at_least) * _STEPS), return_inverse=True)
    values = np.stack([steps / _STEPS, -np.exp(-steps / _STEPS)], axis=1)  # (kinds, 2)
    rng = np.random.default_rng(0)
    # Of each kind so many as a draw of m of all images has; first what was found.
    drawn = rng.multivariate_hypergeometric(
        np.bincount(kind), len(p_values), size=DRAWS, method="marginals"
    )
    counts = np.vstack([np.bincount(kind[n_scores:], minlength=len(steps)), drawn])
    means = counts @ values
    spread = np.maximum(means.std(0), 1e-12)
    most = ((means - means.mean(0)) / spread).max(1)
    return float((most >= most[0] - 1e-9).mean())


def compare_shares(
    new: NDArray[np.int64], known: NDArray[np.int64], n_classes: int
) -> ComparedShares:
    """Return the classes' shares among new answers, compared with those of the training.

    Answers are compared with answers, and not with labels: where two classes are confused, answers
    prefer one of them. The chi-square distance of the two shares is compared with that of as many
    answers drawn from all.

    Parameters
    ----------
    new : array of shape (m,), int64
        Classes that were answered for new images, one of each unit.
    known : array of shape (n,), int64
        Classes that were answered for images of the training, by models that had not seen them.
    n_classes : int
        K.

    Examples
    --------
    >>> known = np.arange(100) % 2
    >>> [compare_shares(new, known, 2).p_value for new in (known[:50], known[:50] * 0)]
    [1.0, 0.0001]
    """
    n, m = len(known), len(new)
    of_new = np.bincount(new, minlength=n_classes)
    both = of_new + np.bincount(known, minlength=n_classes)
    found = _distance(of_new[None], both)[0]
    rng, extreme = np.random.default_rng(0), 0
    for start in range(0, DRAWS, _AT_ONCE):
        size = min(_AT_ONCE, DRAWS - start)
        drawn = rng.multivariate_hypergeometric(both, m, size=size, method="marginals")
        extreme += int((_distance(drawn, both) >= found * (1 - 1e-9)).sum())
    return ComparedShares((both - of_new) / n, of_new / m, (1 + extreme) / (DRAWS + 1))


def _distance(new: NDArray[np.int64], both: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the chi-square distance (R,) of new counts (R, K) and the rest of all counts (K,)."""
    m = new.sum(1, keepdims=True)
    differences = new / m - (both - new) / (both.sum() - m)
    result: NDArray[np.float64] = (differences**2 / np.maximum(both, 1)).sum(1)
    return result
