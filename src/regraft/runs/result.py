"""The result of a training: everything that its run folder is written from, made in one module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.probe.fit import ProbeSettings
from regraft.probe.score import cross_validate, measure_scores, score_test
from regraft.splits.rounds import test_folds

if TYPE_CHECKING:
    from regraft.check.near_duplicates import NearDuplicate
    from regraft.config.train_config import TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.decision.policy import Decisions
    from regraft.features.compute import Compute
    from regraft.features.extract import Features
    from regraft.features.extractor import Extractor
    from regraft.finetune.train import Trained
    from regraft.probe.fit import Probe
    from regraft.probe.score import TestScores


@dataclass(frozen=True)
class Result:
    """Everything that a training has found, ready to be written."""

    config: TrainConfig  # with every automatic choice made
    dataset: Dataset
    trained: Trained  # the model, and how its head was fitted
    compute: Compute
    scores: TestScores
    measured: dict[str, Any]  # the scores' figures, as metrics.json has them
    pairs: list[NearDuplicate]  # test images that are nearly the same as a training image
    decisions: Decisions | None = None  # what the bundle keeps to decide at any level


def measure(
    probe: Probe,
    trained: Trained,
    features: Features,
    dataset: Dataset,
    extractor: Extractor,
    pairs: list[NearDuplicate],
) -> Result:
    """Score the test part once, with all models that are shown; ``features`` are the probe's."""
    config, settings = extractor.config, ProbeSettings.of(extractor.config)
    if config.folds:  # every image once, by probes of other images
        folds = test_folds(dataset, config.folds, config.seed)
        scores = cross_validate(features, folds, extractor.backbone, settings, extractor.reporter)
    else:
        tuned = None if config.strategy == "probe" else (trained.model, trained.features)
        scores = score_test(probe, features, dataset, settings, tuned)
    return Result(
        config=config,
        dataset=dataset,
        compute=extractor.compute,
        trained=trained,
        scores=scores,
        measured=measure_scores(scores, dataset, config.seed),
        pairs=pairs,
    )
