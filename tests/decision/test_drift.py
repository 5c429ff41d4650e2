"""Drift: p-values by counting all draws, the level where nothing has changed, the power."""

import itertools

import numpy as np
import pytest
from scipy.stats import fisher_exact, norm

from regraft.decision import drift
from regraft.decision.drift import compare_shares, compare_typicality


def p_values_of(scores, new):
    return (1 + (scores[None] >= new[:, None]).sum(1)) / (len(scores) + 1)


def strangeness(everybody):
    """Share that is at least as strange, of each of all."""
    return [sum(other >= each for other in everybody) / len(everybody) for each in everybody]


def typicality_by_all_draws(scores, new):
    """The p-value over every way to call so many of all images new."""
    everybody = [*scores, *new]
    shares = np.array(strangeness(everybody))
    weights = np.stack([-shares, np.round(-16 * np.log(shares)) / 16])
    m = len(new)
    means = np.array(
        [weights[:, list(some)].sum(1) for some in itertools.combinations(range(len(shares)), m)]
    )
    found = weights[:, -m:].sum(1)
    standard = (means - means.mean(0)) / means.std(0)
    own = ((found - means.mean(0)) / means.std(0)).max()
    return (standard.max(1) >= own - 1e-9).mean()


@pytest.mark.parametrize("shift", [-1, 0, 1, 2])
def test_the_p_value_is_that_of_all_draws(shift):
    rng = np.random.default_rng(3)
    scores, new = rng.normal(size=13), rng.normal(shift, 1, size=4)
    exact = typicality_by_all_draws(scores, new)
    # Four standard errors of 9,999 draws; shares are rounded to a sixteenth of their logarithm.
    assert compare_typicality(p_values_of(scores, new), 13) == pytest.approx(exact, abs=0.02)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(drift, "DRAWS", 999)


def test_the_level_is_kept_where_p_values_taken_for_independent_break_it(few_draws):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        p = p_values_of(*np.split(rng.normal(size=240), [40]))
        taken = norm.cdf((p.mean() - 21 / 41) * np.sqrt(12 * 200))
        found.append((compare_typicality(p, 40), taken))
    right, wrong = (np.array(found) <= 0.05).mean(0)
    assert right == pytest.approx(0.05, abs=0.038)  # three standard errors
    assert wrong > 0.15  # 0.25 on average: scores and images are 40 and 200


def test_more_typical_images_are_no_drift():
    p_values = np.linspace(0.5, 1, 50)
    assert compare_typicality(p_values, 400) > 0.99


def test_images_that_are_all_somewhat_stranger_are_found_and_a_few_that_are_much():
    even = (np.arange(100) + 0.5) / 100
    assert compare_typicality(even, 500) > 0.2
    assert compare_typicality(even * 0.7, 500) < 0.01
    few = even.copy()
    few[-8:] = 1 / 501
    assert compare_typicality(few, 500) < 0.001


def test_the_smallest_p_value_is_one_of_ten_thousand():
    assert compare_typicality(np.full(30, 1 / 501), 500) == 0.0001


def test_shares_are_those_of_the_answers():
    found = compare_shares(np.array([0, 0, 1, 2]), np.repeat([0, 1, 2], [10, 30, 60]), 3)
    assert found.expected.tolist() == [0.1, 0.3, 0.6]
    assert found.found.tolist() == [0.5, 0.25, 0.25]


def test_the_p_value_of_shares_of_two_classes_is_that_of_fishers_exact_test():
    known, new = np.repeat([0, 1], [20, 20]), np.repeat([0, 1], [9, 1])
    exact = fisher_exact([[20, 20], [9, 1]]).pvalue  # tables as improbable: here, as distant
    assert compare_shares(new, known, 2).p_value == pytest.approx(exact, abs=0.012)


def test_the_level_of_shares_is_kept_and_other_shares_are_found(few_draws):
    rng = np.random.default_rng(1)
    small, other = [], []
    for _ in range(60):
        known, same = (rng.choice(3, n, p=[0.6, 0.3, 0.1]) for n in (80, 30))
        small.append(compare_shares(same, known, 3).p_value)
        other.append(compare_shares(rng.choice(3, 30, p=[0.2, 0.3, 0.5]), known, 3).p_value)
    assert (np.array(small) <= 0.05).mean() <= 0.14  # 0.05, and three standard errors
    assert np.mean(small) == pytest.approx(0.5, abs=0.12)
    assert (np.array(other) <= 0.05).mean() > 0.8


def test_a_class_that_neither_has_changes_nothing():
    known, new = np.repeat([0, 1], [40, 60]), np.repeat([0, 1], [9, 3])
    with_one = compare_shares(new, known, 3)
    assert with_one.found.tolist() == [0.75, 0.25, 0]
    assert with_one.p_value == pytest.approx(compare_shares(new, known, 2).p_value, abs=0.02)
