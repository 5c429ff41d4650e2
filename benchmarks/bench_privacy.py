"""What does a bundle without rows of training images tell about who was in the training?

    python benchmarks/bench_privacy.py [NAME...] --data-root FOLDER [--seeds 100,101] [--sizes 60]

NAME is flowers or cifar; by default both. FOLDER holds flowers.zip, cifar10.zip and mnist/MNIST.
For each seed a class of the flowers, or two of CIFAR-10's, is left out, and n of the other images
are the members. Every candidate keeps a few statistics of their pooled features, at unit length:

    by its score     membership AUC: the chance that the score of a fresh image of the same classes
                     is larger than that of a member. 0.5 tells nothing, 1 tells for certain
    by an attack     the same AUC for the best of some attacks on what is kept, by someone who also
                     has up to 2,000 other images of the same classes: the shrinkage is taken off;
                     the likelihood by what is kept against that by the other images; the same to
                     first order, of the mean alone and of both; of a rounded mean, which features
                     the image would have moved over a boundary, and whether its score is among
                     those that are kept
    level            share of the fresh images with a p-value of at most 0.05
    far, near        AUROC, fresh images against others: other data sets, noise, drawn patterns and
                     pages of text (mean and least kind), or the class that was left out

Prints Markdown, with standard errors over the seeds in brackets; docs/design/novelty.md says what
was concluded. The first run extracts features for some minutes; after that, five seeds take some
minutes for each data set on one core. ``--seeds 100 --sizes 60`` is a try of half a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from bench_decisions import Job, auroc, foreign, mean_and_error, table
from bench_novelty import Pair, p_values, written
from scipy.special import ndtr
from sklearn.covariance import ledoit_wolf_shrinkage

from regraft.config.train_config import TrainConfig
from regraft.core.keyed_random import generator
from regraft.data.scan import scan
from regraft.decision.scorers import (
    STANDARD_ERRORS,
    Centre,
    Neighbours,
    as_integers,
    unit_rows,
)
from regraft.decision.typicality import Typicality
from regraft.features.extractor import Extractor, load_networks
from regraft.features.taps import POOLED, Block
from regraft.probe.decisions import one_of_each
from regraft.splits.clusters import clusters_of
from regraft.splits.split import all_for_training

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from regraft.data.samples import Samples

    Floats = NDArray[np.float64]

LEFT_OUT = {
    "flowers": [["daisy"], ["dandelion"], ["rose"], ["sunflower"], ["tulip"]],
    "cifar": [["airplane", "automobile"], ["bird", "cat"], ["deer", "dog"], ["frog", "horse"],
              ["ship", "truck"]],
}  # fmt: skip
FRESH, MOST_REFERENCE = 600, 2_000
ADDED = 0.01  # share of the mean variance that is added to each
LEVEL = 0.05
ATTACKS = ("without shrinkage", "likelihood", "mean", "first order", "boundaries", "scores")


@dataclass(frozen=True)
class Kept:
    """What a candidate keeps: the statistics of rows times a basis."""

    basis: Floats | None  # (D, d); None where it is the identity
    mean: Floats  # (d,)
    covariance: Floats  # (d, d), as it is inverted

    def centred(self, rows: Floats) -> Floats:
        """Return rows (n, D) in the basis, without the mean."""
        return (rows if self.basis is None else rows @ self.basis) - self.mean

    def score(self, rows: Floats) -> Floats:
        """Return the squared Mahalanobis distance (n,) of rows (n, D)."""
        return np.square(self.centred(rows) @ self.whitening).sum(1)

    @cached_property
    def inverse(self) -> Floats:
        """Of the covariance."""
        return np.linalg.inv(self.covariance)

    @cached_property
    def whitening(self) -> Floats:
        """A matrix whose product with its transpose is the inverse."""
        if np.array_equal(self.covariance, np.diag(self.covariance.diagonal())):
            return np.diag(self.covariance.diagonal() ** -0.5)
        return np.linalg.cholesky(self.inverse)


class Fitted(NamedTuple):
    """A candidate after its fit."""

    kept: Kept
    own: Floats  # (n,), of each member without itself
    score: Callable[[Floats], Floats]
    attacks: tuple[str, ...]
    step: float = 0.0  # to whose multiples the mean is rounded
    unlike: Floats = np.empty(0)  # (n,), as ``own`` before it is rounded

    @classmethod
    def of(cls, kept: Kept, own: Floats, *attacks: str) -> Fitted:
        """Return a candidate that scores by what it keeps."""
        return cls(kept, own, kept.score, attacks)


class Material(NamedTuple):
    """Pooled features at unit length, and statistics of further images of the same classes."""

    members: Floats
    fresh: Floats
    near: Floats
    far: dict[str, Floats]
    known: Kept


Figures = dict[str, float]


def without_itself(scores: Floats, share: float = 1.0) -> Floats:
    """Return the scores (n,) that each would have without its part of mean and covariance."""
    grown = len(scores) / (len(scores) - 1)
    return grown * scores / np.maximum(1 - share * grown * scores / len(scores), 1e-12)


def shrunk(rows: Floats) -> tuple[Floats, float]:
    """Return a covariance by Ledoit and Wolf (2004), and the share of the rows' own."""
    share = 1 - ledoit_wolf_shrinkage(rows)
    own = np.cov(rows.T, bias=True)
    return share * own + (1 - share) * np.trace(own) / len(own) * np.eye(len(own)), share


# --- candidates -----------------------------------------------------------------------------------


def added(rows: Floats, basis: Floats | None = None) -> Fitted:
    """Add a hundredth of the mean variance to each."""
    inside = rows if basis is None else rows @ basis
    covariance = np.cov(inside.T, bias=True).reshape(inside.shape[1], -1)
    covariance += ADDED * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    kept = Kept(basis, inside.mean(0), covariance)
    own = without_itself(kept.score(rows))
    return Fitted.of(kept, own, "without shrinkage", "likelihood", "mean", "first order")


def ledoit_wolf(rows: Floats) -> Fitted:
    """Shrink towards a scaled identity."""
    covariance, share = shrunk(rows)
    kept = Kept(None, rows.mean(0), covariance)
    own = without_itself(kept.score(rows), share)
    return Fitted.of(kept, own, "without shrinkage", "likelihood", "mean")


def components(rows: Floats) -> Fitted:
    """Keep the first n / 20 principal components, and one variance for all others."""
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    first = max(len(rows) // 20, 1)
    values[:-first] = values[:-first].mean()
    kept = Kept(None, rows.mean(0), (vectors * values) @ vectors.T)
    return Fitted.of(kept, without_itself(kept.score(rows)), "likelihood", "mean")


def projected(part: int) -> Callable[[Floats], Fitted]:
    """Take mean and covariance after a random projection to n / ``part`` dimensions."""

    def fit(rows: Floats) -> Fitted:
        width = rows.shape[1]
        dimensions = min(max(len(rows) // part, 1), width)
        drawn = generator("projection", width).standard_normal((width, dimensions))
        return added(rows, np.linalg.qr(drawn)[0])

    return fit


def diagonal(rows: Floats) -> Fitted:
    """Keep a variance for each feature."""
    n, centred, variances = len(rows), rows - rows.mean(0), rows.var(0) + 1e-3 * rows.var(0).mean()
    grown = n / (n - 1)
    without = np.maximum(variances - grown * centred**2 / n, 1e-12)
    own = (grown * centred**2 / without).sum(1)
    return Fitted.of(Kept(None, rows.mean(0), np.diag(variances)), own, "likelihood", "mean")


def mean_alone(rows: Floats) -> Fitted:
    """Keep the mean, and measure the distance from it."""
    n, width = rows.shape
    kept = Kept(None, rows.mean(0), np.eye(width))
    return Fitted.of(kept, kept.score(rows) * (n / (n - 1)) ** 2, "mean")


def rounded(standard_errors: float) -> Callable[[Floats], Fitted]:
    """Keep the mean in steps of so many of its standard errors, as the product does."""

    def fit(rows: Floats) -> Fitted:
        scorer, unlike = Centre.measured(rows.astype(np.float32), standard_errors)
        found = Typicality.of(scorer, unlike, None)
        step = standard_errors * (rows.var(0).mean() / len(rows)) ** 0.5
        kept = Kept(None, scorer.centre * step, np.eye(rows.shape[1]))

        def score(some: Floats) -> Floats:
            return found.score(some.astype(np.float32)).astype(np.float32).astype(np.float64)

        own = found.scores.astype(np.float64)
        return Fitted(kept, own, score, ("mean", "boundaries", "scores"), step, unlike)

    return fit


def bank(rows: Floats) -> Fitted:
    """Keep all rows; the distance from the nearest one tells which they are."""
    integers = as_integers(rows.astype(np.float32))
    scorer, own = Neighbours.measured(integers)
    nothing = Kept(None, rows.mean(0), np.eye(0))
    return Fitted(nothing, own, lambda some: scorer.score(some.astype(np.float32)), ())


CANDIDATES = {
    "covariance, a hundredth added (as it was)": added,
    "covariance, Ledoit-Wolf": ledoit_wolf,
    "n / 20 principal components, isotropic rest": components,
    "random projection, d = n / 5": projected(5),
    "random projection, d = n / 10": projected(10),
    "random projection, d = n / 20": projected(20),
    "mean and variances": diagonal,
    "mean": mean_alone,
    "mean in steps of 16 standard errors": rounded(16),
    "**the same, of 24 (the product)**": rounded(STANDARD_ERRORS),
    "the bank, for comparison": bank,
}


# --- attacks --------------------------------------------------------------------------------------


def attacks(fitted: Fitted, material: Material) -> Figures:
    """Return the membership AUC of each attack on a candidate."""
    kept, other, n = fitted.kept, material.known, len(material.members)
    if kept.basis is not None:
        inside = kept.basis.T @ other.covariance @ kept.basis
        other = Kept(kept.basis, other.mean @ kept.basis, inside)
    mean, covariance = other.mean, other.covariance

    def without_shrinkage(rows: Floats) -> Floats:
        least = np.linalg.eigvalsh(kept.covariance)[0] * (1 - 1e-4)
        bare = kept.covariance - least * np.eye(len(kept.mean))
        return Kept(kept.basis, kept.mean, bare).score(rows)

    def by_mean(rows: Floats) -> Floats:
        # the attacker finds the size of a step by the best fit to a mean that is near
        scale = mean @ kept.mean / max(kept.mean @ kept.mean, 1e-30) if fitted.step else 1
        return -other.centred(rows) @ other.inverse @ (scale * kept.mean - mean)

    def first_order(rows: Floats) -> Floats:
        centred = other.centred(rows) @ other.inverse
        change = kept.covariance - covariance
        return by_mean(rows) - ((centred @ change) * centred).sum(1) / 2

    def boundaries(rows: Floats) -> Floats:
        error = np.sqrt(np.diag(covariance) / n)
        near = [kept.mean - fitted.step / 2, kept.mean + fitted.step / 2]

        def chance(expected: Floats) -> Floats:
            low, high = (ndtr((edge - expected) / error) for edge in near)
            return np.log(np.maximum(high - low, 1e-9))

        moved = mean + (rows - mean) / n
        return (chance(mean) - chance(moved)).sum(1)

    def scores(rows: Floats) -> Floats:
        # A member's score without itself, which an attacker can guess, is less than a step below
        # one that is kept.
        own = fitted.unlike if rows is material.members else fitted.score(rows)
        places = np.searchsorted(fitted.own, own.astype(np.float32), side="left")
        return np.append(fitted.own, 9.0)[places] - own

    measures = {
        "without shrinkage": without_shrinkage,
        "likelihood": lambda rows: kept.score(rows) - other.score(rows),
        "mean": by_mean,
        "first order": first_order,
        "boundaries": boundaries,
        "scores": scores,
    }
    return {  # members are smaller
        name: auroc(measures[name](material.fresh), measures[name](material.members))
        for name in fitted.attacks
    }


# --- measures -------------------------------------------------------------------------------------


def measure(material: Material, fitted: Fitted) -> Figures:
    """Return the figures of a candidate."""
    own, fresh = (fitted.score(rows) for rows in (material.members, material.fresh))
    kinds = {f"far {kind}": auroc(-fresh, -fitted.score(x)) for kind, x in material.far.items()}
    return {
        "score": auroc(fresh, own),
        "level": float((p_values(Pair(fitted.own, fresh)) <= LEVEL).mean()),
        "near": auroc(-fresh, -fitted.score(material.near)),
        "far": float(np.mean(list(kinds.values()))),
        **kinds,
        **attacks(fitted, material),
    }


def cells(rows: list[Figures]) -> list[str]:
    """Return the cells of a candidate at one size."""

    def cell(name: str) -> str:
        return mean_and_error(row[name] for row in rows)

    def mean(name: str) -> float:
        return float(np.mean([row[name] for row in rows]))

    tried = [name for name in ATTACKS if name in rows[0]]
    best = max(tried, key=mean, default=None)
    least = min((name for name in rows[0] if name.startswith("far ")), key=mean)
    return [
        cell("score"),
        f"{cell(best)} {best}" if best else "1 by its rows",
        cell("level"),
        cell("far"),
        f"{cell(least)} {least.removeprefix('far ')}",
        cell("near"),
    ]


def pooled(samples: Samples, config: TrainConfig) -> Floats:
    """Return the pooled features (N, D) of all images, at unit length."""
    with Extractor.for_samples(load_networks(config), samples, config) as extractor:
        features = extractor.read(all_for_training(samples))
    rows = features.matrix(np.arange(len(samples)), (Block(POOLED),))
    return unit_rows(rows).astype(np.float64)


def compare(job: Job, name: str, sizes: list[int], a_class: int | None) -> None:
    """Print the table of a data set."""
    most = a_class or (None if name == "flowers" else 400)
    config = TrainConfig(at_most=f"{most}/class" if most else None)
    file = {"flowers": "flowers.zip", "cifar": "cifar10.zip"}[name]
    samples = scan(job.root / file, config)
    samples = dataclasses.replace(samples, parts=(None,) * len(samples))
    rows = pooled(samples, config)
    with tempfile.TemporaryDirectory() as scratch:
        foreigners = scan(written(foreign(job), name, Path(scratch, "foreign")), TrainConfig())
        of_foreigners = pooled(foreigners, TrainConfig())
    far = {kind: of_foreigners[foreigners.labels == k] for k, kind in enumerate(foreigners.classes)}
    once = one_of_each(np.arange(len(samples)), clusters_of(samples), samples)
    names = np.array(samples.classes)[samples.labels]
    found: dict[tuple[str, int], list[Figures]] = {}
    for seed in job.seeds:
        left_out = np.isin(names, LEFT_OUT[name][seed % len(LEFT_OUT[name])])
        mine = once[~left_out[once]]
        mine = mine[np.random.default_rng(seed).permutation(len(mine))]
        fresh, mine = rows[mine[:FRESH]], rows[mine[FRESH:]]
        for n in sizes:
            began, others = time.perf_counter(), mine[n : n + MOST_REFERENCE]
            known = Kept(None, others.mean(0), shrunk(others)[0])
            material = Material(mine[:n], fresh, rows[left_out], far, known)
            for candidate, fit in CANDIDATES.items():
                found.setdefault((candidate, n), []).append(measure(material, fit(mine[:n])))
            seconds = time.perf_counter() - began
            print(name, seed, n, len(others), f"{seconds:.0f} s", file=sys.stderr, flush=True)
    head = ["what is kept", "members", "told by its score", "by an attack", "level .05"]
    head += ["far AUROC, mean", "least kind", "near AUROC"]
    print(f"{name}, {len(once):,} images, seeds {', '.join(map(str, job.seeds))}\n")
    order = sorted(found, key=lambda key: (key[1], [*CANDIDATES].index(key[0])))
    table(head, [[candidate, n, *cells(found[candidate, n])] for candidate, n in order])


def main() -> int:
    """Compare the candidates on the data sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(LEFT_OUT)}")
    parser.add_argument("--data-root", type=Path, required=True)
    numbers = {"type": lambda text: [int(each) for each in text.split(",")]}
    parser.add_argument("--seeds", default=[*range(100, 105)], **numbers)
    parser.add_argument("--sizes", default=[60, 250, 1_000, 2_000], **numbers)
    parser.add_argument("--a-class", type=int, help="fewer images of each class, to try it out")
    given = parser.parse_args()
    if unknown := set(given.names) - set(LEFT_OUT):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    given.out = Path(tempfile.gettempdir())  # nothing is kept
    for name in given.names or LEFT_OUT:
        compare(Job(given), name, given.sizes, given.a_class)
    return 0


if __name__ == "__main__":
    sys.exit(main())
