"""The demo: handwritten digits, offline, in under a minute; every number is computed here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.bundle.predictor import Predictor
from regraft.commands.train import train
from regraft.config.settings import configured
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.evaluation.metrics import measure_classification
from regraft.features.extractor import Extractor, load_networks
from regraft.heads.fit import fit_head
from regraft.probe.fit import FOLDS, ProbeSettings, fit_probe
from regraft.probe.score import calibrated_probabilities
from regraft.probe.subset import sorted_by_hash
from regraft.splits.folds import assign_folds
from regraft.splits.split import all_for_training, split_by_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.core.reporter import Reporter

_FEW = 10  # images a class
_SHOWN = 3  # single images that are predicted


def run(reporter: Reporter, out: Path) -> str:
    """Train on scikit-learn's digits, compare, predict; return the text to print.

    An earlier run in ``out`` is replaced; anything else there is an error.
    """
    config = configured(None, {"out": out, "overwrite": True})
    trained = train("digits", config, reporter)
    dataset = split_by_config(scan("digits", config), config)
    few = dataclasses.replace(dataset.parts, train=_some_of_each(dataset))
    n_train, n_test = len(dataset.train), len(dataset.test)
    rows = [["test accuracy (95 % interval)", f"{_FEW} images a class", f"all {n_train:,}"]]
    rows += _contenders([Dataset(dataset.samples, few), dataset], trained.metrics, reporter)
    seconds = trained.metrics["seconds"]["total"]
    lines = [
        f"{len(dataset.samples):,} handwritten digits of 8 by 8 pixels, {n_test} for testing",
        "",
        *(f"{name:<34}{few_:<26}{all_}" for name, few_, all_ in rows),
        "",
        *_predict_some(dataset, out),
        "",
        f"The run of every stage took {seconds:.1f} s; its figures and pictures are in {out}.",
        "Next, on your own images, one folder per class: regraft train FOLDER",
    ]
    return "\n".join(lines)


def _contenders(
    datasets: Sequence[Dataset], trained: dict[str, Any], reporter: Reporter
) -> list[list[str]]:
    """Return each contender's name and its test accuracy, with few images and with all."""
    few, truth = datasets[0], datasets[0].labels(datasets[0].test)

    def row(name: str, *answers: NDArray[np.float32] | dict[str, Any]) -> list[str]:
        measured = [
            known if isinstance(known, dict) else measure_classification(known, truth, few.classes)
            for known in answers
        ]
        return [name, *(_interval(each["accuracy"]) for each in measured)]

    pixels = _read_pixels(few)
    of_pixels = [_fit_pixels(pixels, each) for each in datasets]
    of_random = [chosen for _, chosen in _fit_probes("none", datasets, reporter)]
    ((last, chosen),) = _fit_probes("default", [few], reporter)
    # The run has measured already what all images give: by the last stage, and by its choice.
    last_of_all = trained["baselines"].get("last_stage", trained["test"])
    return [
        row("logistic regression on raw pixels", *of_pixels),
        row("random network, every stage", *of_random),
        row("pretrained network, last stage", last, last_of_all),
        row("pretrained network, every stage", chosen, trained["test"]),
    ]


def _fit_probes(
    weights: str, datasets: Sequence[Dataset], reporter: Reporter
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return two answers on each test part: of the probe of the last stage, and of the probe."""
    config = configured(None, {"weights": weights})
    extractor = Extractor.for_samples(load_networks(config), datasets[0].samples, config)
    extractor.reporter = reporter  # follows the images; the choices are the run's
    answers = []
    with extractor:
        features = extractor.read(all_for_training(datasets[0].samples))
        for dataset in datasets:
            probe = fit_probe(features, dataset, extractor.networks, ProbeSettings.of(config))
            models = (probe.last_stage or probe.model, probe.model)
            last, chosen = (
                calibrated_probabilities(model, features, dataset.test) for model in models
            )
            answers.append((last, chosen))
    return answers


def _fit_pixels(pixels: NDArray[np.float32], dataset: Dataset) -> NDArray[np.float32]:
    """Return the answers on the test part of a head that is fitted on pixels (N, D)."""
    y = dataset.labels(dataset.train)
    keys = [dataset.samples.hashes[index] for index in dataset.train]
    folds = assign_folds(y, np.arange(len(y)), FOLDS, 0, keys)
    fitted = fit_head(pixels[dataset.train], y, folds=folds, n_classes=len(dataset.classes))
    with torch.inference_mode():
        logits: torch.Tensor = fitted.head(torch.from_numpy(pixels[dataset.test]))
    probabilities: NDArray[np.float32] = (logits / fitted.temperature).softmax(1).numpy()
    return probabilities


def _read_pixels(dataset: Dataset) -> NDArray[np.float32]:
    stream = dataset.samples.stream(range(len(dataset.samples)))
    return np.stack([np.asarray(load(), np.float32).ravel() / 255 for _, load in stream])


def _some_of_each(dataset: Dataset) -> NDArray[np.int64]:
    """Return the same number of training images of each class, chosen by content hash."""
    ranked = sorted_by_hash(dataset.train, dataset.samples)
    labels = dataset.labels(ranked)
    of_classes = [ranked[labels == label][:_FEW] for label in range(len(dataset.classes))]
    return np.sort(np.concatenate(of_classes))


def _predict_some(dataset: Dataset, out: Path) -> list[str]:
    """Answer for single test images from the bundle alone, as a user of the bundle would."""
    predictor, samples = Predictor.load(out), dataset.samples
    lines = ["Single test images, answered by the bundle that was written:"]
    for index, load in samples.stream(dataset.test[:_SHOWN]):
        answer = predictor.predict(load())
        true = samples.classes[samples.labels[index]]
        lines.append(
            f"  digits number {samples.ids[index]}: {answer.label} "
            f"with probability {answer.probability:.3f}; it is a {true}"
        )
    return lines


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
