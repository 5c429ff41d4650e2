"""The paired test and its correction."""

import numpy as np
import pytest
from scipy import stats

from regraft.evaluation.intervals import of_difference
from regraft.evaluation.paired import compare_pairs, holm


def answers(both, first, second, neither):
    """Return which of two models is right on each image, with so many images of each kind."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    return np.repeat(np.array(kinds), [both, first, second, neither], axis=0).T


def test_mcnemar_is_the_exact_test_of_the_images_that_one_alone_has_right():
    (found,) = compare_pairs(answers(50, 15, 5, 10))
    assert (found.only_first, found.only_second) == (15, 5)
    assert found.value == 10 / 80
    # Twice the binomial tail, since a fair coin's distribution is symmetric.
    assert found.p == found.p_holm == pytest.approx(2 * stats.binom.cdf(5, 20, 0.5))
    assert found.significant


def test_the_interval_covers_the_true_difference_as_often_as_it_claims():
    """95 of 100 intervals hold the true difference; of 400, the share has a deviation of 0.011."""
    random = np.random.default_rng(0)
    shares = np.array([0.5, 0.2, 0.1, 0.2])  # the true difference is 0.1
    covered = 0
    for _ in range(400):
        (found,) = compare_pairs(answers(*random.multinomial(300, shares)))
        covered += found.low <= 0.1 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_models_that_agree_everywhere_do_not_differ():
    (found,) = compare_pairs(answers(30, 0, 0, 10))
    assert (found.value, found.p) == (0, 1)
    # Not a point: 40 images prove no equality. 1.96^2 / (40 + 1.96^2), where a share is 0.
    assert (found.low, found.high) == pytest.approx((-0.0876, 0.0876), abs=1e-4)
    assert not found.significant


def test_the_order_of_the_models_changes_only_the_sign():
    right = answers(50, 12, 6, 10)
    (one,), (two,) = compare_pairs(right), compare_pairs(right[::-1])
    assert (one.value, one.p) == (-two.value, two.p)
    assert one.low == pytest.approx(-two.high)


def test_holm_as_in_his_paper():
    """The step-down definition, written out: reject in order while p <= 0.05 / (m - k)."""
    random = np.random.default_rng(1)
    for _ in range(200):
        p = random.uniform(0, 0.1, random.integers(1, 8))
        rejected = np.zeros(len(p), dtype=bool)
        for k, at in enumerate(np.argsort(p)):
            if p[at] > 0.05 / (len(p) - k):
                break
            rejected[at] = True
        assert np.array_equal(holm(p) <= 0.05, rejected)
        assert (holm(p) >= p).all()
        assert holm(p).max() <= 1


def test_a_corrected_p_value_is_the_least_level_at_which_its_pair_is_rejected():
    """Max over j <= i of (m - j + 1) p_(j), at most 1; equal ones, and ones near 1, as well."""
    random = np.random.default_rng(3)
    for _ in range(100):
        p = random.integers(0, 9, random.integers(1, 7)) / 8
        for each, corrected in zip(p, holm(p), strict=True):
            steps = [(len(p) - j) * low for j, low in enumerate(sorted(p)) if low <= each]
            assert corrected == min(max(steps), 1)


def test_every_pair_is_compared_in_the_order_of_the_rows():
    right = np.random.default_rng(4).random((4, 30)) < [[0.9], [0.5], [0.7], [0.3]]
    found = compare_pairs(right)
    assert [each[:2] for each in found] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for each in found:
        first, second = right[each.first].tolist(), right[each.second].tolist()
        kinds = list(zip(first, second, strict=True))
        assert each.only_first == kinds.count((True, False))
        assert each.only_second == kinds.count((False, True))
        assert each.value == pytest.approx((sum(first) - sum(second)) / 30)
        assert (each.low, each.high) == of_difference(each.only_first, each.only_second, 30)
        fewer, both = min(each[2:4]), each.only_first + each.only_second
        assert each.p == pytest.approx(min(1, 2 * stats.binom.cdf(fewer, both, 0.5)))
        assert each.significant == (each.p_holm < 0.05)
    assert [each.p_holm for each in found] == holm(np.array([each.p for each in found])).tolist()
    assert len({each.significant for each in found}) == 2


def test_many_models_that_guess_seldom_differ():
    """Of ten models that all guess, uncorrected tests find a difference every other time."""
    random = np.random.default_rng(2)
    corrected = uncorrected = 0
    for _ in range(12):
        found = compare_pairs(random.random((10, 200)) < 0.5)
        corrected += any(each.significant for each in found)
        uncorrected += any(each.p < 0.05 for each in found)
    assert corrected <= 2  # at most 0.6 are expected
    assert uncorrected >= 4
