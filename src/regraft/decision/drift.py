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
#: Bounds where images are alike, or a model is unsure of everything.
_LEAST_VARIANCE, _LEAST_RATIO = 1e-9, 0.05
_AT_ONCE = 500  # draws in one table


@dataclass(frozen=True)
class ComparedShares:
    """Shares of K classes, and how well chance explains that they differ.

    Parameters
    ----------
    expected : array of shape (K,), float64
        Shares in the training.
    found : array of shape (K,), float64
        Mean probabilities of the new images.
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
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], n_classes: int
) -> ComparedShares:
    """Return the classes' shares among new images, compared with those of the training's labels.

    The share of a class is the mean of its probability. Where two classes are confused, answers
    prefer the more frequent one, and their shares are not those of the labels; the mean of
    calibrated probabilities is. It varies less than a share of answers does, as if the images were
    more (Rao and Scott, On chi-squared tests for multiway contingency tables, 1984). The model was
    fitted to labels with the very shares that are compared, which makes the test careful.

    Parameters
    ----------
    probabilities : array of shape (m, K), float32
        Of the new images, one of each unit; as where no class counts more than another.
    labels : array of shape (n,), int64
        True classes of images of the training, one of each unit.
    n_classes : int
        K.

    Examples
    --------
    >>> labels = np.arange(100) % 2
    >>> same, others = (np.eye(2, dtype=np.float32)[each] for each in (labels[:50], [0] * 50))
    >>> compare_shares(same, labels, 2).p_value, compare_shares(others, labels, 2).p_value
    (1.0, 0.0001)
    """
    n = len(labels)
    known = np.bincount(labels, minlength=n_classes) / n
    new = probabilities.mean(0, dtype=np.float64)
    new /= new.sum()
    m = round(len(probabilities) / _relative_variance(probabilities, new))
    pooled = (n * known + m * new) / (n + m)
    found = _distance(known[None], new[None], pooled)[0]
    rng, extreme = np.random.default_rng(0), 0
    for start in range(0, DRAWS, _AT_ONCE):
        size = min(_AT_ONCE, DRAWS - start)
        one, other = (rng.multinomial(each, pooled, size) / each for each in (n, m))
        both = (n * one + m * other) / (n + m)
        extreme += int((_distance(one, other, both) >= found * (1 - 1e-9)).sum())
    return ComparedShares(known, new, (1 + extreme) / (DRAWS + 1))


def _relative_variance(probabilities: NDArray[np.float32], means: NDArray[np.float64]) -> float:
    """Return the variance of probabilities (m, K), summed, over that of answers with these means.

    Examples
    --------
    >>> sure, unsure = np.array([[1, 0], [0, 1]]), np.array([[0.75, 0.25], [0.25, 0.75]])
    >>> [float(_relative_variance(each, np.array([0.5, 0.5]))) for each in (sure, unsure)]
    [1.0, 0.25]
    """
    of_answers = 1 - np.square(means).sum()
    if of_answers < _LEAST_VARIANCE:  # all of one class
        return 1
    squares = np.square(probabilities, dtype=np.float64).sum(1).mean()
    return max(float((squares - np.square(means).sum()) / of_answers), _LEAST_RATIO)


def _distance(
    known: NDArray[np.float64], new: NDArray[np.float64], pooled: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the chi-square distance (R,) of shares (R, K) and other shares (R, K)."""
    squares = np.square(known - new)
    result: NDArray[np.float64] = np.divide(
        squares, pooled, out=np.zeros(squares.shape), where=pooled > 0
    ).sum(1)
    return result
