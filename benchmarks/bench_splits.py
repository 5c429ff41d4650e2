"""How accurate is the probe over many splits, and is it ever below the last stage alone?

    python benchmarks/bench_splits.py DATA [--taps auto] [--model embedded] [--weights default]
                                      [--a-class N] [--shrinkage X] [--first 100] [--count 10]
                                      [--image-size auto] [--images N] [--views K [--tta]]

Features are extracted once (into the usual store). For each split, the probe and the last stage
alone are fitted and scored on the same images. Prints one JSON line: mean test accuracy and
log-loss of both, the paired difference over splits with its standard error, how often each set of
blocks was chosen, and the mean seconds of a fit. With ``--images``, only so many images of the data
(by content hash) are used. Seeds begin at 100: seeds 0, 1 and 2 are for published figures.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import statistics
import time

from regraft.cli.tuning import tune_process

tune_process()

import numpy as np  # noqa: E402 - after the process was tuned

from regraft.config.train_config import TrainConfig  # noqa: E402
from regraft.data.dataset import Dataset  # noqa: E402
from regraft.data.samples import Parts  # noqa: E402
from regraft.data.scan import scan  # noqa: E402
from regraft.evaluation.metrics import measure_classification  # noqa: E402
from regraft.features.extractor import Extractor, load_networks  # noqa: E402
from regraft.heads import standardise as rows  # noqa: E402
from regraft.probe.fit import ProbeSettings, fit_probe  # noqa: E402
from regraft.probe.score import calibrated_probabilities  # noqa: E402
from regraft.splits.split import split  # noqa: E402


def few(samples, train, a_class, seed):
    """Draw some training images of each class."""
    order = np.random.default_rng(seed).permutation(train)
    chosen = [order[samples.labels[order] == k][:a_class] for k in range(len(samples.classes))]
    return np.sort(np.concatenate(chosen))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--taps", default="auto")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--a-class", type=int)
    parser.add_argument("--shrinkage", type=float, default=rows.SHRINKAGE)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--image-size", default="auto")
    parser.add_argument("--images", type=int)
    parser.add_argument("--views", type=int, default=0)
    parser.add_argument("--tta", action="store_true")
    parser.add_argument("--data-root")
    given = parser.parse_args()
    rows.SHRINKAGE = given.shrinkage
    names = ("taps", "precision", "model", "weights", "image_size", "views", "tta", "data_root")
    config = TrainConfig(**{name: getattr(given, name) for name in names})
    samples = scan(given.data, config)
    extractor = Extractor.for_samples(load_networks(config), samples, config)
    backbone, config = extractor.backbone, extractor.config
    every = np.arange(len(samples))
    if given.images:
        every = np.sort(sorted(every, key=lambda i: samples.hashes[i])[: given.images])
    begin = time.perf_counter()
    features = extractor.read(Dataset(samples, Parts(every, every[:0], every[:0], {})))
    extraction = time.perf_counter() - begin
    results, seconds, chosen = {"probe": [], "last_stage": []}, [], collections.Counter()
    for seed in range(given.first, given.first + given.count):
        parts = split(samples, test_fraction=config.test_fraction, seed=seed)
        parts = dataclasses.replace(
            parts,
            train=np.intersect1d(parts.train, every),
            test=np.intersect1d(parts.test, every),
        )
        if given.a_class:
            train = few(samples, parts.train, given.a_class, seed)
            parts = dataclasses.replace(parts, train=train)
        start = time.perf_counter()
        settings = ProbeSettings.of(config.replace(seed=seed))
        probe = fit_probe(features, Dataset(samples, parts), (backbone,), settings)
        seconds.append(time.perf_counter() - start)
        chosen[next(row["taps"] for row in probe.fitted.record["candidates"] if row["chosen"])] += 1
        truth = samples.labels[parts.test]
        for name, model in (("probe", probe.model), ("last_stage", probe.last_stage)):
            probabilities = calibrated_probabilities(model or probe.model, features, parts.test)
            result = measure_classification(probabilities, truth, samples.classes)
            results[name].append((result["accuracy"]["value"], result["log_loss"]["value"]))
    probe, last = np.asarray(results["probe"]), np.asarray(results["last_stage"])
    gain = probe - last
    error = gain.std(axis=0, ddof=1) / len(gain) ** 0.5
    print(
        json.dumps(
            {
                **vars(given),
                "accuracy": probe[:, 0].mean(),
                "sd": probe[:, 0].std(ddof=1),
                "log_loss": probe[:, 1].mean(),
                "last_stage": {"accuracy": last[:, 0].mean(), "log_loss": last[:, 1].mean()},
                "gain": {"accuracy": gain[:, 0].mean(), "se": error[0]},
                "gain_log_loss": {"value": gain[:, 1].mean(), "se": error[1]},
                "chosen": chosen,
                "pixels": backbone.preprocess.image_size,
                "n": {"train": len(parts.train), "test": len(parts.test)},
                "extracted": features.n_extracted,
                "extract_seconds": extraction,
                "fit_seconds": statistics.mean(seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
