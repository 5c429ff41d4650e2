"""Figures agree with scikit-learn; intervals hold their values, or a reason stands there."""

import json

import numpy as np
import pytest
import sklearn.metrics

from regraft.errors import InputError
from regraft.evaluation import metrics
from regraft.evaluation.calibration import calibration_error
from regraft.evaluation.intervals import of_difference, of_mean_share
from regraft.evaluation.metrics import (
    accuracy_gain,
    mean_estimate,
    measure_classification,
    share_estimate,
)

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


def share_of(hits, of):
    """Return a share with Wilson's ends, the roots of (share - t)^2 = z^2 t (1 - t) / n."""
    if of == 0:
        return {"value": None, "low": None, "high": None}
    share, z = hits / of, 1.959963984540054
    low, high = np.sort(np.roots([1 + z**2 / of, -2 * share - z**2 / of, share**2]).real)
    return pytest.approx({"value": share, "low": low, "high": high}, abs=1e-7)


def ends(estimate):
    return estimate["low"], estimate["high"]


@pytest.mark.parametrize("n_classes", range(2, 9))
def test_measures_of_a_few_images_are_those_counted_one_by_one(n_classes):
    """Classes with no image or one, equal probabilities, and rows that are rounded."""
    random = np.random.default_rng(n_classes)
    for n in range(1, 13):
        p = random.integers(0, 4, (n, n_classes)) + np.eye(n_classes)[random.integers(n_classes)]
        p = p / p.sum(1, keepdims=True)
        y = np.minimum(random.geometric(0.4, n) - 1, n_classes - 1)
        found = measure_classification(
            p * random.uniform(0.995, 1.005, (n, 1)), y, NAMES[:n_classes]
        )
        order = [sorted(range(n_classes), key=lambda k, row=row: (-row[k], k)) for row in p]
        ranks = [each.index(truth) for each, truth in zip(order, y, strict=True)]
        pairs = [(int(truth), each[0]) for each, truth in zip(order, y, strict=True)]
        of_truth = [row[truth] for row, truth in zip(p, y, strict=True)]
        assert found["accuracy"] == share_of(ranks.count(0), n)
        assert ("top5" in found) == (n_classes > 5)
        if n_classes > 5:
            assert found["top5"] == share_of(sum(rank < 5 for rank in ranks), n)
        losses = [-np.log(max(each, 2.0**-52)) for each in of_truth]
        assert found["log_loss"]["value"] == pytest.approx(np.mean(losses))
        squares = ((p - np.eye(n_classes)[y]) ** 2).sum(1)
        assert found["brier"]["value"] == pytest.approx(squares.mean())
        assert found["confusion"] == [
            [pairs.count((row, column)) for column in range(n_classes)] for row in range(n_classes)
        ]
        hits = [pairs.count((k, k)) for k in range(n_classes)]
        actual = [sum(pair[0] == k for pair in pairs) for k in range(n_classes)]
        predicted = [sum(pair[1] == k for pair in pairs) for k in range(n_classes)]
        rows = found["per_class"]
        for row, *counts in zip(rows, hits, actual, predicted, strict=True):
            assert row["n"] == counts[1]
            for key, of in (("recall", counts[1]), ("precision", counts[2])):
                row[key].pop("reason", None)
                assert row[key] == share_of(counts[0], of)
            if sum(counts):
                assert row["f1"]["value"] == pytest.approx(2 * counts[0] / (counts[1] + counts[2]))
                assert row["f1"]["low"] < row["f1"]["high"]
        present = [row for row in rows if row["n"]]
        for key in ("precision", "recall", "f1"):
            mean = np.mean([row[key]["value"] or 0 for row in present])
            assert found[f"macro_{key}"]["value"] == pytest.approx(mean)
        met = [k for k in range(n_classes) if actual[k]]
        recalls = of_mean_share(*(np.array(column)[met] for column in (hits, actual)))
        assert ends(found["macro_recall"]) == recalls
        known = [k for k in met if predicted[k]]
        small = sum(actual[k] < 3 for k in met)
        assert (found["macro_f1"]["low"] is None) == (small > 4)
        assert (found["macro_precision"]["low"] is None) == (small > 4 or not known)
        if small <= 4 and known:
            low, high = of_mean_share(*(np.array(column)[known] for column in (hits, predicted)))
            low *= len(known) / len(met)
            mean = found["macro_precision"]["value"]
            assert ends(found["macro_precision"]) == pytest.approx(
                (min(low, mean), max(high, mean))
            )


def test_rows_are_read_in_blocks_and_labels_as_any_whole_numbers(monkeypatch):
    p, y = predictions(40, 20, seed=6)
    whole = measure_classification(p, y, [str(k) for k in range(20)])
    assert measure_classification(p, y.astype(np.uint8), [str(k) for k in range(20)]) == whole
    for most in (1, 60, 799):  # a row, three, all but one
        monkeypatch.setattr(metrics, "_ROWS_AT_ONCE", most)
        assert measure_classification(p, y, [str(k) for k in range(20)]) == whole


def test_macro_averages_have_no_interval_if_more_than_a_quarter_of_the_classes_are_small():
    """Classes of three images and of two, and one of none, which does not count."""
    for n_classes, most in ((8, 4), (16, 4), (20, 5)):
        for small in (most, most + 1):
            y = np.repeat(np.arange(n_classes), [2] * small + [3] * (n_classes - small))
            p = np.eye(n_classes + 1)[y]
            found = measure_classification(p, y, [str(k) for k in range(n_classes + 1)])
            for name in ("macro_f1", "macro_precision"):
                assert (found[name]["low"] is None) == (small > most)
                reason = f"{small} of {n_classes} classes have fewer than 3 test images"
                assert found[name].get("reason", reason) == reason


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


def test_a_hundred_images_and_ten_of_a_class_are_enough_for_no_warning():
    for n, of_b in ((100, 10), (99, 10), (100, 9)):
        y = np.repeat([0, 1], [n - of_b, of_b])
        found = measure_classification(np.eye(2)[y], y, ("a", "b"))["warnings"]
        assert [sentence.split(" ")[0] for sentence in found] == ["99"] * (n < 100) + ["fewer"] * (
            of_b < 10
        )


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
        (np.array([[0.5, 0.5], [0.5, 0.52]]), [0, 0], "sum to 1"),
        (np.array([[0.5, 0.5], [0.5, 0.48]]), [0, 0], "sum to 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(p, y, words):
    with pytest.raises(InputError, match=words):
        measure_classification(p, np.array(y, dtype=np.int64), ("a", "b"))


def test_one_class_leaves_nothing_to_measure():
    with pytest.raises(InputError, match="there is 1 class; a classifier needs two"):
        measure_classification(np.ones((3, 1)), np.zeros(3, dtype=np.int64), ("a",))


def test_where_no_interval_is_honest_there_is_the_reason():
    p, y = np.full((40, 2), 0.2), np.repeat([0, 1], 20)
    p[np.arange(40), y] = 0.8
    p[[0, 20]] = [[0.3, 0.7], [0.6, 0.4]]
    loss = measure_classification(p, y, ("a", "b"))["log_loss"]
    value = -(38 * np.log(0.8) + np.log(0.3) + np.log(0.4)) / 40
    assert loss == {
        "value": pytest.approx(value),
        "low": None,
        "high": None,
        "reason": "2 wrong answers of 40",
    }
    p[1] = p[0]  # a third
    loss = measure_classification(p, y, ("a", "b"))["log_loss"]
    assert 0 < loss["low"] < loss["value"] < loss["high"]
    p = np.array([[0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])  # three images, and all are wrong
    loss = measure_classification(p, np.array([0, 0, 0]), ("a", "b"))["log_loss"]
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


def test_a_share_or_a_mean_of_nothing_has_the_reason_that_its_caller_gives():
    none = {"value": None, "low": None, "high": None}
    assert share_estimate(0, 0) == mean_estimate(np.empty(0), 2) == {**none, "reason": ""}
    assert share_estimate(0, 0, "nothing asked") == {**none, "reason": "nothing asked"}
    assert mean_estimate(np.empty(0), 2, "no image") == {**none, "reason": "no image"}
    assert mean_estimate(np.array([0.5]), 2) == {**none, "value": 0.5, "reason": "n = 1"}
    equal = {**none, "value": 0.5, "reason": "it is the same for every image"}
    assert mean_estimate(np.array([0.5, 0.5]), 2) == equal
    mean = mean_estimate(np.array([0.5, 0.6]), 2)
    assert (mean["value"], *ends(mean)) == pytest.approx((0.55, 0, 0.55 + 12.706 * 0.05), abs=1e-4)


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


def test_the_calibration_error_of_equal_confidences_is_that_of_bins_written_out():
    """Each bin ends at a quantile and holds it; where images are few, many quantiles are equal."""
    random = np.random.default_rng(0)
    for n in [*range(1, 20), 50, 200]:
        confidences, hits = random.integers(4, 9, n) / 8, random.random(n) < 0.7
        highest = np.unique([*np.quantile(confidences, np.arange(1, 15) / 15), 1.0])
        bins = [next(k for k, end in enumerate(highest) if c <= end) for c in confidences]
        gaps = [sum((hits - confidences)[np.equal(bins, k)]) for k in set(bins)]
        found = calibration_error(confidences, hits, seed=0)
        assert found["value"] == pytest.approx(sum(map(abs, gaps)) / n)
        assert found["bins"] == 15


def test_answers_of_few_images_are_drawn_one_by_one():
    """One unsure answer in a bin with many that are certain: it alone is right or wrong."""
    for n in (1, 2, 100, 600):
        confidences = np.concatenate([np.ones(n - 1), [0.2]])
        found = calibration_error(confidences, np.ones(n, dtype=bool), seed=0)
        assert found["value"] == pytest.approx(0.8 / n)
        # 0.2 wrongly right, 0.8 wrongly wrong; of a thousand, the mean has a deviation of 0.008.
        assert found["calibrated"]["mean"] * n == pytest.approx(0.2 * 0.8 + 0.8 * 0.2, abs=0.04)
        assert found["calibrated"]["high"] == pytest.approx(0.8 / n)


def test_a_seed_fixes_what_is_drawn():
    p, y = predictions(200, 3, seed=3)
    one, same, other = (measure_classification(p, y, NAMES[:3], seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert measure_classification(p, y, NAMES[:3]) == measure_classification(
        p, y, NAMES[:3], seed=0
    )
    assert one["ece"]["calibrated"] != other["ece"]["calibrated"]
    assert one["macro_f1"] == other["macro_f1"]


def test_a_gain_is_the_difference_on_the_same_images():
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 64)
    one, other = (random.dirichlet(np.ones(3), 64) for _ in range(2))
    one[range(10), truth[:10]] += 1
    gain = accuracy_gain(one, other, truth)
    right, others = one.argmax(1) == truth, other.argmax(1) == truth
    only = int((right & ~others).sum()), int((others & ~right).sum())
    assert gain["value"] == pytest.approx(right.mean() - others.mean())
    kinds = {*only, int((right & others).sum()), int((~right & ~others).sum()), 0}
    assert len(kinds) == 5  # each number of images can be told from the others
    assert (gain["low"], gain["high"]) == of_difference(*only, 64)
    assert gain["low"] < gain["value"] < gain["high"]
