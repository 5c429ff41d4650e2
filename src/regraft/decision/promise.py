"""Abstaining: a least probability at which answers are right in a promised share of cases.

Thresholds are tried from the strictest to the most lenient. At each, the precision of the
out-of-fold answers that reach it is tested against the promise; the first that fails ends the
search, and the last that passed is taken. Because the order does not depend on which answers are
right, the chance that a threshold below the promise passes is 5 % in all (fixed sequence testing:
Angelopoulos, Bates, Candès, Jordan and Lei, Learn then test, Annals of Applied Statistics 2025).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import counted

if TYPE_CHECKING:
    from regraft.decision.answers import Answers

#: Chance that the precision is below the promise.
ERROR = 0.05
_TRIED = 50
#: Answers of the first threshold, as a multiple of the least that can pass: with only these, a
#: single mistake would end the search.
_FIRST = 1.7


@dataclass(frozen=True)
class Promise:
    """A threshold for the confidence, or the reason why there is none.

    Parameters
    ----------
    precision : float
        Promised share of right answers, among those that are given.
    threshold : float, optional
        Least confidence of an answer that is given; None if no threshold can be promised.
    reason : str
        Why there is none; else empty.
    answered : float
        Share of the out-of-fold answers that reach the threshold.
    """

    precision: float
    threshold: float | None
    reason: str = ""
    answered: float = 0.0


def rights_needed(precision: float) -> int:
    """Return the number of right answers, without a wrong one, that can bear a promise.

    Examples
    --------
    >>> rights_needed(0.95), rights_needed(0.98), rights_needed(0.99)
    (59, 149, 299)
    """
    return math.ceil(math.log(ERROR) / math.log(precision))


def lower_bound(right: int, n: int) -> float:
    """Return the one-sided lower bound of a share of right answers (Clopper and Pearson 1934).

    Examples
    --------
    >>> round(lower_bound(59, 59), 4), round(lower_bound(90, 100), 4), lower_bound(0, 5)
    (0.9505, 0.8363, 0.0)
    """
    from scipy import special  # noqa: PLC0415 - 0.3 s, and most answers need no promise

    return float(special.betaincinv(right, n - right + 1, ERROR)) if right else 0.0


def fit_promise(answers: Answers, precision: float) -> Promise:
    """Return the most lenient threshold at which ``precision`` can be promised."""
    promise = _searched(answers, precision)
    if promise.threshold is not None:
        return promise
    lower = (k / 100 for k in range(99, 0, -1) if k / 100 < precision)
    possible = next((p for p in lower if _searched(answers, p).threshold is not None), None)
    had = "no other can be promised" if possible is None else f"{possible:g} can be promised"
    return replace(promise, reason=f"{promise.reason}; {had}")


def _searched(answers: Answers, precision: float) -> Promise:
    """Return the threshold, or the reason why there is none."""
    n, needed = len(answers), rights_needed(precision)
    n_right = int(answers.right.sum())
    if n_right < needed:
        what = counted(needed, "right answer")
        reason = (
            f"{precision:g} needs {what} and no wrong one among them, and there {_are(n_right)}"
        )
        return Promise(precision, None, reason)
    order = np.argsort(-answers.confidence)
    confidence, right = answers.confidence[order], np.cumsum(answers.right[order])
    first = min(math.ceil(_FIRST * needed), n)
    found: Promise | None = None
    for count in np.unique(np.linspace(first, n, _TRIED).round().astype(int)):
        threshold = confidence[count - 1]
        # Answers of equal confidence are given together.
        given = int(np.searchsorted(-confidence, -threshold, side="right"))
        hits = int(right[given - 1])
        if lower_bound(hits, given) < precision:
            break
        found = Promise(precision, float(threshold), answered=given / n)
    if found is not None:
        return found
    enough = bisect_left(range(given), x=True, key=lambda k: lower_bound(k, given) >= precision)
    allowed = counted(given - enough, "wrong answer") if enough < given else "no wrong answer"
    reason = (
        f"{precision:g} allows {allowed} among the surest {given:,}, and there {_are(given - hits)}"
    )
    return Promise(precision, None, reason)


def _are(n: int) -> str:
    return "is 1" if n == 1 else f"are {n:,}"
