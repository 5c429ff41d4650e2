"""What a training has anyway, made ready for decisions."""

import dataclasses

import numpy as np
import pytest

import regraft
from conftest import CLASSES
from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.decision.policy import Levels
from regraft.features.compute import Compute
from regraft.features.extract import RowExtractor, extract
from regraft.features.features import Features
from regraft.features.store.store import FeatureStore
from regraft.probe.decisions import Answered, DecisionSettings, fit_decisions
from regraft.probe.fit import ProbeSettings, fit_probe
from regraft.splits.split import all_for_training

N = 80
CONFIG = TrainConfig(taps="last")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the network, and features of forty images of random classes, each with a near copy."""
    random = np.random.default_rng(0)
    noise = [random.integers(0, 254, (32, 32, 3)).astype(np.uint8) for _ in range(N // 2)]
    images = [*noise, *(each + 1 for each in noise)]
    labels = np.tile(np.array(CLASSES)[random.integers(0, 3, N // 2)], 2).tolist()
    samples = scan((images, labels), CONFIG)
    network = at_image_size(load_backbone("timm/test_resnet", "none"), 32, crop=False)
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    rows = RowExtractor(samples, network, Compute("cpu", "float32", 16), 1)
    yield network, Features.of(extract(rows, np.arange(N), store)), all_for_training(samples)
    store.close()


def decisions_of(made, dataset, head, class_weight="none"):
    network, features, _ = made
    settings = ProbeSettings.of(CONFIG.replace(head=head, class_weight=class_weight))
    probe = fit_probe(features, dataset, (network,), settings)
    asked = DecisionSettings(Levels(), class_weight=class_weight)
    return fit_decisions(Answered(probe.fitted, probe.rows), features, dataset, asked)


@pytest.mark.parametrize("head", ["knn", "logistic", "ridge", "mean"])
def test_near_copies_that_were_found_are_held_out_together(made, head):
    """Classes are random: whoever saw the copy knows the class, and nobody else does."""
    dataset = made[2]
    alone = decisions_of(made, dataset, head).answers
    together = decisions_of(made, dataset.with_units(np.arange(N) % (N // 2)), head).answers
    assert (len(alone), len(together)) == (N, N // 2)
    assert together.right.mean() < 0.65
    if head == "knn":
        assert alone.right.mean() > 0.9


@pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")
def test_a_training_holds_out_near_copies_together(tmp_path):
    random = np.random.default_rng(1)
    small = [random.integers(0, 250, (8, 8, 3)).astype(np.uint8) for _ in range(60)]
    images = [each.repeat(8, 0).repeat(8, 1) for each in small]
    labels = ["ab"[k] for k in random.integers(0, 2, 60)]
    regraft.train(
        ([*images, *(each + 2 for each in images)], labels * 2),
        model="timm/test_resnet", weights="none", image_size="64", head="knn", cache=False,
        test_fraction=0.1, out=tmp_path / "run",
    )  # fmt: skip
    decisions = regraft.Predictor.load(tmp_path / "run").decisions
    assert decisions.n_units < 65
    assert decisions.answers.right.mean() < 0.7


@pytest.mark.parametrize(
    ("head", "class_weight", "divided"),
    [
        ("logistic", "none", False), ("logistic", "balanced", True),
        ("ridge", "none", False), ("ridge", "balanced", True),
        ("knn", "none", False), ("knn", "balanced", False),
        ("mean", "none", True), ("mean", "balanced", True),
    ],
)  # fmt: skip
def test_shares_of_classes_are_put_right_where_the_head_has_others(
    made, head, class_weight, divided
):
    """Neighbours are never weighted; nearest means do not know how frequent a class is."""
    dataset = made[2]
    found = decisions_of(made, dataset, head, class_weight).class_weights
    if not divided:
        assert found is None
        return
    counts = np.bincount(dataset.samples.labels)
    assert found == pytest.approx(N / (3 * counts))


def test_the_order_of_answers_does_not_depend_on_the_images(made):
    answers = decisions_of(made, made[2], "logistic").answers
    values = list(zip(*(getattr(answers, f.name).tolist() for f in dataclasses.fields(answers)),
                      strict=True))  # fmt: skip
    assert values == sorted(values)
