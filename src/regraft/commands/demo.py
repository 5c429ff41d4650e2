"""The demo: handwritten digits, offline, in under a minute; every number is computed here."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.backbones.image_size import adapt_to_images
from regraft.backbones.registry import load_backbone
from regraft.bundle.predictor import Predictor
from regraft.commands.steps import compute_of, extract_features
from regraft.commands.train import train
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.evaluation.metrics import measure_classification
from regraft.heads.fit import fit_head
from regraft.probe.fit import FOLDS, fit_probe, score
from regraft.splits.split import assign_folds, split

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.core.reporter import Reporter
    from regraft.data.samples import Parts, Samples

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
    config = TrainConfig(out=out, overwrite=True)
    trained = train("digits", config, reporter)
    samples = scan("digits", config)
    parts = split(samples, test_fraction=config.test_fraction, seed=config.seed)
    few = dataclasses.replace(parts, train=_some_of_each(samples, parts.train))
    rows = [
        ["test accuracy (95 % interval)", f"{_FEW} images a class", f"all {len(parts.train):,}"]
    ]
    rows += _contenders(samples, (few, parts), trained.metrics, config, reporter)
    n_test, seconds = len(parts.test), trained.metrics["seconds"]["total"]
    lines = [
        f"{len(samples):,} handwritten digits of 8 by 8 pixels, {n_test} of them for testing",
        "",
        *(f"{name:<34}{few_:<26}{all_}" for name, few_, all_ in rows),
        "",
        *_predict_some(samples, parts, out),
        "",
        f"The run of every stage took {seconds:.1f} s; its figures and pictures are in {out}.",
        "Next, on your own images, one folder per class: regraft train FOLDER",
    ]
    return "\n".join(lines)


def _contenders(
    samples: Samples,
    settings: tuple[Parts, ...],
    trained: dict[str, Any],
    config: TrainConfig,
    reporter: Reporter,
) -> list[list[str]]:
    """Return each contender's name and its test accuracy, with few images and with all."""
    truth = samples.labels[settings[0].test]

    def row(name: str, *answers: NDArray[np.float32] | dict[str, Any]) -> list[str]:
        measured = [
            known
            if isinstance(known, dict)
            else measure_classification(known, truth, samples.classes)
            for known in answers
        ]
        return [name, *(_interval(each["accuracy"]) for each in measured)]

    pixels = _read_pixels(samples)
    answers = [_fit_pixels(pixels, samples, parts, config) for parts in settings]
    rows = [row("logistic regression on raw pixels", *answers)]
    with ExitStack() as stack:
        for weights, parts_of in (("none", settings), ("default", settings[:1])):
            backbone = load_backbone(config.model, weights, seed=config.seed)
            backbone, _ = adapt_to_images(backbone, samples.sizes, automatic=True)
            compute = compute_of(backbone, config)
            everything = np.arange(len(samples))
            features = extract_features(
                samples, everything, backbone, compute, config, stack, reporter
            )
            probes = [fit_probe(features, samples, parts, backbone, config) for parts in parts_of]
            answers = [score(probe.model, features, settings[0].test) for probe in probes]
            if weights == "none":
                rows.append(row("random network, every stage", *answers))
                continue
            # The run has told already what all images give: by last stage, and by its choice.
            last = probes[0].last_stage or probes[0].model
            of_last = score(last, features, settings[0].test)
            everywhere = trained["baselines"].get("last_stage", trained["test"])
            rows.append(row("pretrained network, last stage", of_last, everywhere))
            rows.append(row("pretrained network, every stage", *answers, trained["test"]))
    return rows


def _fit_pixels(
    pixels: NDArray[np.float32], samples: Samples, parts: Parts, config: TrainConfig
) -> NDArray[np.float32]:
    y = samples.labels[parts.train]
    keys = [samples.hashes[index] for index in parts.train]
    folds = assign_folds(y, np.arange(len(y)), FOLDS, config.seed, keys)
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
