"""Sets of classes that are aimed to hold the true one in a given share of images.

The set of an image has every class whose probability reaches a threshold, and the most probable one
in any case (Sadinle, Lei and Wasserman, Least ambiguous set-valued classifiers with bounded error
levels, JASA 2019). The threshold comes from out-of-fold answers: as many of them must reach it as
the coverage says, with one more image counted as if it did not.

The theorem is about images that are exchangeable and models that are the same. Here the
out-of-fold answers come from models of folds, and the sets from the final one: the coverage is
aimed at, and measured on the test part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.decision.answers import Answers

CoverageBy = Literal["all", "class"]


@dataclass(frozen=True)
class SetRule:
    """The least probability with which a class is in the set.

    Parameters
    ----------
    thresholds : array of shape (K,), float64
        For each class, 0 to 1; 0 if the answers are too few for any threshold.
    alone : int
        Classes with a threshold of their own.
    """

    thresholds: NDArray[np.float64]
    alone: int = 0

    def sets(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which classes are in the set of each image (N, K); never none.

        Examples
        --------
        >>> rule = SetRule(np.array([0.3, 0.3, 0.3]))
        >>> rule.sets(np.array([[0.5, 0.4, 0.1], [0.2, 0.2, 0.6]], np.float32)).sum(1).tolist()
        [2, 1]
        """
        inside = probabilities >= self.thresholds
        inside[np.arange(len(probabilities)), probabilities.argmax(1)] = True
        return inside


def threshold(true: NDArray[np.float32], coverage: float) -> float | None:
    """Return the threshold that a share ``coverage`` of true classes reaches; None if n is too few.

    Of n answers and one more, the ``ceil(coverage * (n + 1))`` most probable must reach it.

    Examples
    --------
    >>> threshold(np.linspace(0.05, 0.95, 19), 0.9), threshold(np.linspace(0, 1, 8), 0.9)
    (0.1, None)
    """
    n = len(true)
    needed = math.ceil(_exact(coverage) * (n + 1))
    return float(np.sort(true)[n - needed]) if needed <= n else None


def answers_needed(coverage: float) -> int:
    """Return the number of answers from which there is a threshold.

    Examples
    --------
    >>> answers_needed(0.95), answers_needed(0.99)
    (19, 99)
    """
    share = _exact(coverage)
    return math.ceil(share / (1 - share))


def _exact(coverage: float) -> Fraction:
    """Return 19/20 for 0.95, which no float is: with it, 19 answers are enough, and not 20."""
    tiny = Fraction(1, 10**9)
    return min(max(Fraction(coverage).limit_denominator(10**9), tiny), 1 - tiny)


def fit_sets(answers: Answers, n_classes: int, coverage: float, by: CoverageBy = "all") -> SetRule:
    """Return the rule for sets that hold the true class in a share ``coverage`` of images.

    With ``by`` "class", the share is aimed at in each class: a class with enough answers has a
    threshold of its own, and the others have that of all.
    """
    common = threshold(answers.true, coverage)
    thresholds = np.full(n_classes, 0.0 if common is None else common)
    if by == "all":
        return SetRule(thresholds)
    alone = 0
    order = np.argsort(answers.labels)  # once, not a pass for each class
    ends = np.cumsum(np.bincount(answers.labels))
    for k, true in enumerate(np.split(answers.true[order], ends[:-1])):
        own = threshold(true, coverage)
        if own is not None:
            thresholds[k], alone = own, alone + 1
    return SetRule(thresholds, alone)
