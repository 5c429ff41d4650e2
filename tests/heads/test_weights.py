"""Weights of rows and of classes, by their definition, and those that a user gives."""

import re

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from regraft.errors import InputError
from regraft.heads.fit import check_weights, class_weights, sample_weights


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_scikit_learns_where_each_row_counts_once(seed):
    y = np.random.default_rng(seed).integers(0, 4, 30) + 1  # class 0 has no row
    expected = compute_class_weight("balanced", classes=np.arange(1, 5), y=y)
    assert class_weights(y, 6) == pytest.approx([0, *expected, 0])
    assert sample_weights(y, 6, "balanced") == pytest.approx(compute_sample_weight("balanced", y))
    assert sample_weights(y, 6, "none").tolist() == [1] * 30


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_rows_keep_their_ratios_within_a_class_and_have_a_mean_of_one(seed):
    chance = np.random.default_rng(seed)
    y, own = chance.integers(0, 3, 30), chance.uniform(0.1, 5, 30)
    assert sample_weights(y, 4, "none", own) == pytest.approx(own * 30 / own.sum())
    sums = [own[y == label].sum() for label in range(3)]  # each class has a third of 30 in all
    expected = [weight * 10 / sums[label] for weight, label in zip(own, y, strict=True)]
    assert sample_weights(y, 4, "balanced", own) == pytest.approx(expected)
    by_class = class_weights(y, 4, own)
    assert by_class == pytest.approx([sum(sums) / 3 / total for total in sums] + [0])


def test_the_least_weight_is_a_millionth_of_a_millionth_of_the_largest():
    found = sample_weights(np.zeros(3, np.int64), 2, "none", np.array([1e-30, 1e-11, 1.0]) * 7e300)
    assert found / found.max() == pytest.approx([1e-12, 1e-11, 1], rel=1e-9, abs=0)


@pytest.mark.parametrize("head", ["logistic", "ridge", "mean"])
def test_weights_that_a_user_gives_are_those_of_the_images(head):
    for given in ([1, 0, 2.5], np.array([1, 0, 2.5], np.float32), ("1", "0", "2.5")):
        found = check_weights(given, 3, head)
        assert found.dtype == np.float64
        assert found.tolist() == [1, 0, 2.5]
    assert check_weights(2, 3, head).tolist() == [2, 2, 2]
    assert check_weights(None, 3, head).tolist() == [1, 1, 1]
    assert check_weights(None, 3, "knn").tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("given", "head", "message"),
    [
        ([1, 2, 3], "knn", "head knn cannot use sample_weight: a neighbour is a whole image"),
        (["much", 1, 2], "ridge", "sample_weight holds no numbers: "),
        (object(), "ridge", "sample_weight holds no numbers: "),
        ([1, 2], "ridge", "sample_weight of shape (2,) does not belong to 3 images"),
        ([[1, 2, 3]], "ridge", "sample_weight of shape (1, 3) does not belong to 3 images"),
        ([1, 0, -2.0], "ridge", "sample_weight of image 2 is -2.0; a weight is a finite number"),
        ([1, np.inf, -1], "ridge", "sample_weight of image 1 is inf; a weight is a finite number"),
        (np.nan, "ridge", "sample_weight of image 0 is nan; a weight is a finite number"),
        ([0, 0, 0], "ridge", "sample_weight is zero for every image"),
    ],
)
def test_weights_that_mean_nothing_are_an_error_that_says_why(given, head, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        check_weights(given, 3, head)
