"""What do several networks side by side give, and which of them should tell unlike images?

    python benchmarks/bench_networks.py PART... --data-root FOLDER [--data NAMES] [--models NAMES]
                                        [--seeds 0,1,2] [--at-most N]

FOLDER has flowers.zip, cifar10.zip and mnist/. The parts:

    gain      each set of the networks on each data set: accuracy and log-loss of the probe with its
              defaults, and its paired gain over the first network alone
    few       the same with 5, 10 and 25 training images of each class, tested on the test part
    unlike    one class of flowers left out in turn, two networks in both orders: the first one's
              pooled features tell how unlike an image is, vote as neighbours and find near copies

Every image is read once by every network; features are kept in the usual store. Data with parts of
their own have one split, and seeds change its folds only. Prints Markdown. Standard errors in
brackets are over the seeds; intervals of gains are paired by image, an image of several splits
counting as one.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from regraft.cli.tuning import tune_process

tune_process()

import numpy as np  # noqa: E402 - after the process was tuned

from regraft.config.train_config import TrainConfig  # noqa: E402
from regraft.data.dataset import Dataset  # noqa: E402
from regraft.data.samples import Parts  # noqa: E402
from regraft.data.scan import scan  # noqa: E402
from regraft.decision.policy import Levels  # noqa: E402
from regraft.features.extractor import Extractor, load_networks  # noqa: E402
from regraft.features.features import Features  # noqa: E402
from regraft.features.taps import POOLED, Block  # noqa: E402
from regraft.probe.decisions import Answered, DecisionSettings, decide, fit_decisions  # noqa: E402
from regraft.probe.fit import ProbeSettings, fit_plain, fit_probe, make_model  # noqa: E402
from regraft.probe.score import calibrated_probabilities  # noqa: E402
from regraft.splits.split import split  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from regraft.data.samples import Samples

LITES = "embedded+embedded-1+embedded-2"
A_CLASS = (5, 10, 25)


class Read(NamedTuple):
    """A data set that every network has read."""

    samples: Samples
    extractor: Extractor
    features: Features
    seconds: list[float]  # of the extraction by each network; 0 from the store


class Tested(NamedTuple):
    """Answers for the test part of one split."""

    test: NDArray[np.int64]
    right: NDArray[np.bool_]
    losses: NDArray[np.float64]
    seconds: float  # of the fit


def config_of(given: argparse.Namespace, name: str) -> tuple[Path | str, TrainConfig]:
    """Return a data set, and the settings by which it is read."""
    root = given.data_root
    data: dict[str, Path | str] = {
        "flowers": root / "flowers.zip", "cifar": root / "cifar10.zip", "mnist": "mnist",
        "digits": "digits",
    }  # fmt: skip
    config = TrainConfig(model=given.models, at_most=given.at_most, data_root=root / "mnist")
    return data[name], config


def read(given: argparse.Namespace, name: str) -> Read:
    """Read all images of a data set by each network."""
    data, config = config_of(given, name)
    samples = scan(data, config)
    extractor = Extractor.for_samples(load_networks(config), samples, config)
    none = np.empty(0, np.int64)
    everything = Dataset(samples, Parts(np.arange(len(samples)), none, none, left_out={}))
    rows, seconds = [], []
    for network in extractor.networks:
        began = time.perf_counter()
        alone = Extractor([network], extractor.compute, extractor.config)
        rows += alone.read(everything).networks
        seconds.append(time.perf_counter() - began)
        print(f"{name}: {network.name} {seconds[-1]:.0f} s", file=sys.stderr)
    return Read(samples, extractor, Features.of(*rows), seconds)


def parts_of(material: Read, seed: int, a_class: int | None = None) -> Parts:
    """Return the parts of a seed, perhaps with few training images of each class."""
    samples, config = material.samples, material.extractor.config
    parts = split(samples, test_fraction=config.test_fraction, seed=seed)
    if a_class is None:
        return parts
    random = np.random.default_rng(seed)
    labels = samples.labels[parts.train]
    chosen = [
        random.permutation(parts.train[labels == k])[:a_class] for k in range(len(samples.classes))
    ]
    none = np.empty(0, np.int64)
    return Parts(np.sort(np.concatenate(chosen)), none, parts.test, left_out={})


def measure(material: Read, chosen: Sequence[int], parts: Parts, seed: int) -> Tested:
    """Fit a probe of some networks, and test it."""
    samples, extractor = material.samples, material.extractor
    features = Features.of(*(material.features.networks[k] for k in chosen))
    networks = [extractor.networks[k] for k in chosen]
    dataset = Dataset(samples, parts)
    began = time.perf_counter()
    settings = ProbeSettings.of(extractor.config.replace(seed=seed))
    probe = fit_probe(features, dataset, networks, settings)
    seconds = time.perf_counter() - began
    p = calibrated_probabilities(probe.model, features, parts.test)
    truth = samples.labels[parts.test]
    losses = -np.log(np.maximum(p[np.arange(len(p)), truth], 1e-12)).astype(np.float64)
    return Tested(parts.test, p.argmax(1) == truth, losses, seconds)


def mean_and_error(values: Iterable[float], digits: int = 4) -> str:
    """Return a mean with its standard error."""
    each = np.array(list(values), float)
    error = f" ({each.std(ddof=1) / len(each) ** 0.5:.{digits}f})" if len(each) > 1 else ""
    return f"{each.mean():.{digits}f}{error}"


def paired(
    one: Sequence[Tested], other: Sequence[Tested], column: str, n: int
) -> tuple[float, float]:
    """Return the mean difference of two sets of answers over images, and its standard error."""
    total, count = np.zeros(n), np.zeros(n)
    for a, b in zip(one, other, strict=True):
        total[a.test] += getattr(b, column).astype(float) - getattr(a, column)
        count[a.test] += 1
    mean = total.sum() / count.sum()
    error = np.sqrt(np.square(total - count * mean).sum()) / count.sum()
    return float(mean), float(error)


def interval(mean: float, error: float) -> str:
    """Return a difference with its interval of 95 %."""
    return f"{mean:+.4f} ({mean - 1.96 * error:+.4f} to {mean + 1.96 * error:+.4f})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print(flush=True)


def gain(given: argparse.Namespace, a_class: int | None = None) -> list[list[str]]:
    """Compare each set of the networks with the first alone."""
    rows = []
    for name in given.data:
        material = read(given, name)
        names = [network.name for network in material.extractor.networks]
        sets = [
            chosen
            for size in range(1, len(names) + 1)
            for chosen in itertools.combinations(range(len(names)), size)
        ]
        splits = [(seed, parts_of(material, seed, a_class)) for seed in given.seeds]
        tested = {
            chosen: [measure(material, chosen, parts, seed) for seed, parts in splits]
            for chosen in sets
        }
        n = len(material.samples)
        for chosen, each in tested.items():
            base = tested[(0,)]
            more = [] if chosen == (0,) else [
                interval(*paired(base, each, "right", n)),
                interval(*paired(base, each, "losses", n)),
            ]  # fmt: skip
            rows.append([
                name, a_class or len(splits[0][1].train), "+".join(names[k] for k in chosen),
                mean_and_error(t.right.mean() for t in each),
                mean_and_error(t.losses.mean() for t in each), *(more or ["", ""]),
                mean_and_error((t.seconds for t in each), 1),
                f"{sum(material.seconds[k] for k in chosen):.0f}",
            ])  # fmt: skip
            print(rows[-1], file=sys.stderr)
    return rows


HEAD = ("data", "to train", "networks", "accuracy", "log-loss", "gain in accuracy",
        "difference in log-loss", "s of the fit", "s of the extraction")  # fmt: skip


def few(given: argparse.Namespace) -> list[list[str]]:
    """Compare with few training images."""
    return [row for a_class in A_CLASS for row in gain(given, a_class)]


def unlike(given: argparse.Namespace) -> None:
    """Compare which of two networks comes first, with one class of flowers left out in turn."""
    material = read(given, "flowers")
    samples, last = material.samples, len(material.extractor.networks) - 1
    names = [network.name for network in material.extractor.networks]
    rows = []
    for order in ((0, last), (last, 0)):
        figures = [
            _left_out(material, order, label, seed)
            for seed in given.seeds
            for label in range(len(samples.classes))
        ]
        by_seed = np.array(figures).reshape(len(given.seeds), -1, len(figures[0])).mean(1)
        columns = [mean_and_error(column, 3) for column in by_seed.T]
        rows.append(["+".join(names[k] for k in order), *columns])
    table(("networks, the first tells", "AUROC near", "called unknown at 0.05, of its own",
           "of the class left out", "neighbours' accuracy"), rows)  # fmt: skip


def _left_out(
    material: Read, order: Sequence[int], label: int, seed: int
) -> tuple[float, float, float, float]:
    """Return figures for images of a class that the training has not."""
    parts, extractor = parts_of(material, seed), material.extractor
    whole = material.samples
    own = [part[whole.labels[part] != label] for part in (parts.train, parts.test)]
    labels = whole.labels - (whole.labels > label)
    classes = tuple(name for k, name in enumerate(whole.classes) if k != label)
    samples = dataclasses.replace(whole, classes=classes, labels=labels)
    kept = Parts(own[0], np.empty(0, np.int64), own[1], left_out={})
    dataset = Dataset(samples, kept)
    features = Features.of(*(material.features.networks[k] for k in order))
    networks = [extractor.networks[k] for k in order]
    settings = ProbeSettings.of(extractor.config.replace(seed=seed))
    probe = fit_probe(features, dataset, networks, settings)
    answered = Answered(probe.fitted, probe.rows)
    decisions = fit_decisions(answered, features, dataset, DecisionSettings(Levels(unknown=0.05)))
    rules = decisions.rules(len(classes))
    foreign = np.flatnonzero(whole.labels == label)
    p_own, p_other = (
        decide(rules, probe.model, features, each).p_values for each in (kept.test, foreign)
    )
    above = (p_own[:, None] > p_other).mean() + (p_own[:, None] == p_other).mean() / 2
    pooled = (Block(POOLED),)
    by_votes = dataclasses.replace(settings, head="knn")
    votes = fit_plain(features, dataset, kept.train, pooled, by_votes)
    neighbours = make_model(networks, pooled, votes, dataset)
    answers = calibrated_probabilities(neighbours, features, kept.test).argmax(1)
    right = (answers == labels[kept.test]).mean()
    return (
        float(above),
        float((p_own <= 0.05).mean()),
        float((p_other <= 0.05).mean()),
        float(right),
    )


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=["gain", "few", "unlike"])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--data", type=lambda t: t.split(","), default=["digits", "flowers"])
    parser.add_argument("--models", default=LITES)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0, 1, 2])
    parser.add_argument("--at-most")
    given = parser.parse_args()
    for part in given.parts:
        print(f"{part}, seeds {', '.join(map(str, given.seeds))}\n", flush=True)
        if part == "unlike":
            unlike(given)
        else:
            table(HEAD, gain(given) if part == "gain" else few(given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
