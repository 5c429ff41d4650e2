"""The demo: handwritten digits, offline, in under a minute; every number is computed here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft import pipeline
from regraft.backbones.registry import at_image_size, automatic_image_size, load_backbone
from regraft.bundle.predictor import Predictor
from regraft.config import TrainConfig
from regraft.data.scan import scan
from regraft.data.split import assign_folds, split
from regraft.evaluation.metrics import evaluate
from regraft.features.compute import choose_compute
from regraft.features.extract import extract
from regraft.features.store import temporary_store
from regraft.heads.select import fit_head
from regraft.probe import fit_probe, score

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
    config = TrainConfig(taps="all@2", out=out, overwrite=True)
    trained = pipeline.train("digits", config, reporter)
    samples = scan("digits", config)
    parts = split(samples, test_fraction=config.test_fraction, seed=config.seed)
    few = dataclasses.replace(parts, train=_some_of_each(samples, parts.train))
    truth = samples.labels[parts.test]
    rows = [
        ["test accuracy (95 % interval)", f"{_FEW} images a class", f"all {len(parts.train):,}"]
    ]
    for name, answers in _contenders(samples, (few, parts), config, reporter):
        measured = [evaluate(p, truth, samples.classes)["accuracy"] for p in answers]
        rows.append([name, *map(_interval, measured)])
    n_test, seconds = len(parts.test), trained.metrics["seconds"]["total"]
    lines = [
        f"{len(samples):,} handwritten digits of 8 by 8 pixels, {n_test} of them for testing",
        "",
        *(f"{name:<34}{few_:<26}{all_}" for name, few_, all_ in rows),
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
    for weights, networks in (
        ("none", {"random network, all stages": "all@2"}),
        (
            "default",
            {"pretrained network, last stage": "last", "pretrained network, all stages": "all@2"},
        ),
    ):
        backbone = load_backbone(config.model, weights, seed=config.seed)
        size, _ = automatic_image_size(backbone, samples.sizes)
        backbone = at_image_size(backbone, size, crop=False)
        compute = choose_compute(config.device, config.precision, config.batch_size)
        with temporary_store() as store:
            features = extract(
                samples, np.arange(len(samples)), backbone, compute,
                store=store, workers=2, max_pixels=config.max_pixels, reporter=reporter,
            )  # fmt: skip
            for name, taps in networks.items():
                chosen = config.replace(taps=taps)
                models = [
                    fit_probe(features, samples, parts, backbone, chosen).model
                    for parts in settings
                ]
                yield name, [score(model, features, settings[0].test) for model in models]


def _fit_pixels(
    pixels: NDArray[np.float32], samples: Samples, parts: Parts, config: TrainConfig
) -> NDArray[np.float32]:
    y = samples.labels[parts.train]
    keys = [samples.hashes[index] for index in parts.train]
    folds = assign_folds(y, np.arange(len(y)), config.folds, config.seed, keys)
    fitted = fit_head(pixels[parts.train], y, folds=folds, n_classes=len(samples.classes))
    with torch.inference_mode():
        logits: torch.Tensor = fitted.head(torch.from_numpy(pixels[parts.test]))
    probabilities: NDArray[np.float32] = (logits / fitted.temperature).softmax(1).numpy()
    return probabilities


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


def _predict_some(samples: Samples, parts: Parts, out: Path) -> list[str]:
    """Answer for single test images from the bundle alone, as production would."""
    predictor = Predictor.load(out)
    lines = ["Single test images, answered by the bundle that was written:"]
    for index, load in samples.stream(parts.test[:_SHOWN]):
        answer = predictor.predict(load())
        true = samples.classes[samples.labels[index]]
        lines.append(
            f"  digits number {samples.ids[index]}: {answer.label} "
            f"with probability {answer.probability:.3f}; it is a {true}"
        )
    return lines


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
