"""Promised precisions: bounds by scipy, the search by hand, and a promise that is kept."""

import itertools

import numpy as np
import pytest
from scipy import stats

from regraft.decision.answers import Answers
from regraft.decision.promise import fit_promise, lower_bound, rights_needed


def answers_of(confidence, right):
    confidence, right = np.asarray(confidence, np.float32), np.asarray(right, bool)
    answered = np.where(right, 0, 1)
    return Answers(np.zeros(len(right), np.int64), confidence, confidence, answered)


def surest_first(right):
    """Answers of falling confidence, no two alike."""
    return answers_of(np.linspace(0.99, 0.2, len(right)), right)


@pytest.mark.parametrize("n", [1, 2, 7, 60, 1003])
def test_bounds_are_those_of_scipys_exact_test(n):
    for right in {0, 1, n // 2, n - 1, n}:
        test = stats.binomtest(right, n, alternative="greater")
        wanted = test.proportion_ci(0.95, method="exact").low
        assert lower_bound(right, n) == pytest.approx(wanted, abs=1e-12)
        if right:
            assert lower_bound(right, n) == pytest.approx(
                stats.beta.ppf(0.05, right, n - right + 1)
            )


@pytest.mark.parametrize("precision", [0.01, 0.06, 0.5, 0.8, 0.95, 0.98, 0.99, 0.999])
def test_so_many_right_answers_bear_a_promise_and_one_less_does_not(precision):
    needed = rights_needed(precision)
    assert lower_bound(needed, needed) >= precision
    assert needed == 1 or lower_bound(needed - 1, needed - 1) < precision


@pytest.mark.parametrize(
    ("precision", "right", "needs", "there"),
    [
        (0.99, 180, "0.99 needs 299 right answers", "are 180; 0.97 can be promised"),
        (0.95, 58, "0.95 needs 59 right answers", "are 58; 0.91 can be promised"),
        (0.95, 1, "0.95 needs 59 right answers", "is 1; 0.02 can be promised"),
        (0.95, 0, "0.95 needs 59 right answers", "are 0; no other can be promised"),
        (0.9995, 1234, "0.9995 needs 5,990 right answers", "are 1,234; 0.99 can be promised"),
    ],
)
def test_too_few_right_answers_bear_no_promise_and_the_reason_says_how_many_are_needed(
    precision, right, needs, there
):
    reason = f"{needs} and no wrong one among them, and there {there}"
    promise = fit_promise(surest_first([True] * right + [False] * 400), precision)
    assert (promise.threshold, promise.answered, promise.reason) == (None, 0, reason)
    assert promise.precision == precision


def test_no_answers_bear_no_promise():
    assert fit_promise(surest_first([]), 0.9).reason == (
        "0.9 needs 29 right answers and no wrong one among them, and there are 0; "
        "no other can be promised"
    )


def test_as_few_as_are_needed_bear_a_promise_if_all_are_right():
    promise = fit_promise(surest_first([True] * 59), 0.95)
    assert promise.threshold == np.float32(0.2)
    assert (promise.answered, promise.reason) == (1, "")


def test_where_the_surest_answers_are_not_right_enough_the_reason_says_what_it_takes():
    """Of 101, one less than 99 right is a lower bound below 0.95."""
    assert lower_bound(99, 101) < 0.95 <= lower_bound(100, 101)
    wrong = {5, 17}
    promise = fit_promise(surest_first([k not in wrong for k in range(300)]), 0.95)
    assert (promise.precision, promise.threshold) == (0.95, None)
    assert promise.reason == (
        "0.95 allows 1 wrong answer among the surest 101, and there are 2; 0.74 can be promised"
    )
    promise = fit_promise(surest_first([k != 5 for k in range(300)]), 0.95)
    assert promise.threshold is not None
    alone = fit_promise(answers_of([0.9], [True]), 0.04)
    assert alone.threshold == np.float32(0.9)


def test_of_few_answers_none_may_be_wrong():
    promise = fit_promise(surest_first([True] * 365 + [False] * 41), 0.99)
    assert promise.reason == (
        "0.99 allows no wrong answer among the surest 406, and there are 41; 0.98 can be promised"
    )
    assert fit_promise(surest_first([True] * 365 + [False] * 41), 0.98).threshold is not None


def test_answers_of_equal_confidence_are_given_together():
    """200 of confidence 1, of which the first in the file are right: all of them count."""
    answers = answers_of([1.0] * 200 + [0.5] * 50, [True] * 150 + [False] * 50 + [True] * 50)
    promise = fit_promise(answers, 0.95)
    assert promise.threshold is None
    assert promise.reason == (
        "0.95 allows 4 wrong answers among the surest 200, and there are 50; 0.69 can be promised"
    )
    right = answers_of([1.0] * 200 + [0.5] * 50, [True] * 200 + [False] * 50)
    promise = fit_promise(right, 0.95)
    assert (promise.threshold, promise.answered) == (1.0, 0.8)


def searched(answers, precision):
    """The search as it is described, with scipy's test at each of fifty thresholds."""
    n, first = len(answers), int(np.ceil(1.7 * rights_needed(precision)))
    confidences, found = sorted(answers.confidence.tolist(), reverse=True), None
    for step in range(50):
        count = round(min(first, n) + step * (n - min(first, n)) / 49)
        given = answers.confidence >= confidences[count - 1]
        right = int(answers.right[given].sum())
        test = stats.binomtest(right, int(given.sum()), precision, alternative="greater")
        if test.pvalue > 0.05:
            return found
        found = confidences[count - 1], given.sum() / n
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_last_threshold_before_the_first_failure_is_taken(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(110, 700))
    confidence = random.random(n).astype(np.float32) ** 0.25
    if seed % 2:
        confidence = confidence.round(2)
    answers = answers_of(confidence, random.random(n) < 1 - 0.3 * (1 - confidence))
    for precision in (0.9, 0.95, 0.97):
        promise, wanted = fit_promise(answers, precision), searched(answers, precision)
        got = None if promise.threshold is None else (promise.threshold, promise.answered)
        assert got == wanted
        assert bool(promise.reason) == (wanted is None)


def test_a_lucky_threshold_after_a_failure_is_not_taken():
    right = np.ones(2000, bool)
    right[110:160] = False  # later, the share of all is above the promise again
    promise = fit_promise(surest_first(right), 0.95)
    assert promise.answered < 0.1
    assert lower_bound(1950, 2000) > 0.95


def test_the_order_of_the_answers_does_not_matter():
    random = np.random.default_rng(3)
    confidence = random.random(400).round(2)
    right = random.random(400) < 0.98
    order = random.permutation(400)
    one = fit_promise(answers_of(confidence, right), 0.9)
    assert one.threshold is not None
    assert fit_promise(answers_of(confidence[order], right[order]), 0.9) == one


def test_the_first_threshold_passes_by_chance_in_at_most_five_of_a_hundred():
    """Where each answer is right a little less often than promised: exactly, by the binomial."""
    for precision in (0.9, 0.95, 0.99):
        n = int(np.ceil(1.7 * rights_needed(precision)))
        enough = next(k for k in itertools.count() if lower_bound(k, n) >= precision)
        assert stats.binom.sf(enough - 1, n, precision) <= 0.05
        assert stats.binom.sf(enough - 2, n, precision) > 0.05


def test_in_a_simulation_the_promise_is_broken_in_at_most_five_of_a_hundred():
    """Confidences are uniform; an answer of confidence c is right with a chance of c ** 0.1.

    The precision above t is the mean of that, and it is 0.95 at one t.
    """
    random = np.random.default_rng(12)

    def precision_above(t):
        return (1 - t**1.1) / (1.1 * (1 - t))

    broken, promised, sets = 0, 0, 400
    for _ in range(sets):
        confidence = random.random(400)
        right = random.random(400) < confidence**0.1
        promise = fit_promise(answers_of(confidence, right), 0.95)
        promised += promise.threshold is not None
        broken += promise.threshold is not None and precision_above(promise.threshold) < 0.95
    assert promised > 0.3 * sets
    assert broken / sets < 0.05 + 3 * (0.05 * 0.95 / sets) ** 0.5
