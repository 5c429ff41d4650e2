"""Folds: stratified, clusters kept together, the same for any order of the samples."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from regraft.splits.folds import assign_folds, cluster_classes


def keys_of(count):
    return [hashlib.sha256(str(index).encode()).digest() for index in range(count)]


def assert_folds_sound(labels, clusters, folds, n_folds):
    assert folds.min() >= -1
    assert folds.max() < n_folds
    for cluster in np.unique(clusters):
        assert len(set(folds[clusters == cluster])) == 1
    for fold in range(n_folds):
        if (folds == fold).any():
            assert set(labels[folds != fold]) == set(labels)


@pytest.mark.parametrize("seed", range(60))
def test_folds_of_random_data_are_sound(seed):
    random_state = np.random.default_rng(seed)
    n, n_folds = int(random_state.integers(1, 200)), int(random_state.integers(2, 8))
    labels = random_state.integers(0, int(random_state.integers(1, 12)), n) ** 2
    clusters = random_state.integers(0, int(random_state.integers(1, 2 * n + 1)), n)
    folds = assign_folds(labels, clusters, n_folds, seed, keys_of(n))
    assert_folds_sound(labels, clusters, folds, n_folds)
    shuffled = random_state.permutation(n)
    again = assign_folds(
        labels[shuffled], clusters[shuffled] + 7, n_folds, seed, [keys_of(n)[i] for i in shuffled]
    )
    np.testing.assert_array_equal(again, folds[shuffled])


def test_folds_are_stratified_and_even():
    labels = np.repeat([0, 1, 2], [503, 57, 40])
    folds = assign_folds(labels, np.arange(600), 5, 0, keys_of(600))
    for label in range(3):
        counts = np.bincount(folds[labels == label])
        assert counts.max() - counts.min() <= 1
    assert set(np.bincount(folds)) == {120}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_small_classes_are_spread_over_as_many_folds_as_they_can(count):
    labels = np.repeat([0, 1], [100, count])
    folds = assign_folds(labels, np.arange(len(labels)), 5, 0, keys_of(len(labels)))
    small = folds[100:]
    if count == 1:
        assert small.tolist() == [-1]
    else:
        assert small.min() >= 0
        assert len(set(small.tolist())) == min(count, 5)


def test_folds_follow_the_seed_and_are_empty_for_nothing():
    labels = np.zeros(100, dtype=np.int64)
    one, other = (assign_folds(labels, np.arange(100), 5, seed, keys_of(100)) for seed in (0, 1))
    assert (one != other).any()
    none = assign_folds(labels[:0], labels[:0], 5, 0, [])
    assert (none.tolist(), none.dtype) == ([], np.int64)


def folds_by_hand(labels, clusters, n_folds, seed, keys):
    """Return the fold of each sample, from the docstring, with dictionaries."""
    members = {}
    for index, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(index)

    def main_class(cluster):
        counts = Counter(labels[i] for i in members[cluster])
        return min(counts, key=lambda label: (-counts[label], label))

    def rank(cluster):
        words = [f"regraft fold {seed} ".encode() + keys[i] for i in members[cluster]]
        return min(hashlib.sha256(each).hexdigest()[:16] for each in words)

    ordered = sorted(members, key=lambda cluster: (main_class(cluster), rank(cluster)))
    fold_of = {cluster: turn % n_folds for turn, cluster in enumerate(ordered)}
    holders = {
        label: {clusters[i] for i in range(len(labels)) if labels[i] == label}
        for label in sorted(set(labels))
    }
    in_one_fold = [each for each in holders.values() if len({fold_of[c] for c in each}) == 1]
    for each in in_one_fold:
        if all(fold_of[cluster] >= 0 for cluster in each):
            fold_of[min(each, key=rank)] = -1
    return [fold_of[cluster] for cluster in clusters]


@pytest.mark.parametrize("seed", range(80))
def test_folds_are_those_of_the_rules(seed):
    chance = np.random.default_rng(seed)
    n, n_folds = int(chance.integers(1, 30)), int(chance.integers(2, 6))
    labels = (chance.integers(0, int(chance.integers(1, 7)), n) * 3 + 1).tolist()
    clusters = (chance.integers(-3, int(chance.integers(0, 15)), n)).tolist()
    keys = [chance.bytes(32) for _ in range(n)]
    found = assign_folds(np.array(labels), np.array(clusters), n_folds, seed, keys)
    assert found.dtype == np.int64
    assert found.tolist() == folds_by_hand(labels, clusters, n_folds, seed, keys)


def test_folds_are_the_same_for_ever():
    """Another value here would change the result of every cross-validation."""
    keys = [bytes([index]) * 32 for index in range(12)]
    folds = assign_folds(np.repeat([0, 1], 6), np.arange(12), 3, 0, keys)
    assert folds.tolist() == [1, 0, 0, 1, 2, 2, 1, 2, 0, 0, 2, 1]


@pytest.mark.parametrize("seed", range(20))
def test_the_class_of_a_cluster_is_its_most_common_one_and_the_first_in_a_tie(seed):
    chance = np.random.default_rng(seed)
    members = chance.permutation(np.concatenate([np.arange(5), chance.integers(0, 5, 15)]))
    labels = chance.integers(0, 4, len(members))
    counts = [np.bincount(labels[members == cluster], minlength=4) for cluster in range(5)]
    assert cluster_classes(labels, members).tolist() == [int(np.argmax(each)) for each in counts]
