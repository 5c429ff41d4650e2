"""Do the 95 % intervals hold the truth in 95 of 100 simulated tests?

    python benchmarks/bench_coverage.py [--seeds 0,1,2] [--draws 150] [--every]

No data are needed. Confusion matrices are drawn for 20 to 2,000 images of 2 to 100 classes, which
are equally common, or one is rare, or their shares fall as 1 / rank; the model is right in 60, 90
or 99 % of the cases, and its errors are random or go to one other class, mostly from every second
class. For each measure, the table has the coverage of regraft's interval and of others: the
percentile bootstrap, the asymptotic interval of Takahashi et al. 2022, Jeffreys' prior on each row
of the matrix or on all its cells (up to 20 classes). Then paired differences, losses and the
calibration error. Prints Markdown: ``docs/design/intervals.md`` has the output for seeds 0, 1 and 2
(choices were made with seeds from 100). ``--every`` prints each setting of regraft's as a JSON line
too. Takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special, stats

from regraft.evaluation.calibration import calibration_error
from regraft.evaluation.intervals import ClassCounts, of_difference, wilson
from regraft.evaluation.metrics import class_scores, macro_averages, mean_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

Z = float(special.ndtri(0.975))
IMAGES, CLASSES = (20, 40, 100, 400, 2000), (2, 5, 20, 100)
SHARES, RIGHT, ERRORS = ("equal", "rare", "tail"), (0.6, 0.9, 0.99), ("random", "pairs")
MACRO = ("macro_recall", "macro_precision", "macro_f1")
RESAMPLES = 100
OTHERS_DRAWS = 20  # with the slow methods, for each seed


class Found(NamedTuple):
    """What one method did in one setting."""

    covered: float  # share of the intervals that hold the truth
    width: float
    shown: float  # share of the draws that have an interval
    draws: int


# --- confusion matrices -----------------------------------------------------------------------


def cells_of(k: int, shares: str, right: float, errors: str) -> np.ndarray:
    """Return the probabilities (K, K) of true and predicted classes."""
    classes = np.full(k, 1 / k)
    if shares == "rare":  # the last has a twentieth of its share among two, and so on
        classes = np.full(k, (1 - 0.1 / k) / (k - 1))
        classes[-1] = 0.1 / k
    elif shares == "tail":
        classes = 1 / np.arange(1, k + 1)
        classes /= classes.sum()
    if errors == "random":
        rows = np.full((k, k), (1 - right) / (k - 1))
        np.fill_diagonal(rows, right)
    else:
        wrong = (1 - right) * np.where(np.arange(k) % 2 == 0, 0.25, 1.75)
        other = np.arange(k) ^ 1
        other[other >= k] = 0
        rows = np.diag(1 - wrong)
        rows[np.arange(k), other] += wrong
    return classes[:, None] * rows


def scores(table: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return macro recall, precision and F1 (..., 3) of matrices (..., K, K)."""
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    return _scores(hits, table.sum(-1), table.sum(-2), present)


def _scores(
    hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray, present: np.ndarray
) -> np.ndarray:
    tiny, count = 1e-300, present.sum(-1)
    means = [
        (hits / np.maximum(of, tiny) * present).sum(-1) / count
        for of in (actual, predicted, (actual + predicted) / 2)
    ]
    return np.stack(means, -1)


def by_bootstrap(table: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows, columns = np.nonzero(table)
    n, k = table.sum(), len(table)
    drawn = random.multinomial(n, table[rows, columns] / n, size=RESAMPLES)
    to_row, to_column = np.eye(k)[rows], np.eye(k)[columns]
    actual = drawn @ to_row
    counts = (drawn * (rows == columns)) @ to_row, actual, drawn @ to_column
    return np.quantile(_scores(*counts, actual > 0), [0.025, 0.975], axis=0)


def by_takahashi(table: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the asymptotic intervals: Wald's, with the variance by the delta method."""
    del random
    actual, predicted, hits = table.sum(1), table.sum(0), np.diag(table)
    present = actual > 0
    value, ends = scores(table, present), []
    for row, column in ((1, 0), (0, 1), (0.5, 0.5)):
        of = np.maximum(row * actual + column * predicted, 0.5)
        each, weight = hits / of, present / of / present.sum()
        gradient = -(row * (weight * each)[:, None] + column * (weight * each)[None])
        np.fill_diagonal(gradient, weight * (1 - each))
        ends.append(Z * np.sqrt((table * gradient**2).sum()))
    return np.stack([value - ends, value + ends])


def by_jeffreys(table: np.ndarray, random: np.random.Generator, *, rows: bool) -> np.ndarray:
    drawn = random.standard_gamma(table + 0.5, size=(RESAMPLES, *table.shape))
    if rows:
        drawn *= table.sum(1)[:, None] / drawn.sum(2, keepdims=True)
    return np.quantile(scores(drawn, table.sum(1) > 0), [0.025, 0.975], axis=0)


OTHERS = {
    "bootstrap, percentile": by_bootstrap,
    "asymptotic (Takahashi)": by_takahashi,
    "Jeffreys, rows": partial(by_jeffreys, rows=True),
    "Jeffreys, all cells": partial(by_jeffreys, rows=False),
}


class Tally:
    """Counts intervals by measure and method."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[tuple[bool, float]]] = defaultdict(list)
        self.draws: dict[tuple[str, str], int] = defaultdict(int)

    def add(self, measure: str, method: str, ends: Any, truth: float) -> None:
        """Count one interval; None in place of the ends is one that is not shown."""
        self.draws[measure, method] += 1
        low, high = ends
        if low is not None:
            low, high = max(low, 0.0), min(high, 1.0)
            inside = low - 1e-9 <= truth <= high + 1e-9
            self.rows[measure, method].append((bool(inside), high - low))

    def found(self) -> dict[tuple[str, str], Found]:
        """Return coverage, mean width and number by measure and method."""
        result = {}
        for key, draws in self.draws.items():
            rows = np.array(self.rows[key] or [(np.nan, np.nan)], dtype=float)
            result[key] = Found(*rows.mean(0), len(self.rows[key]) / draws, len(self.rows[key]))
        return result


def simulate(setting: tuple[Any, ...], seeds: list[int], draws: int) -> dict[Any, Found]:
    """Draw matrices of one setting, and count what each method does with them."""
    n, k, *rest = setting
    cells, tally = cells_of(k, *rest), Tally()
    for seed in seeds:
        random = np.random.default_rng([seed, n, k, *(int(50 * len(str(each))) for each in rest)])
        tables = random.multinomial(n, cells.ravel(), size=draws).reshape(-1, k, k)
        for number, table in enumerate(tables):
            counts = ClassCounts(np.diag(table), table.sum(1), table.sum(0))
            truth = dict(zip(MACRO, scores(cells, counts.actual > 0).tolist(), strict=True))
            for name, estimate in macro_averages(table, counts).items():
                tally.add(name, "regraft", (estimate["low"], estimate["high"]), truth[name])
            if number < OTHERS_DRAWS:
                _add_classes(tally, cells, counts)
                _add_others(tally, table, truth, random)
    return tally.found()


def _add_classes(tally: Tally, cells: np.ndarray, counts: ClassCounts) -> None:
    actual, predicted, hits = cells.sum(1), cells.sum(0), np.diag(cells)
    truth = {"recall": actual, "precision": predicted, "f1": (actual + predicted) / 2}
    for label, row in enumerate(class_scores(counts, [""] * len(cells))):
        for name, of in truth.items():
            if row["n"] and row[name]["value"] is not None:
                ends = row[name]["low"], row[name]["high"]
                tally.add(f"{name} of a class", "regraft", ends, hits[label] / of[label])


def _add_others(
    tally: Tally, table: np.ndarray, truth: dict[str, float], random: np.random.Generator
) -> None:
    for method, others in OTHERS.items():
        if len(table) <= 20 or "Jeffreys" not in method:
            for name, low, high in zip(MACRO, *others(table, random), strict=True):
                tally.add(name, method, (low, high), truth[name])


# --- paired differences -----------------------------------------------------------------------

PAIRS = (
    (0.005, 0.005), (0.02, 0.01), (0.05, 0.01), (0.05, 0.05), (0.1, 0.03), (0.1, 0.0), (0.2, 0.2),
    (0.3, 0.1), (0.5, 0.1),
)  # fmt: skip


def newcombe(first: int, second: int, n: int, both: int) -> tuple[float, float]:
    """Newcombe 1998, method 10: Wilson's intervals of both accuracies, and their correlation."""
    a, b, c, d = both, first, second, n - both - first - second
    shares = np.array([a + b, a + c]) / n
    low, high = wilson(shares, np.full(2, float(n)))
    product_ = float(a * d - b * c)
    product_ = product_ - n / 2 if product_ > n / 2 else min(product_, 0.0)
    margins = np.sqrt(float((a + b) * (c + d) * (a + c) * (b + d)))
    phi = product_ / margins if margins else 0.0
    down, up = shares - low, high - shares

    def reach(x: float, y: float) -> float:
        return float(np.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0)))

    value = (b - c) / n
    return value - reach(down[0], up[1]), value + reach(up[0], down[1])


def student_difference(first: int, second: int, n: int) -> tuple[float, float]:
    value = (first - second) / n
    error = np.sqrt(max(first + second - n * value**2, 0.0) / (n - 1) / n)
    half = stats.t.ppf(0.975, n - 1) * error
    return value - half, value + half


@cache
def percentile_difference(first: int, second: int, n: int) -> tuple[float, float]:
    shares = np.array([first, second, n - first - second]) / n
    drawn = np.random.default_rng(0).multinomial(n, shares, size=2000)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return float(low), float(high)


def simulate_pairs(n: int, pair: tuple[float, float], seeds: list[int]) -> dict[Any, Found]:
    """Of the images that both have right or wrong, four fifths are right."""
    alike, tally = 1 - sum(pair), Tally()
    tango = cache(of_difference)
    for seed in seeds:
        random = np.random.default_rng([seed, n])
        for first, second, both in random.multinomial(
            n, [*pair, 0.8 * alike, 0.2 * alike], size=700
        )[:, :3].tolist():
            for method, ends in {
                "regraft (Tango)": tango(first, second, n),
                "Newcombe": newcombe(first, second, n, both),
                "Student": student_difference(first, second, n),
                "bootstrap, percentile": percentile_difference(first, second, n),
            }.items():  # shifted to [0, 1], as shares are
                low, high = (np.clip(end, -1, 1) / 2 + 0.5 for end in ends)
                tally.add("difference", method, (low, high), (pair[0] - pair[1]) / 2 + 0.5)
    found = tally.found()
    return {key: each._replace(width=2 * each.width) for key, each in found.items()}


# --- losses and the calibration error ----------------------------------------------------------


class Answers(NamedTuple):
    """A million answers."""

    losses: np.ndarray
    squares: np.ndarray
    hits: np.ndarray
    confidences: np.ndarray


def answers(k: int, distance: float, sharpness: float, seed: int) -> Answers:
    """Draw classes with normal rows; a sharpness of 1 gives calibrated probabilities."""
    random, n = np.random.default_rng([seed, k, int(10 * distance)]), 400_000
    rows, truth = random.normal(size=(n, k)), random.integers(0, k, n)
    rows[np.arange(n), truth] += distance
    p = special.softmax(sharpness * distance * rows, axis=1)
    of_truth = p[np.arange(n), truth]
    losses = -np.log(np.maximum(of_truth, np.finfo(float).eps))
    squares = np.square(p).sum(1) + 1 - 2 * of_truth
    return Answers(losses, squares, p.argmax(1) == truth, p.max(1))


def simulate_losses(drawn: Answers, n: int) -> dict[Any, Found]:
    tally, repeats = Tally(), min(300, len(drawn.hits) // n)
    for name, values, most in (("log-loss", drawn.losses, 36.1), ("Brier", drawn.squares, 2.0)):
        truth = float(values.mean()) / most
        for number in range(repeats):
            part = slice(number * n, (number + 1) * n)
            mean, error = values[part].mean(), stats.sem(values[part])
            half = stats.t.ppf(0.975, n - 1) * error
            found = mean_loss(values[part], most, drawn.hits[part])
            ends = (mean - half) / most, (mean + half) / most
            tally.add(name, "Student", ends, truth)
            if found["low"] is None:
                tally.add(name, "regraft", (None, None), truth)
            else:
                tally.add(name, "regraft", (found["low"] / most, found["high"] / most), truth)
    return tally.found()


def calibration_row(drawn: Answers, n: int, words: str, seed: int) -> str:
    whole = calibration_error(drawn.confidences[:200_000], drawn.hits[:200_000], seed)
    found = [
        calibration_error(drawn.confidences[i : i + n], drawn.hits[i : i + n], seed)
        for i in range(0, min(200 * n, len(drawn.hits) - n), n)
    ]
    value = np.array([each["value"] for each in found])
    mean = np.array([each["calibrated"]["mean"] for each in found])
    high = np.array([each["calibrated"]["high"] for each in found])
    return (
        f"| {words} | {drawn.hits.mean():.2f} | {n:,} | {whole['value']:.3f} "
        f"| {value.mean():.3f} | {mean.mean():.3f} | {high.mean():.3f} "
        f"| {(value > high).mean():.2f} |"
    )


# --- the tables -----------------------------------------------------------------------------


def summary(found: dict[Any, dict[Any, Found]]) -> Iterator[str]:
    """Yield one row for each measure and method, over the settings with 50 intervals or more."""
    by_method: dict[tuple[str, str], list[tuple[Any, Found]]] = defaultdict(list)
    for setting, results in found.items():
        for key, each in results.items():
            by_method[key].append((setting, each))
    yield "| measure | interval | shown | 0.93 to 0.97 | below | lowest, and where | width |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for (measure, method), rows in sorted(by_method.items(), key=lambda item: item[0][0]):
        many = [(setting, each) for setting, each in rows if each.draws >= 50]
        covered = np.array([each.covered for _, each in many])
        # Two standard errors of the simulation, at most those of 450 draws.
        error = 2 * np.sqrt(0.05 * 0.95 / np.minimum([each.draws for _, each in many], 450))
        below, above = covered < 0.93 - error, covered > 0.97 + error
        worst, lowest = min(many, key=lambda row: row[1].covered)
        shown = np.mean([each.shown for _, each in rows])
        width = np.mean([each.width for _, each in many])
        yield (
            f"| {measure} | {method} | {shown:.0%} | {np.mean(~below & ~above):.0%} | "
            f"{below.mean():.0%} | {lowest.covered:.2f} ({', '.join(map(str, worst))}) | "
            f"{width:.3f} |"
        )


def by_size(found: dict[Any, dict[Any, Found]]) -> Iterator[str]:
    """Yield lowest and highest coverage of regraft's macro intervals by images and classes."""
    yield "| images | classes | macro recall | macro precision | macro F1 | shown |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for n, k in product(IMAGES, CLASSES):
        some = [results for setting, results in found.items() if setting[:2] == (n, k)]
        cells = []
        for name in MACRO:
            own = [each[name, "regraft"] for each in some]
            covered = [each.covered for each in own if each.draws >= 50]
            cells.append(f"{min(covered):.2f} to {max(covered):.2f}" if covered else "none")
        shown = np.mean([each["macro_f1", "regraft"].shown for each in some])
        yield f"| {n:,} | {k} | {' | '.join(cells)} | {shown:.0%} |"


def exceptions(found: dict[Any, dict[Any, Found]]) -> Iterator[str]:
    """Yield the settings where regraft's macro intervals cover less than 0.92."""
    yield "| images | classes | their shares | right | errors | measure | coverage | shown |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for setting, results in found.items():
        for (measure, method), each in results.items():
            if (
                method == "regraft"
                and each.draws >= 50
                and each.covered < 0.92
                and "of a" not in measure
            ):
                row = (*setting, measure, f"{each.covered:.2f}", f"{each.shown:.0%}")
                yield f"| {' | '.join(str(part) for part in row)} |"


def of_accuracy() -> Iterator[str]:
    """Yield the exact coverage of Wilson's interval; also of groups that stand or fall together."""
    yield "| images | right 0.6 | 0.9 | 0.99 | lowest, and where | 0.9, in groups of 4 |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for n in IMAGES:
        counts = np.arange(n + 1)
        low, high = wilson(counts / n, np.full(n + 1, float(n)))

        def covered(p: float, n: int = n, each: int = 1, low: Any = low, high: Any = high) -> float:
            inside = (low <= p) & (p <= high)
            return float(
                stats.binom.pmf(np.arange(n // each + 1), n // each, p)[inside[::each]].sum()
            )

        grid = np.arange(0.5, 1, 0.001)
        every = [covered(p) for p in grid]
        worst = int(np.argmin(every))
        cells = [f"{covered(p):.3f}" for p in RIGHT]
        lowest = f"{every[worst]:.3f} ({grid[worst]:.3f})"
        yield f"| {n:,} | {' | '.join(cells)} | {lowest} | {covered(0.9, each=4):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--draws", type=int, default=150, help="of each setting, for each seed")
    parser.add_argument("--every", action="store_true", help="print every setting of regraft's")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]

    print("Accuracy, precision and recall of a class: Wilson, exact\n")
    print("\n".join(of_accuracy()), flush=True)

    pairs = {(n, *pair): simulate_pairs(n, pair, seeds) for n in (2, 5, *IMAGES) for pair in PAIRS}
    print("\nDifferences of two accuracies on the same images\n")
    print("\n".join(summary(pairs)), flush=True)

    losses, rows = {}, []
    for k, distance, sharpness in product((2, 20), (0.5, 1.5, 2.5, 4.0), (1.0, 0.5, 3.0)):
        drawn = answers(k, distance + (k > 2), sharpness, seeds[0])
        right = round(float(drawn.hits.mean()), 3)
        for n in (5, 10, *IMAGES):
            losses[n, k, right, sharpness] = simulate_losses(drawn, n)
        if distance == 1.5 and sharpness != 0.5:
            words = f"{'calibrated' if sharpness == 1 else 'too sure'}, {k} classes"
            rows += [calibration_row(drawn, n, words, seeds[0]) for n in IMAGES]
    print("\nLosses (setting: images, classes, share of right answers, sharpness)\n")
    print("\n".join(summary(losses)))
    print("\nCalibration error\n")
    print("| model | right | images | true | printed | calibrated: mean | 95 % | above it |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows), flush=True)

    macro = {}
    for setting in product(IMAGES, CLASSES, SHARES, RIGHT, ERRORS):
        macro[setting] = simulate(setting, seeds, given.draws)
        print(*setting, file=sys.stderr, flush=True)
        if given.every:
            own = [(*key, *each) for key, each in macro[setting].items() if key[1] == "regraft"]
            print(json.dumps([setting, own]))
    print("\nMeasures of the confusion matrix (setting: images, classes, shares, right, errors)\n")
    print("\n".join(summary(macro)))
    print("\nCoverage of regraft's, lowest and highest (shown: macro precision and macro F1)\n")
    print("\n".join(by_size(macro)))
    print("\nWhere regraft's cover less than 0.92\n")
    print("\n".join(exceptions(macro)))


if __name__ == "__main__":
    main()
