"""Sets hold the true class as often as they must: by MAPIE, by counting, by exchangeability."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from regraft.decision.answers import Answers
from regraft.decision.conformal import SetRule, answers_needed, fit_sets, threshold


def answers_of(true, labels=None):
    """Answers of which only the probability of the true class matters."""
    true = np.asarray(true, np.float32)
    labels = np.zeros(len(true), np.int64) if labels is None else np.asarray(labels)
    return Answers(labels, true, true, labels)


def drawn(random, n, k=4):
    probabilities = random.dirichlet(np.full(k, 0.5), n)
    labels = np.array([random.choice(k, p=p) for p in probabilities])
    return probabilities.astype(np.float32), labels


class Fixed:
    """A fitted classifier whose features are its probabilities."""

    classes_ = np.arange(4)

    def fit(self, *_):
        return self

    def predict(self, x):
        return x.argmax(1)

    def predict_proba(self, x):
        return x

    def __sklearn_is_fitted__(self):
        return True


def test_sets_are_those_of_mapie():
    classification = pytest.importorskip("mapie.classification")
    random = np.random.default_rng(3)
    levels = [0.5, 0.8, 0.85, 0.9, 0.95, 0.975]
    probabilities, labels = drawn(random, 157)
    probabilities[:40], labels[:40] = probabilities[40:80], labels[40:80]  # ties
    new = drawn(random, 60)[0]
    oracle = classification.SplitConformalClassifier(
        Fixed(), confidence_level=levels, conformity_score="lac", prefit=True
    )
    found = oracle.conformalize(probabilities, labels).predict_set(new)[1]  # (60, 4, 6)
    answers = Answers.of(probabilities, labels)
    for number, level in enumerate(levels):
        rule = fit_sets(answers, 4, level)
        inside = new >= rule.thresholds
        np.testing.assert_array_equal(inside, found[:, :, number])
        np.testing.assert_array_equal(
            rule.sets(new), inside | (np.arange(4) == new.argmax(1)[:, None])
        )


LEVELS = [Fraction(1, 2), Fraction(2, 3), Fraction(4, 5), Fraction(9, 10), Fraction(19, 20)]


@pytest.mark.parametrize("level", LEVELS)
def test_of_exchangeable_images_as_many_are_covered_as_are_aimed_at(level):
    """Each of n + 1 is as likely to be the new one: left out in turn, enough of them must be in.

    Where no two are equal, there are at most as many as the level asks for, and one more.
    """
    random = np.random.default_rng(4)
    for n in (*range(1, 12), 19, 20, 39):
        for scores in (random.permutation(n + 1) / 64, random.integers(0, 3, n + 1) / 4):
            covered = 0
            for new in range(n + 1):
                least = threshold(np.delete(scores, new).astype(np.float32), float(level))
                covered += least is None or scores[new] >= least
            assert covered >= level * (n + 1)
            if len({*scores}) == n + 1:
                assert covered == math.ceil(level * (n + 1))


def test_all_small_sets_with_ties_are_covered():
    """Every multiset of up to five scores of three values, at three levels."""
    for n, level in itertools.product(range(1, 5), (0.4, 0.5, 0.75)):
        for scores in itertools.combinations_with_replacement((0.25, 0.5, 1.0), n + 1):
            covered = 0
            for new in range(n + 1):
                rest = np.array(scores[:new] + scores[new + 1 :], np.float32)
                least = threshold(rest, level)
                covered += least is None or scores[new] >= least
            assert covered >= level * (n + 1)


@pytest.mark.parametrize("level", [0.1, 0.3, 2 / 3, 0.9, 0.95, 0.99, 0.999, 1 - 0.05, 0.1 + 0.2])
def test_there_is_a_threshold_from_the_number_of_answers_that_is_said(level):
    needed = answers_needed(level)
    assert threshold(np.linspace(0, 1, needed, dtype=np.float32), level) == 0.0
    assert needed == 1 or threshold(np.linspace(0, 1, needed - 1, dtype=np.float32), level) is None


@pytest.mark.parametrize(
    ("level", "needed"),
    [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999), (0.9999, 9_999), (0.99999, 99_999),
     (1 - 0.3, 3), (0.951, 20)],
)  # fmt: skip
def test_a_level_is_what_its_digits_say(level, needed):
    assert answers_needed(level) == needed


def test_the_least_and_the_largest_levels_are_no_errors():
    true = np.array([0.1, 0.9], np.float32)
    assert threshold(true, 1e-300) == np.float32(0.9)
    assert threshold(true, np.nextafter(1, 0)) is None
    assert answers_needed(np.nextafter(1, 0)) == 10**9 - 1
    assert threshold(np.zeros(0, np.float32), 0.5) is None


def test_a_threshold_is_reached_by_exactly_as_many_as_are_needed():
    true = np.random.default_rng(2).permutation(np.arange(1, 40, dtype=np.float32) / 64)
    for level in (0.05, 0.5, 0.9, 0.95, 0.97):
        assert (true >= threshold(true, level)).sum() == math.ceil(Fraction(str(level)) * 40)


def test_with_too_few_answers_each_set_has_all_classes():
    rule = fit_sets(answers_of(np.full(18, 0.9)), 3, 0.95)
    assert rule.thresholds.tolist() == [0, 0, 0]
    assert rule.sets(np.array([[1.0, 0.0, 0.0]], np.float32)).all()
    assert fit_sets(answers_of(np.full(19, 0.75)), 3, 0.95).thresholds.tolist() == [0.75] * 3


def test_a_set_is_never_empty_and_never_too_small():
    rule = SetRule(np.array([0.5, 0.875, 0.25]))
    probabilities = np.array([[0.4, 0.4, 0.2], [0.5, 0.25, 0.25], [0.0625, 0.875, 0.0625]])
    got = rule.sets(probabilities.astype(np.float32))
    assert got.tolist() == [[True, False, False], [True, False, True], [False, True, False]]
    assert rule.sets(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_each_class_has_the_threshold_of_its_own_answers():
    random = np.random.default_rng(8)
    labels = np.repeat([0, 1, 2], [19, 18, 60])
    true = random.random(97).astype(np.float32)
    answers = answers_of(true, labels)
    together = fit_sets(answers, 4, 0.95)
    assert (together.alone, {*together.thresholds}) == (0, {threshold(true, 0.95)})
    rule = fit_sets(answers, 4, 0.95, by="class")
    assert rule.alone == 2
    ordered = np.sort(true[labels == 2])
    assert rule.thresholds[0] == true[labels == 0].min()  # all 19 of 19
    assert rule.thresholds[2] == ordered[60 - 58]  # 58 of 61
    assert rule.thresholds[1] == rule.thresholds[3] == threshold(true, 0.95)  # 18 and no answers
