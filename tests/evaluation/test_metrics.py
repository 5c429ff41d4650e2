"""Figures agree with scikit-learn; intervals hold their values, or a reason stands there."""

import json

import numpy as np
import pytest
import sklearn.metrics

from regraft.errors import InputError
from regraft.evaluation.intervals import of_difference, of_mean_share
from regraft.evaluation.metrics import accuracy_gain, measure_classification

NAMES = tuple("abcdefgh")


def predictions(n, n_classes, seed=0, skill=1.5):
    random = np.random.default_rng(seed)
    labels = random.integers(0, n_classes, n)
    logits = random.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += skill
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def test_values_are_those_of_scikit_learn():
    p, y = predictions(500, 8)
    result = measure_classification(p, y, NAMES)
    guess = p.argmax(axis=1)
    reference = sklearn.metrics
    labels = np.arange(8)
    assert result["n"] == 500
    assert result["accuracy"]["value"] == reference.accuracy_score(y, guess)
    assert result["top5"]["value"] == reference.top_k_accuracy_score(y, p, k=5, labels=labels)
    assert result["log_loss"]["value"] == pytest.approx(reference.log_loss(y, p, labels=labels))
    assert result["confusion"] == reference.confusion_matrix(y, guess, labels=labels).tolist()
    precision, recall, f1, n = reference.precision_recall_fscore_support(y, guess, labels=labels)
    for index, row in enumerate(result["per_class"]):
        assert (row["name"], row["n"]) == (NAMES[index], n[index])
        values = [row[key]["value"] for key in ("precision", "recall", "f1")]
        assert values == pytest.approx([precision[index], recall[index], f1[index]])
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert result[f"macro_{name}"]["value"] == pytest.approx(values.mean())
    assert result["brier"]["value"] == pytest.approx(((p - np.eye(8)[y]) ** 2).sum(axis=1).mean())


def test_every_interval_holds_its_value():
    p, y = predictions(300, 8, seed=1)
    result = measure_classification(p, y, NAMES)
    whole = ("accuracy", "top5", "log_loss", "brier")
    macro = ("macro_f1", "macro_precision", "macro_recall")
    estimates = [result[name] for name in whole + macro]
    estimates += [row[key] for row in result["per_class"] for key in ("precision", "recall", "f1")]
    for estimate in estimates:
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
        assert estimate["low"] < estimate["high"]


def test_the_order_of_images_does_not_matter():
    p, y = predictions(200, 3, seed=4)
    p[:100] = p[0]  # equal confidences
    shuffled = np.random.default_rng(0).permutation(200)
    one, other = (
        measure_classification(*data, NAMES[:3]) for data in ((p, y), (p[shuffled], y[shuffled]))
    )
    assert one["ece"] == other["ece"]
    assert one["macro_f1"] == other["macro_f1"]
    assert one["confusion"] == other["confusion"]


def test_calibration_error_of_known_cases():
    sure = np.tile([0.8, 0.2], (100, 1))
    truth = np.repeat([0, 1], [80, 20])
    assert measure_classification(sure, truth, ("a", "b"))["ece"]["value"] == pytest.approx(0)
    wrong = np.repeat([0, 1], [30, 70])
    assert measure_classification(sure, wrong, ("a", "b"))["ece"]["value"] == pytest.approx(0.5)
    halves = np.concatenate([np.tile([0.6, 0.4], (50, 1)), np.tile([0.9, 0.1], (50, 1))])
    truth = np.repeat([0, 1, 0], [40, 10, 50])  # 0.8 where 0.6 was said, 1 where 0.9 was
    assert measure_classification(halves, truth, ("a", "b"))["ece"]["value"] == pytest.approx(0.15)


def test_absent_classes_are_undefined_with_a_reason():
    p = np.array([[0.7, 0.2, 0.1, 0.0], [0.6, 0.3, 0.1, 0.0]] * 60)
    result = measure_classification(p, np.array([0, 1] * 60), ("a", "b", "c", "d"))
    c = result["per_class"][2]
    assert c["n"] == 0
    assert c["precision"] == {"value": None, "low": None, "high": None, "reason": "never predicted"}
    assert c["recall"]["reason"] == "no test image"
    assert c["f1"]["value"] is None
    assert result["per_class"][1]["precision"]["reason"] == "never predicted"
    assert result["per_class"][1]["recall"]["value"] == 0
    assert result["macro_recall"]["value"] == 0.5  # over the two classes that have images
    assert "top5" not in result
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_parts_give_json_without_nan_and_no_interval_of_a_point(n, seed):
    p, y = predictions(n, 8, seed=seed)
    result = measure_classification(p, y, NAMES)
    json.dumps(result, allow_nan=False)
    for name in ("accuracy", "top5", "log_loss", "brier", "macro_f1", "macro_precision"):
        estimate = result[name]
        if estimate["low"] is None:
            assert estimate["high"] is None
            assert estimate["reason"]
        else:
            assert 0 <= estimate["low"] < estimate["high"]
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
    if n < 3:
        assert result["log_loss"]["reason"] == result["brier"]["reason"] == f"n = {n}"


def test_impossible_answers_stay_finite():
    result = measure_classification(
        np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), ("a", "b")
    )
    assert result["log_loss"]["value"] == pytest.approx(36.04 / 2, abs=0.01)
    json.dumps(result, allow_nan=False)


def test_too_few_images_give_a_warning():
    p, y = predictions(99, 3, seed=5)
    y[:95] = 0
    y[95:] = 1
    few, of_classes = measure_classification(p, y, NAMES[:3])["warnings"]
    assert few.startswith("99 test images are too few for a claim about accuracy")
    assert of_classes.endswith("b (4), c (0)")
    p, y = predictions(2000, 3)
    assert measure_classification(p, y, NAMES[:3])["warnings"] == []
    y[:] = 0
    [few] = measure_classification(np.full((2000, 20), 0.05), y, [f"{i:02}" for i in range(20)])[
        "warnings"
    ]
    assert few.endswith("09 (0), 10 (0) and 9 more")


def test_float32_is_measured_like_float64():
    p, y = predictions(300, 8)
    single = measure_classification(p.astype(np.float32), y, NAMES)
    assert single["log_loss"]["value"] == pytest.approx(
        measure_classification(p, y, NAMES)["log_loss"]["value"]
    )


@pytest.mark.parametrize(
    ("p", "y", "words"),
    [
        (np.empty((0, 2)), [], "no image"),
        (np.ones((2, 2)) / 2, [0], "do not fit"),
        (np.ones((2, 3)) / 3, [0, 1], "do not fit"),
        (np.ones((1, 2)) / 2, [2], "must be from 0 to 1"),
        (np.ones((1, 2)) / 2, [-1], "must be from 0 to 1"),
        (np.array([[np.nan, 1.0]]), [0], "sum to 1"),
        (np.array([[2.0, -1.0]]), [0], "sum to 1"),
        (np.array([[5.0, 1.0]]), [0], "sum to 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(p, y, words):
    with pytest.raises(InputError, match=words):
        measure_classification(p, np.array(y, dtype=np.int64), ("a", "b"))


def test_where_no_interval_is_honest_there_is_the_reason():
    p, y = np.full((40, 2), 0.2), np.repeat([0, 1], 20)
    p[np.arange(40), y] = 0.8
    p[[0, 20]] = [[0.3, 0.7], [0.6, 0.4]]
    loss = measure_classification(p, y, ("a", "b"))["log_loss"]
    assert (loss["low"], loss["high"], loss["reason"]) == (None, None, "2 wrong answers of 40")
    p[1] = p[0]  # a third
    loss = measure_classification(p, y, ("a", "b"))["log_loss"]
    assert 0 < loss["low"] < loss["value"] < loss["high"]
    same = measure_classification(np.full((40, 2), 0.5), y, ("a", "b"))
    assert same["log_loss"]["value"] == pytest.approx(np.log(2))
    assert same["log_loss"]["reason"] == "it is the same for every image"
    assert same["macro_precision"]["low"] < same["macro_precision"]["high"]

    one_of_each = measure_classification(np.eye(8), np.arange(8), NAMES)
    for name in ("macro_precision", "macro_f1"):
        assert one_of_each[name] == {
            "value": 1.0,
            "low": None,
            "high": None,
            "reason": "8 of 8 classes have fewer than 3 test images",
        }
    assert one_of_each["macro_recall"]["low"] < 0.7
    p = np.eye(3)[np.repeat([0, 1], 20)]  # c is never predicted, and counts with precision 0
    seldom = measure_classification(p, np.repeat([0, 1, 2], [20, 19, 1]), ("a", "b", "c"))
    known = of_mean_share(np.array([20, 19]), np.array([20, 20]))
    assert seldom["macro_precision"] == pytest.approx(
        {"value": (1 + 0.95) / 3, "low": known[0] * 2 / 3, "high": known[1]}
    )
    unmet = measure_classification(np.eye(3)[[2, 2, 2]], np.array([0, 1, 1]), ("a", "b", "c"))
    assert unmet["macro_precision"] == {
        "value": 0.0,
        "low": None,
        "high": None,
        "reason": "no class that has test images is ever predicted",
    }
    assert unmet["per_class"][2]["f1"]["value"] == 0
    assert unmet["per_class"][2]["f1"]["high"] == pytest.approx(0.719, abs=1e-3)  # not 0 (0 to 0)


@pytest.mark.parametrize("n", [20, 500])
def test_the_calibration_error_stands_beside_that_of_calibrated_models(n):
    """Labels drawn from the probabilities themselves, and the error of bins written out."""
    confidences = np.random.default_rng(0).uniform(0.5, 1, n)
    p = np.column_stack([confidences, 1 - confidences])
    bins = np.digitize(confidences, np.quantile(confidences, np.arange(1, 15) / 15), right=True)
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(1500):
        gaps = (random.random(n) < confidences) - confidences
        drawn.append(sum(abs(gaps[bins == b].sum()) for b in np.unique(bins)) / n)
    found = measure_classification(p, np.zeros(n, np.int64), ("a", "b"))["ece"]
    deviation = np.std(drawn)
    assert found["value"] == pytest.approx(1 - confidences.mean())
    assert found["calibrated"]["mean"] == pytest.approx(np.mean(drawn), abs=0.2 * deviation)
    high = np.quantile(drawn, 0.95)
    assert found["calibrated"]["high"] == pytest.approx(high, abs=0.3 * deviation)


def test_with_many_images_the_gaps_of_calibrated_models_are_normal():
    """The mean of |N(0, s^2)| is s times the root of 2 / pi; s^2 of a bin sums c (1 - c)."""
    confidences = np.sort(np.random.default_rng(0).uniform(0.5, 1, 6000))
    p = np.column_stack([confidences, 1 - confidences])
    spreads = (confidences * (1 - confidences)).reshape(15, 400).sum(1) ** 0.5
    found = measure_classification(p, np.zeros(6000, np.int64), ("a", "b"))["ece"]
    expected = spreads.sum() * (2 / np.pi) ** 0.5 / 6000
    assert found["calibrated"]["mean"] == pytest.approx(expected, rel=0.03)


def test_a_seed_fixes_what_is_drawn():
    p, y = predictions(200, 3, seed=3)
    one, same, other = (measure_classification(p, y, NAMES[:3], seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one["ece"]["calibrated"] != other["ece"]["calibrated"]
    assert one["macro_f1"] == other["macro_f1"]


def test_a_gain_is_the_difference_on_the_same_images():
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 50)
    one, other = (random.dirichlet(np.ones(3), 50) for _ in range(2))
    gain = accuracy_gain(one, other, truth)
    right, others = one.argmax(1) == truth, other.argmax(1) == truth
    only = int((right & ~others).sum()), int((others & ~right).sum())
    assert gain["value"] == pytest.approx(right.mean() - others.mean())
    assert (gain["low"], gain["high"]) == of_difference(*only, 50)
    assert gain["low"] < gain["value"] < gain["high"]
