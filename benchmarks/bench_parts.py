"""How often do new images move an old one to another part, and how large is the test part?

    python benchmarks/bench_parts.py [--trials 1000] [--seed 0]

Nothing is read: images are made-up names. For each number of groups a class (an image without a
group is a group of its own) and each growth, a class is divided, grows by new groups, by new images
in its old groups or by both, and is divided again. Prints a table: the share of trials in which an
old image of the class moved, with its standard error, then the spread of the test part's share, and
the same for ``--split``, which must be 0.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from regraft.data.dataset import Dataset
from regraft.data.ledger import Ledger
from regraft.data.samples import Samples, Source
from regraft.splits.split import split
from regraft.splits.split_csv import write_split

#: Groups of a class, and images in each.
SETTINGS = (
    (4, 10), (8, 10), (12, 10), (20, 10), (30, 10), (50, 10), (100, 10), (200, 10), (4, 1), (20, 1),
    (50, 1), (100, 1), (200, 1),
)  # fmt: skip
GROWTH = 0.2


class Odds(NamedTuple):
    """What was measured."""

    groups: float  # share of the trials in which new groups moved an old image
    images: float  # the same, for new images in old groups
    by_file: float  # the same with the split.csv of the division before, for both at once
    low: float  # share of the test part: fifth percentile
    high: float  # ninety-fifth percentile


def samples_of(pairs: list[tuple[int, int]], name: str) -> Samples:
    """Return images, given as (group, number), of one class."""
    n = len(pairs)
    ids = tuple(f"{name}/{group}/{number}" for group, number in pairs)
    return Samples(
        source=Source("folder", name, (), lambda _: iter(())),
        ids=ids,
        classes=("a",),
        labels=np.zeros(n, np.int64),
        hashes=tuple(hashlib.sha256(each.encode()).digest() for each in ids),
        parts=(None,) * n,
        groups=tuple(f"{name}/{group}" for group, _ in pairs),
        sizes=np.ones((n, 2), np.int32),
        positions=np.arange(n),
        ledger=Ledger(()),
    )


def measure(
    groups: int, a_group: int, trials: int, first_seed: int, growth: float = GROWTH
) -> Odds:
    """Return the odds for a class of so many groups of so many images each."""
    more_groups = max(1, round(growth * groups))
    more_images = max(1, round(growth * groups * a_group))
    old = [(group, number) for group in range(groups) for number in range(a_group)]
    new_groups = [
        (group, number)
        for group in range(groups, groups + more_groups)
        for number in range(a_group)
    ]
    moved, shares = np.zeros(3), []
    for seed in range(first_seed, first_seed + trials):
        name = f"trial {seed}"
        chosen = np.random.default_rng(seed).integers(0, groups, more_images)
        new_images = [(int(group), 1000 + number) for number, group in enumerate(chosen)]
        before = ids_to_test(samples_of(old, name), seed)
        shares.append(len(before) / len(old))
        for way, new in enumerate((new_groups, new_images)):
            moved[way] += differs(before, ids_to_test(samples_of(old + new, name), seed), old, name)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "split.csv")
            samples = samples_of(old, name)
            write_split(file, Dataset(samples, split(samples, test_fraction=0.2, seed=seed)))
            every = samples_of(old + new_groups + new_images, name)
            moved[2] += differs(before, ids_to_test(every, seed + 1, file), old, name)
    low, high = np.percentile(shares, [5, 95])
    return Odds(*(moved / trials), low, high)


def ids_to_test(samples: Samples, seed: int, file: Path | None = None) -> set[str]:
    """Return the ids in the test part."""
    parts = split(samples, test_fraction=0.2, seed=seed, split_file=file)
    return {samples.ids[index] for index in parts.test}


def differs(before: set[str], after: set[str], old: list[tuple[int, int]], name: str) -> bool:
    """Return whether an old image is in another part than before."""
    return before != after & {f"{name}/{group}/{number}" for group, number in old}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| groups a class | images a group | moved: new groups | new images | --split | share |")
    print("| --- | --- | --- | --- | --- | --- |")
    for groups, a_group in SETTINGS:
        found = measure(groups, a_group, given.trials, given.seed)
        cells = [
            f"{odds:.3f} ± {(odds * (1 - odds) / given.trials) ** 0.5:.3f}"
            for odds in (found.groups, found.images, found.by_file)
        ]
        share = f"{found.low:.2f} to {found.high:.2f}"
        print(f"| {' | '.join([str(groups), str(a_group), *cells, share])} |", flush=True)


if __name__ == "__main__":
    main()
