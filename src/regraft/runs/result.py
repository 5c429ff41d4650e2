"""The result of a training: everything that its run folder is written from, made in one module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.probe.decisions import Answered, decide, fit_decisions
from regraft.probe.fit import ProbeSettings
from regraft.probe.score import cross_validate, measure_scores, score_test
from regraft.splits.rounds import test_folds

if TYPE_CHECKING:
    from regraft.check.near_duplicates import NearDuplicate, NearDuplicates
    from regraft.config.train_config import TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.decision.policy import Decisions
    from regraft.features.compute import Compute
    from regraft.features.extractor import Extractor
    from regraft.finetune.train import Trained
    from regraft.probe.decisions import DecisionSettings
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
    decisions: Decisions  # for the bundle
    pairs: list[NearDuplicate]  # test images that are nearly the same as a training image


def measure(
    probe: Probe,
    trained: Trained,
    dataset: Dataset,
    extractor: Extractor,
    found: NearDuplicates,
    deciding: DecisionSettings,
) -> Result:
    """Score the test part once, with all models that are shown, and decide about its images."""
    config, settings = extractor.config, ProbeSettings.of(extractor.config)
    features, reporter = probe.features, extractor.reporter
    fine_tuned = config.strategy != "probe"
    rows = dataset.val if fine_tuned else probe.rows
    answered = Answered(trained.fitted, rows)
    decisions = fit_decisions(answered, trained.features, dataset, deciding)
    rules = decisions.rules(len(dataset.classes))
    for note in rules.notes:
        reporter.say(note)
    typicality = decisions.typicality
    if trained.model.no_bundle is None and typicality and typicality.scorer.has_images:
        reporter.say(
            "the bundle keeps features of training images, to tell how unlike an image is: who has "
            "it can ask whether an image was in the training; `bank=False` keeps a roughly rounded "
            "mean instead, which tells less"
        )
    if config.folds:  # every image once, by probes of other images
        folds = test_folds(dataset, config.folds, config.seed)
        scores = cross_validate(features, folds, extractor.networks, settings, deciding, reporter)
    else:
        tuned = (trained.model, trained.features) if fine_tuned else None
        scores = score_test(probe, features, dataset, settings, tuned)
        made = decide(rules, trained.model, trained.features, scores.tested)
        scores = dataclasses.replace(scores, decided=made)
    measured = measure_scores(scores, dataset, deciding.levels, config.seed)
    measured["decisions"]["fitted_on"] = decisions.record()
    measured["decisions"]["sets"]["own_thresholds"] = rules.sets.alone
    return Result(
        config=config,
        dataset=dataset,
        compute=extractor.compute,
        trained=trained,
        scores=scores,
        measured=measured,
        pairs=found.pairs,
        decisions=decisions,
    )
