"""Groups of images that are alike: which are joined, in which order, and however many there are."""

import numpy as np
import pytest

from regraft.decision import alike
from regraft.decision.alike import distance_within, group_alike, most_central
from regraft.decision.typicality import fit_centre, fit_neighbours


def kinds(sizes, seed=0, width=16):
    """Rows near a few axes, mixed; and the axis of each row."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(kind)
    rows = np.eye(width)[kind] + rng.normal(0, 0.05, (len(kind), width))
    return (rows * rng.uniform(1, 9, (len(kind), 1))).astype(np.float32), kind


def test_images_of_one_kind_are_a_group_and_the_largest_comes_first():
    rows, kind = kinds([5, 40, 17])
    assert group_alike(rows, 0.4).tolist() == [[2, 0, 1][each] for each in kind]


def test_groups_of_one_size_are_in_the_order_of_their_first_images():
    rows = np.eye(4, dtype=np.float32)[[2, 0, 0, 2, 1]]
    assert group_alike(rows, 0.4).tolist() == [0, 1, 1, 0, 2]


def test_more_images_than_are_compared_are_put_to_the_nearest_group(monkeypatch):
    monkeypatch.setattr(alike, "MOST_COMPARED", 60)
    monkeypatch.setattr(alike, "_AT_ONCE", 64)
    rows, kind = kinds([30, 200, 70], seed=1)
    assert group_alike(rows, 0.4).tolist() == [[2, 0, 1][each] for each in kind]


@pytest.mark.parametrize("n", [0, 1])
def test_few_images_are_no_error(n):
    assert group_alike(np.ones((n, 3), np.float32), 0.4).tolist() == [0] * n


def test_a_larger_distance_joins_more():
    rows = np.array([[1, 0], [1, 1], [0, 1]], np.float32)  # 1 - cos 45 degrees is 0.29
    assert group_alike(rows, 0.28).max() == 2
    assert group_alike(rows, 0.3).max() == 1
    assert group_alike(rows, 0.9).max() == 0


def test_the_distance_is_that_of_the_training_where_the_bundle_knows_it():
    rows = np.random.default_rng(0).normal(1, 1, (200, 8)).astype(np.float32)
    bank = fit_neighbours(rows)
    within = distance_within(bank)
    distances = 1 - np.corrcoef(np.hstack([rows, -rows]))  # of rows around 0, the cosine
    fifth = np.sort(distances, axis=1)[:, 5]
    assert 145 <= (fifth <= within).sum() <= 155
    assert distance_within(fit_centre(rows)) == 0.4


def test_the_most_central_image_comes_first():
    rows = np.array([[9, 9], [1, 0], [1, 0.2], [2, 0.8]], np.float32)
    assert most_central(rows, np.array([1, 2, 3])).tolist() == [2, 3, 1]
