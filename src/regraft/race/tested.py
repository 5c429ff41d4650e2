"""The test part, which a race reads once: for the winner and, beside it, the default network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from regraft.evaluation.metrics import accuracy_gain, measure_classification
from regraft.probe.fit import fit_probe
from regraft.probe.score import calibrated_probabilities
from regraft.race.fits import side_by_side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from regraft.data.dataset import Dataset
    from regraft.data.samples import Parts
    from regraft.errors import ImageError
    from regraft.features.features import Features
    from regraft.probe.fit import ProbeSettings
    from regraft.race.entrant import Entrant
    from regraft.race.rounds import RaceRules, Standing


def expected_seconds(members: Sequence[Entrant], standing: Standing) -> float:
    """Return the seconds that a test takes about: what was not read yet, and a fit of all."""
    train, test = len(standing.sample.train), len(standing.dataset.test)
    known = standing.candidates.get("+".join(each.name for each in members))
    was_read = known is not None and known.round == standing.round
    unread = test + (0 if was_read else train)
    return sum(each.rate for each in members) * unread + (known.fit.seconds if known else 0.0)


def score_on_test(
    named: Mapping[str, Sequence[Entrant]], standing: Standing, rules: RaceRules, seed: int
) -> dict[str, Any]:
    """Return the figures of some candidates on the test part, the first one's gain over others.

    All are fitted on the training part as the last round had it, and tested on the same images.
    """
    whole = dataclasses.replace(standing.sample, parts=_parts_with_test(standing))
    read = {}
    refused: dict[int, ImageError] = {}
    for name, members in named.items():
        read[name] = side_by_side([each.read(whole, rules.kept) for each in members])
        refused |= read[name].refused
    whole = whole.without(refused, strict=rules.strict)
    truth = whole.labels(whole.test)
    answers = {
        name: _answers(members, read[name], whole, rules.settings)
        for name, members in named.items()
    }
    first = next(iter(named))
    figures: dict[str, Any] = {"n": len(truth)}
    for name, probabilities in answers.items():
        found = measure_classification(probabilities, truth, whole.classes, seed=seed)
        figures[name] = {key: found[key] for key in ("accuracy", "log_loss")}
        if name != first:
            figures[name]["gain"] = accuracy_gain(answers[first], probabilities, truth)
    return figures


def _parts_with_test(standing: Standing) -> Parts:
    return dataclasses.replace(standing.sample.parts, test=standing.dataset.test)


def _answers(
    members: Sequence[Entrant], features: Features, dataset: Dataset, settings: ProbeSettings
) -> NDArray[np.float32]:
    networks = [each.network for each in members]
    probe = fit_probe(features, dataset, networks, settings)
    return calibrated_probabilities(probe.model, features, dataset.test)
