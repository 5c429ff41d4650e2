"""Figures agree with scikit-learn and SciPy, intervals with resampled images; never NaN."""

import json

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from regraft.errors import InputError
from regraft.evaluation.intervals import bootstrap, of_mean, wilson
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


@pytest.mark.parametrize("n", [1, 2, 17, 863])
def test_wilson_is_scipys(n):
    successes = np.unique(np.linspace(0, n, 9).astype(int))
    low, high = wilson(successes, np.full(len(successes), n))
    for k, *ends in zip(successes, low, high, strict=True):
        reference = stats.binomtest(int(k), n).proportion_ci(0.95, method="wilson")
        assert ends == pytest.approx([reference.low, reference.high], abs=1e-12)
        assert 0 <= ends[0] <= ends[1] <= 1


def test_of_mean_is_scipys():
    values = np.random.default_rng(0).exponential(size=40)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert of_mean(values) == pytest.approx((reference.low, reference.high))
    assert of_mean(values[:1]) == (None, None)


@pytest.mark.parametrize("n", [60, 4000])  # resampled by image, and by cell of the matrix
def test_bootstrap_is_resampling_of_images(n):
    p, y = predictions(n, 4, seed=2)
    guess = p.argmax(axis=1)
    confusion = sklearn.metrics.confusion_matrix(y, guess)
    low, high = bootstrap(
        confusion, lambda of: of.hits / np.maximum(of.actual, 1), repeats=2000, seed=0
    )
    random = np.random.default_rng(1)
    scores = []
    for _ in range(2000):
        drawn = random.integers(0, n, n)
        actual = np.bincount(y[drawn], minlength=4)
        hits = np.bincount(y[drawn][y[drawn] == guess[drawn]], minlength=4)
        scores.append(hits / np.maximum(actual, 1))
    golden = np.quantile(scores, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([low, high], golden, atol=0.25 * (golden[1] - golden[0]).max())
    assert np.abs((high - low) / (golden[1] - golden[0]) - 1).max() < 0.2


def test_a_seed_fixes_the_intervals():
    p, y = predictions(200, 3, seed=3)
    assert measure_classification(p, y, NAMES[:3], seed=1) == measure_classification(
        p, y, NAMES[:3], seed=1
    )
    assert measure_classification(p, y, NAMES[:3], seed=1) != measure_classification(
        p, y, NAMES[:3], seed=2
    )


def test_the_order_of_images_does_not_matter():
    p, y = predictions(200, 3, seed=4)
    p[:100] = p[0]  # equal confidences
    shuffled = np.random.default_rng(0).permutation(200)
    one, other = (
        measure_classification(*data, NAMES[:3]) for data in ((p, y), (p[shuffled], y[shuffled]))
    )
    assert one["ece"]["value"] == pytest.approx(other["ece"]["value"])
    assert one["macro_f1"] == pytest.approx(other["macro_f1"], abs=0.02)
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
def test_the_smallest_parts_give_json_without_nan(n, seed):
    p, y = predictions(n, 8, seed=seed)
    result = measure_classification(p, y, NAMES)
    json.dumps(result, allow_nan=False)
    assert (result["log_loss"]["low"] is None) == (n == 1)


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


@pytest.mark.parametrize(
    ("others", "value", "low", "high"),
    [
        ([0, 1, 0, 1], 0.0, -0.6024, 0.6024),  # the same answers: four images prove no equality
        ([1, 0, 1, 0], 1.0, -0.2047, 1.0),
    ],
)
def test_a_gain_that_is_the_same_for_every_image_has_no_interval_of_a_point(
    others, value, low, high
):
    """1 - 0.025 ** (1 / 4) = 0.6024 is Clopper and Pearson's end for none of four."""
    one_hot, truth = np.eye(2, dtype=np.float32), np.array([0, 1, 0, 1])
    gain = accuracy_gain(one_hot[truth], one_hot[others], truth)
    assert gain == pytest.approx({"value": value, "low": low, "high": high}, abs=1e-4)
    low_exact, high_exact = stats.binomtest(0, 4).proportion_ci(method="exact")
    assert (low_exact, high_exact) == pytest.approx((0, 0.6024), abs=1e-4)
