"""Does ``regraft drift`` keep its level, and what does it find?

    python benchmarks/bench_drift.py FLOWERS.zip [--seeds 100-109] [--sizes 300,1000] [--no-bank]
        [--out FOLDER]
    python benchmarks/bench_drift.py simulated

For each seed and size, so many photographs at random are a training (``regraft.train`` with its
defaults, all of them for training but a tenth), and the others are new images of the same kind: 20,
100 and 500 of them at a time, each set without the images of the others. Byte-identical photographs
count once. Prints the shares of p-values of at most 0.05 and 0.01, with standard errors over the
seeds, of

    typicality   the test of ``regraft drift``
    independent  Fisher's test of the same p-values taken for independent, for comparison
    shares       the test of the predicted classes' shares
    labels       the same against the labels of the training, for comparison

and the power: a share of the new images replaced by those of a class that was left out (``near``).

``simulated`` compares statistics on random numbers: Mann and Whitney's, the logarithms alone, both
(the test of ``regraft drift``), and p-values taken for independent.

With features in the store a training of 300 takes seconds. docs/design/decisions-drift.md has the
output.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import chi2, mannwhitneyu, norm

import regraft
from regraft.bundle.predictor import Predictor
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import SILENT
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.decision.drift import compare_shares, compare_typicality
from regraft.features.extractor import Extractor
from regraft.probe.decisions import decide
from regraft.probe.score import calibrated_probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

NEW = (20, 100, 500)
TESTS = ("typicality", "independent", "shares", "labels")


class Photographs:
    """All photographs, each content once, in a folder."""

    def __init__(self, archive: Path, scratch: Path, *, bank: bool = True) -> None:
        self.bank = bank
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(scratch)
        self.root = scratch
        self.config = TrainConfig()
        found = scan(scratch, self.config, SILENT)
        self.samples = found
        first = next(scratch.glob(f"**/{found.ids[0]}"))
        self._home = str(first)[: -len(found.ids[0])]  # folders that all photographs are in
        self.distinct = np.unique(np.array(found.hashes), return_index=True)[1]

    def name(self, index: int) -> str:
        """Return the path of a photograph."""
        return self._home + self.samples.ids[index]


def tests_of(
    p_values: np.ndarray, probabilities: np.ndarray, answers: Any, n_scores: int
) -> tuple[float, ...]:
    """Return the p-values of all four tests for some new images."""
    k = probabilities.shape[1]
    new = probabilities[p_values > 0.01].argmax(1)
    return (
        compare_typicality(p_values, n_scores),
        float(chi2.sf(-2 * np.log(p_values).sum(), 2 * len(p_values))),
        compare_shares(new, answers.answered, k).p_value,
        compare_shares(new, answers.labels, k).p_value,
    )


def one_training(
    photographs: Photographs, chosen: np.ndarray, out: Path, seed: int
) -> tuple[Predictor, np.ndarray, np.ndarray]:
    """Train on some photographs; return p-values and probabilities of all."""
    rows = ["path,label"] + [
        f'"{photographs.name(k)}",{photographs.samples.classes[photographs.samples.labels[k]]}'
        for k in chosen.tolist()
    ]
    table = photographs.root / f"{out.name}.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    if not (out / "metrics.json").exists():
        regraft.train(table, out=out, seed=seed, test_fraction=0.1, bank=photographs.bank)
    predictor = Predictor.load(out)
    samples = photographs.samples
    everything = Dataset.only_test(samples, np.arange(len(samples)))
    config = photographs.config
    with Extractor(predictor.model.networks, predictor.compute, config, SILENT) as extractor:
        features = extractor.read(everything)
        rules = predictor.rules()
        decided = decide(rules, predictor.model, features, everything.test)
        probabilities = calibrated_probabilities(predictor.model, features, everything.test)
    return predictor, decided.p_values, probabilities


def level(photographs: Photographs, seeds: Sequence[int], size: int, out: Path) -> None:
    """Print the shares of small p-values where nothing has changed."""
    found: dict[int, list[list[np.ndarray]]] = {m: [] for m in NEW}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        order = rng.permutation(photographs.distinct)
        predictor, p_values, probabilities = one_training(
            photographs, order[:size], out / f"level-{size}-{seed}", seed
        )
        n_scores = len(predictor.decisions.typicality.scores)
        rest = order[size:]
        for m in NEW:
            sets = [rest[start : start + m] for start in range(0, len(rest) - m + 1, m)][:20]
            found[m].append([
                np.array(tests_of(p_values[s], probabilities[s], predictor.decisions.answers,
                                  n_scores))
                for s in sets
            ])  # fmt: skip
    for m in NEW:
        for name, column in zip(TESTS, range(len(TESTS)), strict=True):
            cells = []
            for bound in (0.05, 0.01):
                shares = np.array([np.mean([s[column] <= bound for s in e]) for e in found[m]])
                error = shares.std(ddof=1) / len(shares) ** 0.5 if len(shares) > 1 else 0
                cells.append(f"{shares.mean():.3f} ({error:.3f})")
            print(f"| {size:,} | {m} | {name} | {' | '.join(cells)} |", flush=True)


def near(photographs: Photographs, seeds: Sequence[int], size: int, out: Path) -> None:
    """Print the power where some new images are of a class that was left out of the training."""
    samples = photographs.samples
    labels = samples.labels[photographs.distinct]
    for share in (0.1, 0.3):
        for m in NEW[:2]:
            small = []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                left = seed % len(samples.classes)
                own = rng.permutation(photographs.distinct[labels != left])
                other = rng.permutation(photographs.distinct[labels == left])
                predictor, p_values, _ = one_training(
                    photographs, own[:size], out / f"near-{size}-{seed}", seed
                )
                n = len(predictor.decisions.typicality.scores)
                strange = int(share * m)
                for part in range(5):
                    new = own[size + part * m :][: m - strange]
                    both = np.concatenate([new, other[part * strange :][:strange]])
                    small.append(compare_typicality(p_values[both], n) <= 0.05)
            print(f"| {size:,} | {m} | {share} | {np.mean(small):.2f} |", flush=True)


def simulated() -> None:
    """Print the shares of p-values of at most 0.05 of several statistics, for random numbers."""
    cases: dict[str, tuple[int, int, Any]] = {
        "nothing, 500 and 100": (500, 100, lambda _, new: new),
        "nothing, 40 and 200": (40, 200, lambda _, new: new),
        "all by 0.3 deviations": (500, 100, lambda _, new: new + 0.3),
        "a third by 1 deviation": (500, 100, lambda r, new: new + (r.random(100) < 0.33)),
        "one in twenty by 6 deviations": (
            500,
            100,
            lambda r, new: new + 6 * (r.random(100) < 0.05),
        ),
    }
    print("| changed | Mann and Whitney | logarithms | both | independent |")
    print("| --- | --- | --- | --- | --- |")
    for name, (n, m, change) in cases.items():
        rng = np.random.default_rng(0)
        found = []
        for _ in range(400):
            scores, new = rng.normal(size=n), change(rng, rng.normal(size=m))
            p = (1 + (scores[None] >= new[:, None]).sum(1)) / (n + 1)
            share = 1 - (np.concatenate([scores, new]).argsort().argsort() + 0.0) / (n + m)
            logs = -np.log(share)
            draws = np.array([logs[rng.permutation(n + m)[:m]].sum() for _ in range(199)])
            found.append((
                mannwhitneyu(new, scores, alternative="greater").pvalue,
                (1 + (draws >= logs[n:].sum()).sum()) / 200,
                compare_typicality(p, n),
                norm.cdf((p.mean() - (n + 2) / (2 * (n + 1))) * np.sqrt(12 * m)),
            ))  # fmt: skip
        shares = (np.array(found) <= 0.05).mean(0)
        print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |", flush=True)


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a list with commas, or of a range."""
    if "-" in text:
        first, last = map(int, text.split("-"))
        return list(range(first, last + 1))
    return [int(word) for word in text.split(",")]


def main() -> int:
    """Measure level and power."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--seeds", type=numbers, default=list(range(100, 110)))
    parser.add_argument("--sizes", type=numbers, default=[300, 1000])
    parser.add_argument("--no-bank", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "drift")
    given = parser.parse_args()
    if str(given.archive) == "simulated":
        simulated()
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        photographs = Photographs(given.archive, Path(scratch), bank=not given.no_bank)
        print("| training | new | test | p <= 0.05 | p <= 0.01 |\n| --- | --- | --- | --- | --- |")
        for size in given.sizes:
            level(photographs, given.seeds, size, given.out)
        print(
            "\n| training | new | of a class left out | power at 0.05 |\n| --- | --- | --- | --- |"
        )
        near(photographs, given.seeds, given.sizes[0], given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
