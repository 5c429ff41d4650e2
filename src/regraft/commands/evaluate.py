"""``regraft evaluate``: a trained classifier measured on labelled images.

It reads the bundle that the run wrote, as a user of the bundle does.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.commands.predictors import level_notes, load_predictor
from regraft.config.settings import some_settings
from regraft.core.notebook import html_table
from regraft.core.reporter import SILENT, Reporter
from regraft.data.dataset import Dataset
from regraft.data.notes import report_refused
from regraft.data.refused import record_refused
from regraft.data.scan import scan
from regraft.data.sources.options import NO_GROUPS
from regraft.decision.levels import chosen_levels
from regraft.features.extractor import Extractor
from regraft.runs.summary import describe_decisions, describe_test, figures
from regraft.splits.matching import choose_unseen, match_classes, missing_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.bundle.predictor import Predictor
    from regraft.data.ledger import Ledger
    from regraft.data.samples import Samples
    from regraft.decision.policy import Rules
    from regraft.features.features import Features


class Evaluation(dict[str, Any]):
    """The figures of an evaluation: a dictionary that a notebook shows as a small table."""

    def _repr_html_(self) -> str:
        note = "; ".join(self["data"]["notes"])
        return html_table(f"{self['run']} on {self['data']['source']}", figures(self), note)


def evaluate(
    run: Path | str, data: Any, *, reporter: Reporter = SILENT, **settings: Any
) -> dict[str, Any]:
    """Measure a trained classifier on labelled images that it was not fitted on.

    Parameters
    ----------
    run : Path or str
        Run folder, or the bundle in it.
    data : str, Path or tuple of arrays
        As for ``train``. If the data have parts, the test part is measured. Classes are matched by
        name; images that the run was fitted on (the same bytes) are left out and counted.
    reporter : Reporter
        Follows the work; silent by default.
    **settings
        Fields of TrainConfig that say how images are read, computed and decided about.

    Returns
    -------
    dict
        As ``test`` in metrics.json, with ``decisions``, ``data`` and what was left out. A notebook
        shows it as a small table.

    Raises
    ------
    DataError
        The run does not have all classes of the data; the message lists them. Or too many images
        cannot be read; with ``strict``, one is enough.
    BundleError
        The bundle is damaged or altered, or this machine computes other answers.
    """
    asked, folder = some_settings(settings, "evaluate"), Path(run)
    predictor = load_predictor(folder, asked, settings)
    levels = chosen_levels(settings)
    rules = predictor.rules(**levels)
    config = asked.replace(max_pixels=predictor.max_pixels)
    # Classes are matched by name: of folders inside class folders nothing has to be known.
    scanned = scan(data, config.replace(group_by=NO_GROUPS), reporter, least_classes=1)
    dataset, notes = _unseen_images(scanned, predictor.classes, folder)
    _report(reporter, [*scanned.notes, *notes])
    with Extractor(predictor.model.networks, predictor.compute, config, reporter) as extractor:
        features = extractor.read(dataset)
        readable, ledger = _without_refused(dataset, features, strict=config.strict)
        measured = _measure(predictor, features, readable, rules, config.seed)
    missing = missing_classes(readable.labels(readable.test), predictor.classes)
    report_refused(ledger, reporter, "among the figures")
    decisions = describe_decisions(measured.get("decisions"))
    lines = [
        *missing,
        *level_notes(predictor, rules),
        *measured["warnings"],
        *describe_test(measured),
    ]
    _report(reporter, [*lines, *decisions])
    about = {
        "source": scanned.source.location,
        "notes": [*notes, *missing],
        "refused": _refused(ledger),
    }
    return Evaluation({"run": str(folder), "data": about, **measured})


def _unseen_images(
    samples: Samples, classes: tuple[str, ...], folder: Path
) -> tuple[Dataset, list[str]]:
    """Return the images to measure, with labels as the run counts its classes, and notes."""
    labels = match_classes(samples, classes)
    wanted, notes = choose_unseen(samples, folder)
    matched = dataclasses.replace(samples, classes=classes, labels=labels)
    return Dataset.only_test(matched, wanted), notes


def _without_refused(
    dataset: Dataset, features: Features, *, strict: bool
) -> tuple[Dataset, Ledger]:
    """Return the images that were read, and the ledger with those that were not."""
    ledger = record_refused(dataset.samples, dataset.test, features.refused, strict=strict).ledger
    read = dataset.test[~np.isin(dataset.test, list(features.refused))]
    return Dataset.only_test(dataset.samples, read), ledger


def _measure(
    predictor: Predictor,
    features: Features,
    dataset: Dataset,
    rules: Rules | None,
    seed: int,
) -> dict[str, Any]:
    from regraft.decision.measure import measure_decisions
    from regraft.evaluation.metrics import measure_classification
    from regraft.probe.decisions import decide
    from regraft.probe.score import calibrated_probabilities

    probabilities = calibrated_probabilities(predictor.model, features, dataset.test)
    truth = dataset.labels(dataset.test)
    measured = measure_classification(probabilities, truth, predictor.classes, seed=seed)
    if rules is not None:
        decided = decide(rules, predictor.model, features, dataset.test)
        most_probable = probabilities.argmax(1)
        measured["decisions"] = measure_decisions(
            decided, truth, predictor.classes, rules.levels, most_probable
        )
        measured["decisions"]["sets"]["own_thresholds"] = rules.sets.alone
    return measured


def _report(reporter: Reporter, lines: Sequence[str]) -> None:
    for line in lines:
        reporter.say(line)


def _refused(ledger: Ledger) -> dict[str, str]:
    return {
        each.path: f"{each.kind}: {each.reason}"
        for each in ledger.entries
        if each.status == "refused"
    }
