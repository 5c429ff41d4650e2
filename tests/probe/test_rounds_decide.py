"""In rounds, each decides about the images that it tests by thresholds that it fitted itself."""

import dataclasses

import numpy as np
import pytest

from conftest import CLASSES, texture
from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import SILENT, Reporter
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.decision.policy import Levels
from regraft.features.compute import Compute
from regraft.features.extract import RowExtractor, extract
from regraft.features.features import Features
from regraft.features.store.store import FeatureStore
from regraft.probe.decisions import Answered, DecisionSettings, fit_decisions
from regraft.probe.fit import ProbeSettings, fit_probe
from regraft.probe.score import cross_validate, notes_of_rounds
from regraft.splits.rounds import test_folds as rounds_of
from regraft.splits.split import all_for_training

N = 90
SETTINGS = DecisionSettings(Levels(unknown=0.2, coverage=0.8, min_precision=0.6))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the network, features of ninety images, and three rounds of them."""
    images = [texture(CLASSES[k % 3], k, 32) for k in range(N)]
    config = TrainConfig(taps="last")
    samples = scan((images, [CLASSES[k % 3] for k in range(N)]), config)
    backbone = at_image_size(load_backbone("timm/test_resnet", "none"), 32, crop=False)
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    network = RowExtractor(samples, backbone, Compute("cpu", "float32", 16), 1)
    features = Features.of(extract(network, np.arange(N), store))
    yield backbone, features, rounds_of(all_for_training(samples), 3, 0), ProbeSettings.of(config)
    store.close()


class Heard(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def scored(made, folds, deciding=SETTINGS, heard=SILENT):
    backbone, features, _, settings = made
    return cross_validate(features, folds, (backbone,), settings, deciding, heard)


def fit_decisions_of(made, n):
    """Return what a round decides by, of n images of its training part, at the usual levels."""
    backbone, features, (first, *_), settings = made
    some = shorter(first, n)
    probe = fit_probe(features, some, (backbone,), settings)
    return fit_decisions(
        Answered(probe.fitted, probe.rows), features, some, DecisionSettings(Levels())
    )


def shorter(dataset, n):
    """Return a round with the first n images of its training part alone."""
    return Dataset(dataset.samples, dataclasses.replace(dataset.parts, train=dataset.train[:n]))


def test_labels_of_the_images_that_a_round_tests_move_none_of_its_decisions(made):
    """They are training images of the other rounds, whose decisions move."""
    rounds = made[2]
    first = rounds[0].test
    labels = rounds[0].samples.labels.copy()
    labels[first] = (labels[first] + 1) % 3
    changed = [
        Dataset(dataclasses.replace(each.samples, labels=labels), each.parts) for each in rounds
    ]
    before, after = scored(made, rounds), scored(made, changed)
    same = {
        name: (getattr(before.decided, name) == getattr(after.decided, name)).reshape(N, -1).all(1)
        for name in ("actions", "sets", "unknown", "abstained")
    }
    of_first = before.round_of == 1
    assert np.array_equal(np.flatnonzero(of_first), np.sort(first))
    assert all(each[of_first].all() for each in same.values())
    assert not same["sets"][~of_first].all()
    assert not same["abstained"][~of_first].all()


def test_each_image_is_compared_with_the_images_of_its_round_alone(made):
    """A p-value is a whole number of parts: one for each image that the round was fitted on."""
    rounds = made[2]
    scores = scored(made, rounds)
    for number, each in enumerate(rounds, 1):
        parts = scores.decided.p_values[scores.round_of == number] * (len(each.train) + 1)
        assert parts == pytest.approx(parts.round(), abs=1e-6)
        assert parts.min() >= 1


def test_where_one_round_cannot_bear_the_level_no_image_of_any_round_is_unknown(made):
    """Images of the training part, of which most are called unknown at a level of 0.02."""
    rounds, heard = made[2], Heard()
    few = [shorter(rounds[0], 30), shorter(rounds[1], 31), rounds[2]]
    asked = DecisionSettings(Levels(unknown=0.02, coverage=0.8))
    scores = scored(made, few, asked, heard)
    decided = scores.decided
    assert decided.unknown is None
    assert decided.p_values is not None
    assert decided.actions.min() >= 0
    level = (
        "no image is called unknown: of images that do not depend on each other, a level of 0.02 "
        "needs 49, there are"
    )
    assert heard.lines == [
        f"in 2 of 3 rounds, such as round 1: {level} 30",
        (
            "2 of 3 rounds have no level: so no image of any round is called unknown, and it is "
            "not measured how many the bundle calls unknown"
        ),
    ]
    assert [each["notes"] for each in scores.rounds] == [[f"{level} 30"], [f"{level} 31"], []]


def test_what_rounds_could_not_have_is_told_once(made):
    rounds, heard = made[2], Heard()
    asked = DecisionSettings(Levels(unknown=0.2, coverage=0.8, min_precision=0.99))
    scores = scored(made, rounds, asked, heard)
    promise = "no precision is promised, so nothing is answered: 0.99 needs 299 right answers"
    (line,) = heard.lines
    assert line.startswith(f"in 3 of 3 rounds, such as round 1: {promise}")
    assert all(note.startswith(promise) for each in scores.rounds for note in each["notes"])
    assert heard.lines[0].endswith(scores.rounds[0]["notes"][0])


def test_a_note_that_is_the_same_in_all_its_rounds_names_none_of_them(made):
    few = fit_decisions_of(made, 18).rules(3)
    enough = fit_decisions_of(made, 60).rules(3)
    coverage = "a coverage of 0.95 cannot be aimed at with 18 answers: each set has all classes"
    assert notes_of_rounds([enough, few, few])[1:] == [f"in 2 of 3 rounds: {coverage}"]


@pytest.mark.parametrize(
    ("head", "energies"), [("logistic", True), ("ridge", True), ("mean", False), ("knn", False)]
)
def test_images_are_told_apart_by_energies_of_heads_whose_logits_have_a_scale(made, head, energies):
    backbone, features, (first, *_), settings = made
    probe = fit_probe(features, first, (backbone,), dataclasses.replace(settings, head=head))
    decisions = fit_decisions(Answered(probe.fitted, probe.rows), features, first, SETTINGS)
    assert (decisions.typicality.scale is not None) == energies
    assert len(decisions.typicality.scores) == decisions.n_units == 60
