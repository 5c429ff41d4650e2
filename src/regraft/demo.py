"""The demo: handwritten digits, offline, in under a minute; every number is computed here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from regraft import pipeline
from regraft.backbones.registry import at_image_size, automatic_image_size, load_backbone
from regraft.config import TrainConfig
from regraft.data.scan import scan
from regraft.data.split import assign_folds, split
from regraft.evaluation.metrics import evaluate
from regraft.features.compute import choose_compute
from regraft.features.extract import extract
from regraft.features.store import temporary_store
from regraft.heads.select import fit_head
from regraft.model import Model
from regraft.predictions import columns
from regraft.probe import fit_probe, score
from regraft.summary import interval

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.data.samples import Parts, Samples
    from regraft.report import Reporter

_FEW = 10  # images a class
_SHOWN = 3  # single images that are predicted


def run(reporter: Reporter, out: Path) -> str:
    """Train on scikit-learn's digits, compare, predict; return the text to print.

    Parameters
    ----------
    reporter : Reporter
        Follows the work.
    out : Path
        Run folder; an earlier run in it is replaced.

    Returns
    -------
    str
        One short table with intervals, single predictions, and what to type next.

    Raises
    ------
    RunError
        Where ``out`` holds something that is not a run.
    """
    config = TrainConfig(taps="all", out=out, overwrite=True)
    trained = pipeline.train("digits", config, reporter)
    samples = scan("digits", config)
    parts = split(samples, test_fraction=config.test_fraction, seed=config.seed)
    few = dataclasses.replace(parts, train=_some_of_each(samples, parts.train))
    table = columns(
        ["test accuracy (95 % interval)", f"{_FEW} images a class", f"all {len(parts.train):,}"],
        [
            [name, *(interval(evaluate(p, samples.labels[parts.test], samples.classes)["accuracy"])
                     for p in probabilities)]
            for name, probabilities in _contenders(samples, (few, parts), config, reporter)
        ],
    )  # fmt: skip
    n_test, seconds = len(parts.test), trained.metrics["seconds"]["total"]
    lines = [
        f"{len(samples):,} handwritten digits of 8 by 8 pixels, {n_test} of them for testing",
        "",
        table,
        "",
        *_predict_some(samples, parts, out),
        "",
        f"The run of all stages took {seconds:.1f} s; its figures and pictures are in {out}.",
        "Next, on your own images, one folder per class: regraft train FOLDER",
    ]
    return "\n".join(lines)


def _contenders(
    samples: Samples, settings: tuple[Parts, ...], config: TrainConfig, reporter: Reporter
) -> Iterator[tuple[str, list[NDArray[np.float32]]]]:
    """Yield each contender's name and its test probabilities, one array a setting."""
    pixels = _read_pixels(samples)
    yield (
        "logistic regression on raw pixels",
        [_fit_pixels(pixels, samples, parts, config) for parts in settings],
    )
    for title, weights, taps in (
        ("random network, all stages", "none", "all"),
        ("pretrained network, last stage", "default", "last"),
        ("pretrained network, all stages", "default", "all"),
    ):
        chosen = config.replace(weights=weights, taps=taps)
        yield title, _fit_network(samples, settings, chosen, reporter)


def _fit_network(
    samples: Samples, settings: tuple[Parts, ...], config: TrainConfig, reporter: Reporter
) -> list[NDArray[np.float32]]:
    backbone = load_backbone(config.model, config.weights, seed=config.seed)
    size, _ = automatic_image_size(backbone, samples.sizes)
    backbone = at_image_size(backbone, size, crop=False)
    compute = choose_compute(config.device, config.precision, config.batch_size)
    with temporary_store() as store:
        features = extract(
            samples, np.arange(len(samples)), backbone, compute,
            store=store, workers=2, max_pixels=config.max_pixels, reporter=reporter,
        )  # fmt: skip
        models = [fit_probe(features, samples, parts, backbone, config)[0] for parts in settings]
        return [
            score(model, features, parts.test)
            for model, parts in zip(models, settings, strict=True)
        ]


def _fit_pixels(
    pixels: NDArray[np.float32], samples: Samples, parts: Parts, config: TrainConfig
) -> NDArray[np.float32]:
    y = samples.labels[parts.train]
    keys = [samples.hashes[index] for index in parts.train]
    folds = assign_folds(y, np.arange(len(y)), config.folds, config.seed, keys)
    fitted = fit_head(pixels[parts.train], y, folds=folds, n_classes=len(samples.classes))
    model = Model(None, (), fitted.head, fitted.temperature, samples.classes, config.max_pixels)
    return model.probabilities(pixels[parts.test])


def _read_pixels(samples: Samples) -> NDArray[np.float32]:
    stream = samples.stream(range(len(samples)))
    return np.stack([np.asarray(load(), np.float32).ravel() / 255 for _, load in stream])


def _some_of_each(samples: Samples, train: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take the same number of training images of each class, by content hash."""
    ranked = sorted(train, key=lambda index: samples.hashes[index])
    chosen: list[int] = []
    for label in range(len(samples.classes)):
        chosen += [int(i) for i in ranked if samples.labels[i] == label][:_FEW]
    return np.sort(np.asarray(chosen, dtype=np.int64))
