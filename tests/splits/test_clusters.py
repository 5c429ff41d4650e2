"""Clusters: what must stay together, and the number that decides where it goes."""

import hashlib
import random
from fractions import Fraction

import numpy as np
import pytest

from listed_samples import images, samples_of
from regraft.splits.clusters import Clusters, clusters_of


def random_rows(seed, n=14):
    """Few contents and groups, so that chains of both are common; names sort in another order."""
    chance = random.Random(seed)
    return [
        {
            "label": "a",
            "content": f"c{chance.randint(0, n)}",
            "group": chance.choice([None, None, f"g{chance.randint(0, n // 2)}"]),
        }
        for _ in range(chance.randint(1, n))
    ]


def clusters_by_hand(rows):
    """Return the sets of rows: two are joined as long as they share a content or a group."""
    sets = [{index} for index in range(len(rows))]
    while True:
        shared = [
            {("content", rows[i]["content"]) for i in each}
            | {("group", rows[i]["group"]) for i in each if rows[i]["group"]}
            for each in sets
        ]
        pairs = [(i, j) for j in range(len(sets)) for i in range(j) if shared[i] & shared[j]]
        if not pairs:
            return sorted(sets, key=min)
        one, other = pairs[0]
        sets[one] |= sets.pop(other)


@pytest.mark.parametrize("seed", range(60))
def test_what_shares_a_group_or_its_bytes_is_one_cluster(seed):
    rows = random_rows(seed)
    expected = clusters_by_hand(rows)
    samples = samples_of(rows)
    found = clusters_of(samples)
    assert found.dtype == np.int64
    assert [set(np.flatnonzero(found == k)) for k in range(found.max() + 1)] == expected
    clusters = Clusters.of(samples)
    assert clusters.members.tolist() == found.tolist()
    for key, members in zip(clusters.keys, expected, strict=True):
        groups = {rows[i]["group"] for i in members} - {None}
        if groups:
            assert key == b"group " + min(groups).encode()
        else:
            assert key == b"image " + min(samples.hashes[i] for i in members)


def test_the_number_of_a_cluster_is_the_beginning_of_a_hash_as_a_fraction():
    clusters = Clusters.of(samples_of([*images("a", 200), {"label": "a", "group": "größe, 1"}]))
    assert clusters.keys[-1] == "group größe, 1".encode()
    for key, number in zip(clusters.keys, clusters.numbers("test 7").tolist(), strict=True):
        start = int(hashlib.sha256(b"regraft test 7 " + key).hexdigest()[:16], 16)
        exact = Fraction(start, 1 << 64)
        assert 0 <= exact - Fraction(number) < Fraction(1, 1 << 53)
        assert number < 1


def test_the_numbers_are_the_same_for_ever():
    """Another value here would move the images of every run that has no split.csv."""
    clusters = Clusters(np.arange(2), [b"group p1", b"image " + bytes(range(32))])
    assert clusters.numbers("test 0").tolist() == [0.7311117815400872, 0.09442563770634538]


def test_no_images_are_no_clusters():
    found = clusters_of(samples_of([]))
    assert (found.tolist(), found.dtype) == ([], np.int64)  # an index, as any other
