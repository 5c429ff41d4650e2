"""What is drawn, against the rules of ``regraft.splits.split`` written out with lists."""

import random
from collections import Counter

import numpy as np
import pytest

from listed_samples import samples_of
from regraft.splits.clusters import Clusters
from regraft.splits.draw import draw


def random_data(chance):
    """Return rows of few clusters, many of them with several classes, and which are eligible."""
    n_groups = chance.randint(1, 12)
    skew = chance.choice([1, 3])  # of the sizes of groups
    rows = [
        {"label": chance.choice("aaab"), "group": f"g{int(n_groups * chance.random() ** skew)}"}
        for _ in range(chance.randint(1, 40))
    ]
    for row in rows:
        if chance.random() < 0.3:  # most images of a group have the class of the group
            row["label"] = "cd"[int(row["group"][1:]) % 2]
    for label in "rstu":  # classes that are only in groups of others, often in the same ones
        rows += [
            {"label": label, "group": f"g{chance.randint(0, min(n_groups, 3))}"}
            for _ in range(chance.choice([0, 1, 1, 2]))
        ]
    return rows, [chance.random() < 0.8 for _ in rows]


def drawn_by_hand(rows, eligible, number, fraction):
    """Return the groups that are drawn; ``number`` has the number of each group.

    In each class, groups are taken in the order of their numbers: those below the fraction, but at
    least one group and a quarter of the share, at most double the share or the smallest group, and
    not all groups. Those of more than that many images are passed over.
    """
    rows = [row for row, each in zip(rows, eligible, strict=True) if each]
    labels_of = {}
    for row in rows:
        labels_of.setdefault(row["group"], []).append(row["label"])
    by_class = {}
    for group, labels in labels_of.items():
        main = min(labels, key=lambda label: (-labels.count(label), label))
        by_class.setdefault(main, []).append(group)
    drawn = set()
    for groups in by_class.values():
        sizes = {group: len(labels_of[group]) for group in groups}
        share = fraction * sum(sizes.values())
        most = max(2 * share, min(sizes.values()))
        ranked = sorted((g for g in groups if sizes[g] <= most), key=number.__getitem__)
        taken, images = [], 0
        for group in ranked:
            wanted = number[group] < fraction or not taken or images < share / 4
            fits = images + sizes[group] <= most and len(taken) + 1 < len(groups)
            if not (wanted and fits):
                break
            taken.append(group)
            images += sizes[group]
        drawn |= set(taken)
    for label in sorted({row["label"] for row in rows}):  # one image of each class is kept
        holders = {row["group"] for row in rows if row["label"] == label}
        if holders <= drawn:
            drawn.remove(max(holders, key=number.__getitem__))
    return drawn


@pytest.mark.parametrize("seed", range(150))
def test_what_is_drawn_follows_the_rules(seed):
    chance = random.Random(seed)
    rows, eligible = random_data(chance)
    samples = samples_of(rows)
    clusters = Clusters.of(samples)
    numbers = clusters.numbers(f"salt {seed}")
    number = {row["group"]: numbers[k] for row, k in zip(rows, clusters.members, strict=True)}
    # Shares in halves of an image, which meet the limits exactly, and a fraction that is a number.
    for fraction in (0.125, 0.25, 0.5, 0.875, chance.choice(numbers.tolist())):
        found = draw(samples, clusters, np.array(eligible), fraction, f"salt {seed}")
        assert found.dtype == bool  # it is an index
        expected = drawn_by_hand(rows, eligible, number, fraction)
        assert found.tolist() == [
            each and row["group"] in expected for row, each in zip(rows, eligible, strict=True)
        ]


def test_nothing_is_drawn_of_nothing():
    samples = samples_of([{"label": "a"}, {"label": "a"}])
    none = np.zeros(2, dtype=bool)
    assert draw(samples, Clusters.of(samples), none, 0.5, "salt").tolist() == [False, False]


def test_another_salt_draws_others():
    samples = samples_of([{"label": "a", "id": str(k)} for k in range(40)])
    every = np.ones(40, dtype=bool)
    drawn = {
        tuple(draw(samples, Clusters.of(samples), every, 0.5, f"test {seed}")) for seed in range(20)
    }
    assert len(drawn) == 20
    counts = Counter(index for each in drawn for index in np.flatnonzero(each).tolist())
    assert min(counts.values()) >= 2  # half of 20 times, give or take: every image has its turn
    assert max(counts.values()) <= 18
