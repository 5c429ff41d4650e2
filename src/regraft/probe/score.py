"""Score models on images that they were not fitted on.

The labels of the test part are read only here in a training.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.core.reporter import SILENT, Reporter
from regraft.decision.measure import measure_decisions
from regraft.decision.policy import Decided
from regraft.errors import SmallSampleWarning
from regraft.evaluation.metrics import accuracy_gain, measure_classification
from regraft.features.taps import POOLED, Block
from regraft.heads.simple import majority_baseline
from regraft.probe.decisions import Answered, decide, fit_decisions
from regraft.probe.fit import fit_plain, fit_probe, make_model
from regraft.probe.subset import choose_by_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.data.dataset import Dataset
    from regraft.decision.policy import Levels, Rules
    from regraft.features.features import Features
    from regraft.model import Model
    from regraft.probe.decisions import DecisionSettings
    from regraft.probe.fit import Probe, ProbeSettings

_ROWS_AT_ONCE = 4096  # 290 MB of all blocks of the default backbone
_ROWS_FOR_NEIGHBOURS = 5_000  # with more, the k-NN baseline takes longer than the probe

#: Probabilities (n, K), and a description of the model that gave them.
Baseline = tuple["NDArray[np.float32]", str]


@dataclass(frozen=True)
class TestScores:
    """Probabilities for the tested images, by models that were fitted without them."""

    __test__ = False  # not a test for pytest

    tested: NDArray[np.int64]  # (n,) samples, ascending
    probabilities: NDArray[np.float32]  # (n, K)
    baselines: dict[str, Baseline]
    validated: NDArray[np.float32] | None = None  # (n_val, K) on the validation part
    #: Only in cross-validation: number of images, blocks, penalty and temperature of each fold
    rounds: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    round_of: NDArray[np.int64] | None = None  # (n,) the fold of each tested image, from 1
    #: What the model decides about each tested image; in cross-validation, that of its round.
    decided: Decided | None = None

    @property
    def protocol(self) -> str:
        """Return a description of the test."""
        if not self.rounds:
            return "one held-out test part"
        return (
            f"every image tested once, in {len(self.rounds)} rounds of training without it; "
            "the bundle is fitted on all images"
        )


def calibrated_probabilities(
    model: Model, features: Features, indices: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return calibrated probabilities (n, K) of some samples, some thousand rows at a time."""
    result = np.empty((len(indices), len(model.classes)), np.float32)
    for start in range(0, len(indices), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        result[rows] = model.probabilities(features.matrix(indices[rows], model.blocks))
    return result


def score_test(
    probe: Probe,
    features: Features,
    dataset: Dataset,
    settings: ProbeSettings,
    trained: tuple[Model, Features] | None = None,
) -> TestScores:
    """Score the model and the baselines on the test part.

    ``trained`` is a model that was trained from the probe, with the features of its network; the
    probe is then one of the baselines.
    """
    baselines = score_baselines(probe, features, dataset, settings)
    if trained is not None:
        baselines["probe"] = (
            calibrated_probabilities(probe.model, features, dataset.test),
            "the same network before it was trained, with a head fitted on its features",
        )
    model, seen = trained or (probe.model, features)
    validated = calibrated_probabilities(model, seen, dataset.val) if len(dataset.val) else None
    return TestScores(
        dataset.test, calibrated_probabilities(model, seen, dataset.test), baselines, validated
    )


def cross_validate(
    features: Features,
    folds: Sequence[Dataset],
    networks: Sequence[Backbone],
    settings: ProbeSettings,
    deciding: DecisionSettings,
    reporter: Reporter = SILENT,
) -> TestScores:
    """Fit and score a probe for each fold; each chooses its own blocks, penalty and temperature.

    Each decides about the images that it tests, by thresholds of its own; what rounds could not
    have is reported.

    ``folds`` are those of ``outer_folds``: no image is in two test parts.
    """
    answers: dict[str, list[NDArray[np.float32]]] = {"": []}
    descriptions: dict[str, str] = {}
    rounds, compared, fitted = [], False, []
    for note in folds[0].parts.notes:
        reporter.say(note)
    with reporter.track("test", len(folds)) as advance:
        for each in folds:
            probe = fit_probe(features, each, networks, settings)
            scored = calibrated_probabilities(probe.model, features, each.test)
            answers[""].append(scored)
            decisions = fit_decisions(Answered(probe.fitted, probe.rows), features, each, deciding)
            fitted.append((decisions.rules(len(each.classes)), probe.model))
            baselines = score_baselines(probe, features, each, settings)
            compared |= probe.last_stage is not None
            # The probe of a fold that chose the last stage is also the baseline.
            baselines.setdefault("last_stage", (scored, "the same head on the last stage alone"))
            for name, (probabilities, description) in baselines.items():
                answers.setdefault(name, []).append(probabilities)
                descriptions.setdefault(name, description)
            rounds.append(_round_record(probe, each) | {"notes": list(fitted[-1][0].notes)})
            advance(1)
    for note in notes_of_rounds([rules for rules, _ in fitted]):
        reporter.say(note)
    without = any(rules.level is None for rules, _ in fitted)
    decided = [
        decide(_at_no_level(rules) if without else rules, model, features, each.test)
        for (rules, model), each in zip(fitted, folds, strict=True)
    ]
    tested = np.concatenate([each.test for each in folds])
    order = np.argsort(tested)
    joined = {name: np.concatenate(parts)[order] for name, parts in answers.items()}
    probabilities = joined.pop("")
    if not compared:  # the last stage is no other model in any fold
        del joined["last_stage"]
    numbers = np.repeat(np.arange(1, len(folds) + 1), [len(each.test) for each in folds])
    return TestScores(
        tested[order],
        probabilities,
        {name: (joined[name], descriptions[name]) for name in joined},
        rounds=rounds,
        round_of=numbers[order],
        decided=Decided.joined(decided, order),
    )


def _at_no_level(rules: Rules) -> Rules:
    """Return rules that call no image unknown."""
    return dataclasses.replace(rules, level=None)


def notes_of_rounds(rules: Sequence[Rules]) -> list[str]:
    """Return what some rounds could not have, each once, with the reason of the first of them."""
    notes = []
    for name in dict.fromkeys(name for each in rules for name in each.missing):
        found = {at: each.missing[name] for at, each in enumerate(rules, 1) if name in each.missing}
        first, note = next(iter(found.items()))
        such = "" if len({*found.values()}) == 1 else f", such as round {first}"
        notes.append(f"in {len(found)} of {len(rules)} rounds{such}: {note}")
    without = sum(each.level is None for each in rules)
    if 0 < without < len(rules):
        notes.append(
            f"{without} of {len(rules)} rounds have no level: so no image of any round is called "
            "unknown, and it is not measured how many the bundle calls unknown"
        )
    return notes


def _round_record(probe: Probe, fold: Dataset) -> dict[str, Any]:
    """Return the record of one fold in metrics.json."""
    return {
        "n": {"train": len(fold.train), "test": len(fold.test)},
        "blocks": [str(block) for block in probe.model.blocks],
        "penalty": probe.fitted.record.get("penalty"),
        "temperature": probe.fitted.temperature,
    }


def score_baselines(
    probe: Probe, features: Features, dataset: Dataset, settings: ProbeSettings
) -> dict[str, Baseline]:
    """Return the probabilities of simple models, which a probe should beat, by name.

    These are "majority", "knn" unless that is the head, and "last_stage" if the probe reads more.
    """
    y, test = dataset.labels(dataset.train), dataset.test
    baselines: dict[str, Baseline] = {
        "majority": (
            majority_baseline(y, dataset.labels(test), len(dataset.classes)),
            "always the most common class; probabilities are the shares in the training part",
        )
    }
    if settings.head != "knn":
        near = choose_by_hash(dataset.train, dataset.samples, _ROWS_FOR_NEIGHBOURS)
        blocks = (Block(POOLED),)
        by_neighbours = dataclasses.replace(settings, head="knn")
        fitted = fit_plain(features, dataset, near, blocks, by_neighbours)
        neighbours = make_model(probe.model.networks, blocks, fitted, dataset)
        baselines["knn"] = (
            calibrated_probabilities(neighbours, features, test),
            f"nearest neighbours among {len(near):,} training images, by the last stage",
        )
    if probe.last_stage is not None:
        baselines["last_stage"] = (
            calibrated_probabilities(probe.last_stage, features, test),
            "the same head on the last stage alone",
        )
    return baselines


def measure_scores(
    scores: TestScores, dataset: Dataset, levels: Levels, seed: int
) -> dict[str, Any]:
    """Return the results of all models, as in metrics.json; warn of classes with few images."""
    truth = dataset.labels(scores.tested)
    test = measure_classification(scores.probabilities, truth, dataset.classes, seed=seed)
    for text in test["warnings"]:
        warnings.warn(text, SmallSampleWarning, stacklevel=2)
    results: dict[str, Any] = {"protocol": scores.protocol, "test": test, "baselines": {}}
    if scores.decided is not None:
        results["decisions"] = measure_decisions(
            scores.decided, truth, dataset.classes, levels, scores.probabilities.argmax(1)
        )
    if scores.rounds:
        results["rounds"] = scores.rounds
    if scores.validated is not None:
        labels = dataset.labels(dataset.val)
        results["val"] = measure_classification(
            scores.validated, labels, dataset.classes, seed=seed
        )
    for name, (baseline, description) in scores.baselines.items():
        measured = measure_classification(baseline, truth, dataset.classes, seed=seed)
        kept = {key: measured[key] for key in ("n", "accuracy", "macro_f1", "log_loss")}
        gain = accuracy_gain(scores.probabilities, baseline, truth)
        results["baselines"][name] = {"description": description, **kept, "gain": gain}
    return results
