"""How long does the logistic head take with many images and classes, and is it at its minimum?

    python benchmarks/bench_solver.py [--images 100000] [--features 2000] [--classes 1000]
                                      [--seed 100] [--most-classes N]

Rows are drawn at random, because no data set here has so many classes; the matrices of a fit have
the same sizes as with real data. Each class has a centre in the 128 directions of largest variance,
and the variances fall by a power law, like those of the default network's coordinates. The head is
fitted as in a training: folds of 8,192 images choose the penalty; all images use it, or choose
again if the 8,192 have few images of each class. Prints one JSON line: seconds of both fits,
iterations, the estimated distance from the minimum in nats, the norm of the gradient, accuracy on
10,000 other rows, and the peak of memory. ``--most-classes`` replaces
``logistic.MOST_CLASSES_AT_ONCE``. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

from regraft.cli.tuning import tune_process

tune_process()

import numpy as np  # noqa: E402 - after the process was tuned
import torch  # noqa: E402

from regraft.heads import logistic  # noqa: E402
from regraft.heads.fit import fit_head  # noqa: E402
from regraft.heads.standardise import Standard  # noqa: E402

_CHOOSING = 8192  # as in probe/fit.py
_TESTED = 10_000


def draw(n: int, d: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (n, d), float32, with a mean squared length of 1, and their classes."""
    chance = np.random.default_rng(seed)
    scale = (np.arange(1, d + 1) ** -0.6).astype(np.float32)
    centres = chance.normal(size=(k, d)).astype(np.float32)
    centres[:, 128:] = 0
    y = chance.integers(0, k, n)
    y[:k] = np.arange(k)  # every class has a row
    x = np.empty((n, d), np.float32)
    for start in range(0, n, 4096):
        some = slice(start, start + 4096)
        x[some] = chance.standard_normal((len(y[some]), d), np.float32)
        x[some] += 0.4 * centres[y[some]]
        x[some] *= scale
    x /= np.sqrt(np.square(x[:4096]).sum(1).mean())
    return x, y


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--most-classes", type=int, default=logistic.MOST_CLASSES_AT_ONCE)
    given = parser.parse_args()
    logistic.MOST_CLASSES_AT_ONCE = given.most_classes
    n, d, k = given.images, given.features, given.classes
    x, y = draw(n + _TESTED, d, k, given.seed)
    x, x_test, y, y_test = x[:n], x[n:], y[:n], y[n:]
    folds = np.random.default_rng(given.seed).integers(0, 5, n)
    shared = {"n_classes": k, "standard": Standard.none(d)}
    began = time.perf_counter()
    few = min(n, _CHOOSING)
    fitted = near = fit_head(x[:few], y[:few], folds=folds[:few], refit=few == n, **shared)
    choosing = time.perf_counter() - began
    if few < n:
        fitted = fit_head(x, y, folds=folds, near=near, **shared)
    logits = fitted.head(torch.from_numpy(x_test)).numpy()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux
    names = ("penalty", "iterations", "gradient_norm", "gap", "converged")
    print(
        json.dumps(
            {
                **vars(given),
                "choosing_seconds": round(choosing, 1),
                "all_seconds": round(time.perf_counter() - began, 1),
                "penalties": [len(near.history), len(fitted.history)],
                "folds": [near.record["folds_scored"], fitted.record["folds_scored"]],
                **{name: fitted.record[name] for name in names},
                "accuracy": float((logits.argmax(1) == y_test).mean()),
                "peak_gigabytes": round(peak / 1e6, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
