"""Which score tells best that an image fits no class?

    python benchmarks/bench_novelty.py [NAME...] --data-root FOLDER [--seeds 100,101] [--a-class N]

NAME is flowers, cifar or mnist; by default all three. FOLDER holds flowers.zip, cifar10.zip and
mnist/MNIST. Each seed is a split of its own: four fifths of the flowers train, of CIFAR-10 4,000 of
6,000 images, of MNIST 3,000 of 4,000. For each split a head is fitted as in a training on all
stages at grid 1, on all classes and then without each class of the flowers, or pair of CIFAR-10's,
in turn. Every candidate gives a number to training images, by which a p-value is measured, and to
new ones:

    near     images of the classes that were left out; the mean over these classes
    far      the other two data sets, noise, drawn patterns, pages of text; mean and least kind
    level    share of the test images with a p-value of at most 0.05, and 0.01

AUROC is that of the candidate, power the share of such images with a p-value of at most 0.05, or
0.01. Prints Markdown, with standard errors over the splits in brackets; docs/design/novelty.md says
what was concluded. The first run extracts features for some minutes. After that, five splits are
estimated at half an hour on two cores. ``--seeds 100 --a-class 200`` is a try of a few minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from bench_decisions import Job, auroc, foreign, mean_and_error, table
from scipy.special import entr, ndtri

from regraft.config.train_config import TrainConfig
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.decision.scorers import MOST_UNITS, Neighbours, as_integers, unit_rows
from regraft.decision.typicality import BANK_ROWS, Typicality, energies_of, fit_neighbours
from regraft.features.extractor import Extractor, load_networks
from regraft.features.taps import POOLED, Block, select_blocks
from regraft.probe.decisions import Answered, one_of_each
from regraft.probe.fit import ProbeSettings, fit_probe
from regraft.splits.clusters import clusters_of
from regraft.splits.split import all_for_training, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.data.samples import Parts, Samples
    from regraft.features.features import Features
    from regraft.model import Model

    Floats = NDArray[np.float64]


class Plan(NamedTuple):
    """How a data set is used."""

    at_most: int | None  # images a class
    test_fraction: float
    left_out: tuple[tuple[str, ...], ...]  # classes that are left out together


PLANS = {
    "flowers": Plan(None, 1 / 5, (("daisy",), ("dandelion",), ("rose",), ("sunflower",),
                                  ("tulip",))),
    "cifar": Plan(600, 1 / 3, (("airplane", "automobile"), ("bird", "cat"), ("deer", "dog"),
                               ("frog", "horse"), ("ship", "truck"))),
    "mnist": Plan(400, 1 / 4, ()),
}  # fmt: skip
LEVELS = (0.05, 0.01)
OWN, NEAR, AUROC = "own", "near", "auroc"
#: Fewer rows beside a bank measure no p-value of 0.01.
LEAST_BESIDE = 300
AT_ONCE = 1024  # rows in one product


class Seen(NamedTuple):
    """What is known of some images."""

    pooled: NDArray[np.float32]  # (N, D)
    stages: NDArray[np.float32]  # (N, sum of D): each block at unit length
    logits: NDArray[np.float32]  # (N, K)


class Pair(NamedTuple):
    """A candidate's numbers; large is unlike the training."""

    known: Floats  # (n,), of training images that count as unseen
    new: Floats  # (N,)


class Material(NamedTuple):
    """The features of a data set, and of images that fit none of its classes."""

    backbone: Backbone
    samples: Samples
    features: Features
    others: Samples  # a class is a kind
    of_others: Features


Figures = dict[str, dict[tuple[str, str | float], float]]  # by candidate; by kind and measure


# --- images ---------------------------------------------------------------------------------------


def source_of(job: Job, name: str, a_class: int | None) -> tuple[Path | str, TrainConfig]:
    """Return a data set and the settings to read it."""
    most = a_class or PLANS[name].at_most
    config = TrainConfig(at_most=f"{most}/class" if most else None, data_root=job.root / "mnist")
    files = {"flowers": job.root / "flowers.zip", "cifar": job.root / "cifar10.zip"}
    return files.get(name, name), config


def written(images: dict[str, list[bytes]], own: str, folder: Path) -> Path:
    """Write images into a folder for each kind but the data set's own."""
    for kind, each in images.items():
        if kind != own:
            (folder / kind).mkdir(parents=True)
            for number, image in enumerate(each):
                suffix = "png" if image.startswith(b"\x89PNG") else "jpg"
                (folder / kind / f"{number}.{suffix}").write_bytes(image)
    return folder


def without_classes(
    samples: Samples, parts: Parts, left_out: Sequence[str]
) -> tuple[Dataset, NDArray[np.int64]]:
    """Return a dataset without some classes, and the images of these."""
    kept = tuple(name for name in samples.classes if name not in left_out)
    numbers = np.array([kept.index(name) if name in kept else -1 for name in samples.classes])
    labels = numbers[samples.labels]
    fewer = dataclasses.replace(samples, classes=kept, labels=labels.clip(0))
    train, test = (part[labels[part] >= 0] for part in (parts.train, parts.test))
    dataset = Dataset(fewer, dataclasses.replace(parts, train=train, test=test))
    return dataset, np.flatnonzero(labels < 0)


def look(features: Features, indices: NDArray[np.int64], model: Model) -> Seen:
    """Return what is known of some images."""
    blocks = select_blocks((model.backbone,), "all", "1")
    found = features.matrix(indices, blocks)
    column, rows = 0, {}
    for block in blocks:
        rows[block] = found[:, column : column + features.widths[block]]
        column += features.widths[block]
    read = np.concatenate([rows[block] for block in model.blocks], axis=1)
    stages = np.concatenate([unit_rows(each) for each in rows.values()], axis=1)
    return Seen(rows[Block(POOLED)], stages / len(blocks) ** 0.5, model.logits(read))


# --- candidates -----------------------------------------------------------------------------------


def distances(
    rows: NDArray[np.float32], new: NDArray[np.float32], nearest: Sequence[int]
) -> list[Pair]:
    """Return the distances from some of the nearest rows; of a row, from the others."""

    def measured(some: NDArray[np.float32], skipped: int) -> Floats:
        found = []
        for start in range(0, len(some), AT_ONCE):
            each = 1 - some[start : start + AT_ONCE] @ rows.T
            columns = [skipped + k - 1 for k in nearest]
            found.append(np.partition(each, columns, axis=1)[:, columns])
        return np.concatenate(found).T

    # a row is its own nearest
    return [Pair(*each) for each in zip(measured(rows, 1), measured(new, 0), strict=True)]


def p_values(pair: Pair) -> Floats:
    """Return the p-value of each new image."""
    n = len(pair.known)
    smaller = np.searchsorted(np.sort(pair.known), pair.new, side="left")
    return (1 + n - smaller) / (n + 1)


def deviations(pair: Pair) -> Pair:
    """Return standard deviations above the mean of the training images."""
    return Pair(*((each - pair.known.mean()) / pair.known.std() for each in pair))


def ranked(pair: Pair) -> Pair:
    """Return p-values instead; a training image counts itself once."""
    own = p_values(Pair(pair.known, pair.known)) - 1 / (len(pair.known) + 1)
    return Pair(own, p_values(pair))


def logarithms(pair: Pair) -> Pair:
    """Return minus the logarithms of the p-values (Fisher 1932)."""
    return Pair(*(-np.log(p) for p in ranked(pair)))


def quantiles(pair: Pair) -> Pair:
    """Return minus the normal quantiles of the p-values (Stouffer 1949)."""
    return Pair(*(-ndtri(p.clip(max=1 - 1e-4)) for p in ranked(pair)))


def added(change: Callable[[Pair], Pair], *parts: Pair) -> Pair:
    """Return the sum of changed parts."""
    known, new = zip(*map(change, parts), strict=True)
    return Pair(sum(known), sum(new))


def of_product(typicality: Typicality, new: Seen) -> Pair:
    """Return the product's score, rounded as its p-values are."""
    scores = typicality.score(new.pooled, new.logits).astype(np.float32)
    return Pair(typicality.scores.astype(np.float64), scores.astype(np.float64))


def candidates(training: Seen, new: Seen, temperature: float) -> dict[str, Pair]:
    """Return the candidates; the logits of ``training`` are out-of-fold."""
    integers, others = as_integers(training.pooled), as_integers(new.pooled)
    units = [unit_rows(each.astype(np.float32)) for each in (integers, others)]
    d1, d5, d20 = distances(units[0], units[1], (1, 5, 20))
    scorer, own = Neighbours.measured(integers)
    a = Pair(own, scorer.score(new.pooled))
    both = (training.logits, new.logits)
    energy = Pair(*map(energies_of, both))
    chances = [(torch.from_numpy(each) / temperature).softmax(1).numpy() for each in both]
    entropy = Pair(*(entr(each).sum(1) for each in chances))
    product = fit_neighbours(training.pooled, None, energy.known)
    if product is None:
        raise SystemExit("too few images")
    found = {
        "5th neighbour": d5,
        "1st neighbour": d1,
        "20th neighbour": d20,
        "5th neighbour, eight stages summed": distances(training.stages, new.stages, (5,))[0],
        "energy": energy,
        "density ratio": Pair(*(x / d.clip(1e-4) for x, d in zip(a, d5, strict=True))),
        "a": a,
        "5th + energy, z": added(deviations, d5, energy),
        "5th + energy, Fisher": added(logarithms, d5, energy),
        "5th + energy, normal quantiles": added(quantiles, d5, energy),
        "a + energy, Fisher": added(logarithms, a, energy),
        "a + energy, normal quantiles": added(quantiles, a, energy),
        "a + entropy, z": added(deviations, a, entropy),
        "**a + energy, z (the product)**": of_product(product, new),
    }
    if len(integers) >= BANK_ROWS + LEAST_BESIDE:
        bank, rest = Neighbours.of(integers[:BANK_ROWS]), training.pooled[BANK_ROWS:]
        fewer = Typicality.of(bank, bank.score(rest), energy.known[BANK_ROWS:])
        found[f"the same, bank of {BANK_ROWS:,}"] = of_product(fewer, new)
    return found


# --- measures -------------------------------------------------------------------------------------


def measure(material: Material, parts: Parts, left_out: Sequence[str], seed: int) -> Figures:
    """Fit a head without some classes, and measure every candidate."""
    dataset, gone = without_classes(material.samples, parts, left_out)
    features = material.features
    settings = ProbeSettings("all", "1", "logistic", "none", "auto", seed)
    probe = fit_probe(features, dataset, (material.backbone,), settings)
    position = Answered(probe.fitted, probe.rows).positions()
    every = one_of_each(dataset.train, clusters_of(dataset.samples), dataset.samples)
    chosen = np.array([k for k in every.tolist() if k in position][:MOST_UNITS])
    training = look(features, chosen, probe.model)._replace(
        logits=probe.fitted.oof_logits[[position[k] for k in chosen.tolist()]]
    )
    own = look(features, dataset.test, probe.model)
    if left_out:
        other, kinds = look(features, gone, probe.model), [NEAR] * len(gone)
    else:
        every = np.arange(len(material.others))
        other = look(material.of_others, every, probe.model)
        kinds = [material.others.classes[k] for k in material.others.labels]
    new = Seen(*(np.concatenate(each) for each in zip(own, other, strict=True)))
    kind_of = np.array([OWN] * len(dataset.test) + kinds)
    found: Figures = {}
    for name, pair in candidates(training, new, probe.fitted.temperature).items():
        p = p_values(pair)
        for kind in dict.fromkeys(kind_of.tolist()):
            mine = kind_of == kind
            row = found.setdefault(name, {})
            row |= {(kind, level): float((p[mine] <= level).mean()) for level in LEVELS}
            if kind != OWN:
                row[kind, AUROC] = auroc(-pair.new[kind_of == OWN], -pair.new[mine])
    return found


def cells(name: str, splits: Sequence[tuple[Figures, list[Figures]]]) -> list[str]:
    """Return the cells of a candidate: what all classes gave, and what some classes did."""
    rows = [full[name] for full, _ in splits if name in full]
    kinds = list(dict.fromkeys(kind for kind, _ in rows[0] if kind != OWN))

    def near(measured: str | float) -> str:
        of_splits = [[each[name][NEAR, measured] for each in some if name in each]
                     for _, some in splits]  # fmt: skip
        return mean_and_error(float(np.mean(each)) for each in of_splits if each)

    def least(measured: str | float) -> str:
        worst = min(kinds, key=lambda kind: np.mean([row[kind, measured] for row in rows]))
        return f"{mean_and_error(row[worst, measured] for row in rows)} {worst}"

    far = [float(np.mean([row[kind, AUROC] for kind in kinds])) for row in rows]
    return [
        *(near(each) for each in (AUROC, *LEVELS)),
        mean_and_error(far),
        *(least(each) for each in (AUROC, *LEVELS)),
        *(mean_and_error(row[OWN, level] for row in rows) for level in LEVELS),
    ]


def compare(job: Job, name: str, a_class: int | None) -> None:
    """Print the table of a data set."""
    data, config = source_of(job, name, a_class)
    samples = scan(data, config)
    samples = dataclasses.replace(samples, parts=(None,) * len(samples))
    splits = []
    with tempfile.TemporaryDirectory() as scratch:
        others = scan(written(foreign(job), name, Path(scratch, "foreign")), TrainConfig())
        with Extractor.for_samples(load_networks(config), samples, config) as extractor:
            features, of_others = (extractor.read(all_for_training(s)) for s in (samples, others))
            material = Material(extractor.backbone, samples, features, others, of_others)
            for seed in job.seeds:
                parts = split(samples, test_fraction=PLANS[name].test_fraction, seed=seed)
                found = []
                for left_out in ((), *PLANS[name].left_out):
                    began = time.perf_counter()
                    found.append(measure(material, parts, left_out, seed))
                    seconds = time.perf_counter() - began
                    print(name, seed, *left_out, f"{seconds:.0f} s", file=sys.stderr)
                splits.append((found[0], found[1:]))
    head = ["near AUROC", "power .05", "power .01", "far AUROC, mean", "least kind"]
    head += ["far power .05, least", "far power .01, least", "level .05", "level .01"]
    print(f"{name}, {len(samples):,} images, seeds {', '.join(map(str, job.seeds))}\n")
    table(["score", *head], [[each, *cells(each, splits)] for each in splits[0][0]])


def main() -> int:
    """Compare the scores on the data sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(PLANS)}")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument(
        "--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[*range(100, 105)]
    )
    parser.add_argument("--a-class", type=int, help="fewer images of each class, to try it out")
    given = parser.parse_args()
    if unknown := set(given.names) - set(PLANS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    given.out = Path(tempfile.gettempdir())  # nothing is kept
    for name in given.names or PLANS:
        compare(Job(given), name, given.a_class)
    return 0


if __name__ == "__main__":
    sys.exit(main())
