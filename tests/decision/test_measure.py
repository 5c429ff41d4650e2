"""What is measured of decisions, against counts by hand."""

import json

import numpy as np
import pytest
from scipy import stats

from regraft.decision.costs import ABSTAINED, IS_UNKNOWN, Costs
from regraft.decision.measure import costs_of, measure_decisions
from regraft.decision.policy import Decided, Levels

CLASSES = ("daisy", "rose", "tulip")

#: Eight images: true class, action, set, whether unknown.
IMAGES = [
    (0, 0, "100", False),
    (0, 0, "110", False),
    (0, 1, "010", False),
    (0, IS_UNKNOWN, "110", True),
    (1, 1, "111", False),
    (1, ABSTAINED, "101", False),
    (1, IS_UNKNOWN, "010", True),
    (1, 0, "010", False),
]


def decided(images=tuple(IMAGES), *, unknown=True, abstained=True):
    actions = np.array([action for _, action, _, _ in images], np.int64)
    sets = np.array([[k == "1" for k in chosen] for _, _, chosen, _ in images], bool)
    told = np.array([is_unknown for _, _, _, is_unknown in images], bool)
    return Decided(
        actions,
        sets.reshape(len(images), 3),
        np.where(told, 0.001, 0.5) if unknown else None,
        told if unknown else None,
        actions == ABSTAINED if abstained else None,
    )


def measured_of(decided, labels, classes, levels):
    """The most probable class is rose in each image."""
    return measure_decisions(decided, labels, classes, levels, np.ones(len(labels), np.int64))


LABELS = np.array([label for label, *_ in IMAGES])


def share(hits, n):
    if not n:
        return {"value": None, "low": None, "high": None, "reason": "no image"}
    ends = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    found = {"value": hits / n, "low": ends.low, "high": ends.high}
    return {name: pytest.approx(value, abs=1e-12) for name, value in found.items()}


def test_sets_are_counted_over_all_and_in_each_class():
    measured = measured_of(
        decided(unknown=False), LABELS, CLASSES, Levels(coverage=0.9, coverage_by="class")
    )
    assert measured["n"] == 8
    assert {*measured} == {"n", "sets"}
    sets = measured["sets"]
    assert (sets["aimed_at"], sets["by"]) == (0.9, "class")
    assert sets["coverage"] == share(6, 8)
    assert sets["with_one_class"] == share(4, 8)
    assert sets["size"]["value"] == (1 + 2 + 1 + 2 + 3 + 2 + 1 + 1) / 8
    assert 1 < sets["size"]["low"] < 13 / 8 < sets["size"]["high"] < 3
    assert sets["per_class"] == [
        {"class": "daisy", "n": 4, **share(3, 4)},
        {"class": "rose", "n": 4, **share(3, 4)},
        {"class": "tulip", "n": 0, **share(0, 0)},
    ]


def test_unknown_images_are_counted_over_all_and_in_each_class():
    for level in (0.02, None):
        measured = measured_of(decided(), LABELS, CLASSES, Levels(unknown=level))
        assert measured["unknown"] == {
            "level": level or 0.01,
            "share": share(2, 8),
            "per_class": [
                {"class": "daisy", "n": 4, **share(1, 4)},
                {"class": "rose", "n": 4, **share(1, 4)},
                {"class": "tulip", "n": 0, **share(0, 0)},
            ],
        }


def test_of_a_promise_the_share_answered_and_the_share_of_these_that_is_right():
    measured = measured_of(decided(), LABELS, CLASSES, Levels(min_precision=0.9))
    assert measured["answers"] == {
        "aimed_at": 0.9,
        "answered": share(5, 8),
        "precision": share(3, 5),
    }
    none = decided([(0, ABSTAINED, "100", False)] * 3)
    measured = measured_of(none, np.zeros(3, int), CLASSES, Levels(min_precision=0.9))
    assert measured["answers"]["answered"] == share(0, 3)
    assert measured["answers"]["precision"] == {**share(0, 0), "reason": "nothing is answered"}


def test_without_a_promise_or_costs_neither_is_measured():
    measured = measured_of(decided(), LABELS, CLASSES, Levels())
    assert {*measured} == {"n", "sets", "unknown"}
    undecided = decided(abstained=False)
    measured = measured_of(undecided, LABELS, CLASSES, Levels(min_precision=0.9))
    assert "answers" not in measured


TABLE = np.array([[0.0, 1.0, 2.0], [4.0, 0.0, 8.0], [16.0, 32.0, 0.0]])


@pytest.mark.parametrize(
    ("extra", "abstained", "unknown"),
    [
        ({"abstain": [0.5, 0.25, 1]}, 0.25, [0.5, 0.25]),
        ({"abstain": [0.5, 0.25, 1], "unknown": [3, 5, 7]}, 0.25, [3, 5]),
    ],
)
def test_each_decision_costs_what_the_table_says(extra, abstained, unknown):
    costs = Costs(np.column_stack([TABLE, *extra.values()]), tuple(extra))
    paid = [0, 0, 1, unknown[0], 0, abstained, unknown[1], 4]
    found = decided()
    assert costs_of(found, LABELS, costs).tolist() == paid
    assert found.actions.tolist() == [action for _, action, _, _ in IMAGES]
    measured = measured_of(found, LABELS, CLASSES, Levels(costs=costs))["costs"]
    assert measured["answered"] == share(5, 8)
    assert measured["expected"]["value"] == pytest.approx(sum(paid) / 8)
    assert measured["most_probable"]["value"] == pytest.approx(4 / 8)  # four daisies
    without = measure_decisions(found, LABELS, CLASSES, Levels(costs=costs))["costs"]
    assert without == {name: measured[name] for name in ("expected", "answered", "precision")}
    assert 0 <= measured["expected"]["low"] < sum(paid) / 8 < measured["expected"]["high"] <= 32


def test_costs_of_unknown_images_alone_and_of_classes_alone():
    only = Costs(np.column_stack([TABLE, [3, 5, 7]]), ("unknown",))
    images = [(0, 1, "100", False), (1, IS_UNKNOWN, "100", True), (2, 1, "100", False)]
    labels = np.arange(3)
    assert costs_of(decided(images), labels, only).tolist() == [1, 5, 32]
    images = [(0, 1, "100", False), (1, 2, "100", True), (2, 2, "100", False)]
    assert costs_of(decided(images), labels, Costs(TABLE)).tolist() == [1, 8, 0]


def test_the_interval_of_a_cost_reaches_no_further_than_the_largest_cost():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 5)
    images = [(label, 1 - label, "111", False) for label in labels]
    costs = Costs(np.array([[0, 1.0, 9], [0.99, 0, 9], [9, 9, 0]]))
    expected = measured_of(decided(images), labels, CLASSES, Levels(costs=costs))
    assert expected["costs"]["expected"]["high"] <= 9
    free = Costs(np.zeros((3, 3)))
    measured = measured_of(decided(images), labels, CLASSES, Levels(costs=free))
    assert (
        measured["costs"]["expected"]
        == measured["costs"]["most_probable"]
        == {
            "value": 0.0,
            "low": None,
            "high": None,
            "reason": "it is the same for every image",
        }
    )


def test_intervals_of_sizes_and_costs_hold_the_mean_in_nearly_all_samples():
    random = np.random.default_rng(1)
    costs = Costs(np.column_stack([TABLE, np.full(3, 0.5)]), ("abstain",))
    held = {"size": 0, "expected": 0}
    for _ in range(150):
        picked = [IMAGES[k] for k in random.integers(0, 8, 60)]
        labels = np.array([label for label, *_ in picked])
        measured = measured_of(decided(picked), labels, CLASSES, Levels(costs=costs))
        for name, mean, found in (
            ("size", 13 / 8, measured["sets"]["size"]),
            ("expected", 6.5 / 8, measured["costs"]["expected"]),
        ):
            held[name] += found["low"] <= mean <= found["high"]
    assert 130 < held["size"] < 150
    assert 130 < held["expected"] < 150


def test_no_images_are_no_error_and_all_is_ready_for_json():
    levels = Levels(min_precision=0.9)
    with_costs = Levels(costs=Costs(np.column_stack([TABLE, np.ones(3)]), ("abstain",)))
    empty, nobody = decided([]), np.zeros(0, np.int64)
    for asked in (levels, with_costs):
        for found, labels in ((decided(), LABELS), (empty, nobody)):
            text = json.dumps(measured_of(found, labels, CLASSES, asked), allow_nan=False)
            assert json.loads(text)["n"] == len(labels)
    measured = measured_of(empty, nobody, CLASSES, with_costs)
    assert measured["sets"]["coverage"] == measured["unknown"]["share"] == share(0, 0)
    assert measured["sets"]["size"] == measured["costs"]["expected"] == share(0, 0)
    assert measured["sets"]["with_one_class"] == measured["costs"]["answered"] == share(0, 0)
    answers = measured_of(empty, nobody, CLASSES, levels)["answers"]
    assert answers["answered"] == share(0, 0)
