"""What is printed of a test: each figure with its interval, or with the reason why it has none."""

import numpy as np
import pytest

from regraft.evaluation.metrics import accuracy_gain, measure_classification
from regraft.runs.summary import describe_decisions, describe_test, summarise


def test_two_images_print_what_they_show_and_no_more():
    p = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    truth = np.array([0, 1])
    test = measure_classification(p, truth, ("a", "b"))
    accuracy, f1, loss, calibration = describe_test(test)
    assert accuracy == "accuracy 1.000 (95 %: 0.342 to 1.000, n = 2)"
    assert f1 == "macro F1 1.000 (95 %: 0.313 to 1.000)"  # and not 1.000 to 1.000
    assert loss == "log-loss 0.164 (no interval: n = 2)"
    # Both are right with 0.72, and then the error is 0.15; else it is larger.
    assert calibration.startswith("calibration error 0.150 (calibrated models: 0.2")
    baseline = {
        "accuracy": test["accuracy"],
        "description": "guessed",
        "gain": accuracy_gain(p, p[[0, 0]], truth),
    }
    metrics = {
        "test": test,
        "baselines": {"one": baseline, "same": {**baseline, "gain": accuracy_gain(p, p, truth)}},
        "seconds": {"total": 1.0},
        "features": {"extracted": 4, "reused": 0},
        "data": {"n": {"train": 2, "val": 0, "test": 2}},
        "protocol": "one held-out test part",
        "backbone": {"name": "none"},
    }
    one, same = summarise("run", metrics).splitlines()[4:6]
    assert "gain +0.500 (-0.486 to +0.905) (guessed)" in one  # within [-1, 1]
    assert "gain +0.000 (-0.658 to +0.658) (guessed)" in same  # not a point


@pytest.mark.parametrize("reason", [{}, {"reason": "one image"}])
def test_a_run_of_an_earlier_version_is_still_shown(reason):
    """It has no calibrated models, and perhaps no reason for a missing interval."""
    nothing = {"value": 0.25, "low": None, "high": None, **reason}
    test = {
        "n": 1,
        "accuracy": {"value": 1.0, "low": 0.2, "high": 1.0},
        "macro_f1": {"value": None, "low": None, "high": None},
        "log_loss": nothing,
        "ece": {"value": 0.2, "bins": 15},
    }
    why = ": one image" if reason else ""
    assert describe_test(test)[1:] == [
        "macro F1 undefined",
        f"log-loss 0.250 (no interval{why})",
        "calibration error 0.200",
    ]
    metrics = {
        "test": test,
        "baselines": {
            "old": {"accuracy": test["accuracy"], "description": "d", "gain": nothing},
            "majority": {"accuracy": test["accuracy"], "description": "d"},
        },
        "seconds": {"total": 1.0},
        "features": {"extracted": 4, "reused": 0},
        "data": {"n": {"train": 2, "val": 0, "test": 1}},
        "protocol": "one held-out test part",
        "backbone": {"name": "none"},
    }
    old, majority = summarise("run", metrics).splitlines()[4:6]
    assert old.endswith("gain +0.250 (no interval) (d)")
    assert "gain" not in majority


def share(value, low, high, **more):
    return {"value": value, "low": low, "high": high, **more}


DECISIONS = {
    "sets": {
        "aimed_at": 0.95,
        "by": "class",
        "own_thresholds": 2,
        "coverage": share(0.617, 0.49, 0.729),
        "size": share(1.1, 1.0, 1.2),
        "per_class": [
            {"class": "daisy", "n": 40, **share(0.9, 0.7, 1.0)},
            {"class": "sunflower", "n": 1200, **share(0.25, 0.1, 0.5)},
            {"class": "none", "n": 0, **share(None, None, None)},
        ],
    },
    "unknown": {
        "level": 0.01,
        "share": share(0.1, 0.05, 0.2),
        "per_class": [{"class": "daisy", **share(0.0, 0.0, 0.1)},
                      {"class": "rose", **share(0.2, 0.1, 0.3)}],
    },
    "answers": {
        "aimed_at": 0.95,
        "answered": share(0.8, 0.7, 0.9),
        "precision": share(0.93, 0.9, 0.97),
    },
}  # fmt: skip


def test_an_aim_outside_the_interval_is_told_and_the_class_that_has_it_worst():
    sets, unknown, answers = describe_decisions(DECISIONS)
    assert sets == (
        "sets of classes that hold the true one: 0.617 (95 %: 0.490 to 0.729), 0.95 aimed at in "
        "each of 2 classes, outside the interval; least in sunflower, 0.250 of 1,200; classes in a "
        "set: 1.100 (95 %: 1.000 to 1.200)"
    )
    assert unknown == (
        "called unknown: 0.100 (95 %: 0.050 to 0.200), 0.01 aimed at, outside the interval; most "
        "in rose, 0.200"
    )
    assert answers == (
        "answered: 0.800 (95 %: 0.700 to 0.900); of these right: 0.930 (95 %: 0.900 to 0.970), "
        "0.95 aimed at"
    )


@pytest.mark.parametrize(("own", "where"), [(3, " in each class"), (0, "")])
def test_in_each_class_is_said_only_where_classes_have_thresholds_of_their_own(own, where):
    """Else one threshold of all classes is used, and a note says so."""
    measured = DECISIONS | {"sets": DECISIONS["sets"] | {"own_thresholds": own}}
    first, *_ = describe_decisions(measured)
    assert f", 0.95 aimed at{where}, outside the interval; " in first
    without = {key: value for key, value in measured.items() if key == "sets"}
    assert describe_decisions(without)[1] == "called unknown: no image, as there is no level"
    assert describe_decisions(None) == []
