"""Every fitter, on ordinary data and on the hardest shapes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss

from regraft.errors import InputError
from regraft.heads.fit import (
    FITTERS,
    WITHOUT_WEIGHTS,
    class_weights,
    fit_head,
    sample_weights,
)
from regraft.heads.modules import HEADS, Head
from regraft.heads.simple import fit_mean
from regraft.heads.standardise import Standard
from regraft.heads.temperature import HIGHEST, LOWEST, fit_temperature, log_losses


def blobs(n, d, k, *, seed=0, noise=1.0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(k, d))
    y = np.arange(n) % k
    x = centres[y] + noise * generator.normal(size=(n, d))
    return x.astype(np.float16).astype(np.float32), y.astype(np.int64), np.arange(n) // k % 5


@pytest.mark.parametrize("name", sorted(FITTERS))
class TestEveryFitter:
    def test_learns_what_can_be_learnt(self, name):
        x, y, folds = blobs(400, 30, 4)
        test_x, test_y, _ = blobs(400, 30, 4, seed=0, noise=1.0)
        fitted = fit_head(x, y, folds=folds, n_classes=4, name=name)
        with torch.inference_mode():
            logits = fitted.head(torch.from_numpy(test_x)).numpy()
        assert (logits.argmax(1) == test_y).mean() > 0.95
        assert fitted.record["out_of_fold"]["accuracy"] > 0.95

    def test_records_what_it_did_in_json(self, name):
        x, y, folds = blobs(100, 10, 2)
        fitted = fit_head(x, y, folds=folds, n_classes=2, name=name)
        record = json.loads(json.dumps(fitted.record, allow_nan=False))
        assert (record["head"], record["n"], record["d"]) == (name, 100, 10)
        assert record["temperature"] == fitted.temperature
        assert json.dumps(fitted.history, allow_nan=False)
        assert sum(row["chosen"] for row in fitted.history) == 1
        assert len({tuple(row) for row in fitted.history}) == 1  # columns of one table
        assert {"log_loss", "log_loss_se", "accuracy", "seconds"} <= set(fitted.history[0])

    def test_out_of_fold_scores_are_those_of_its_logits(self, name):
        x, y, folds = blobs(150, 10, 3, noise=3.0)
        folds[:10] = -1
        fitted = fit_head(x, y, folds=folds, n_classes=3, name=name)
        assert np.array_equal(fitted.scored, folds >= 0)
        logits, labels = fitted.oof_logits[fitted.scored].astype(float), y[fitted.scored]
        found = fitted.record["out_of_fold"]
        assert found["log_loss"] == pytest.approx(log_loss(labels, softmax(logits, 1)), rel=1e-5)
        calibrated = softmax(logits / fitted.temperature, 1)
        assert found["calibrated_log_loss"] == pytest.approx(log_loss(labels, calibrated), rel=1e-5)
        assert found["calibrated_log_loss"] <= found["log_loss"] + 1 / 150  # one mistake expected
        assert found["accuracy"] == (logits.argmax(1) == labels).mean()

    def test_what_is_weighted_by_class_has_a_column_of_its_own(self, name):
        """The others count each row once: with balanced classes too, and for every head."""
        x, y, _ = blobs(120, 6, 3, noise=3.0)
        kept = np.r_[:60, 60:120:3]  # of one class alone from row 60 on
        x, y, folds = x[kept], y[kept], np.arange(len(kept)) % 5
        fitted = fit_head(x, y, folds=folds, n_classes=3, name=name, class_weight="balanced")
        probabilities = softmax(fitted.oof_logits.astype(float), 1)
        calibrated = softmax(fitted.oof_logits.astype(float) / fitted.temperature, 1)
        weights = (len(y) / (3 * np.bincount(y)))[y]
        expected = {
            "n": len(y),
            "accuracy": (probabilities.argmax(1) == y).mean(),
            "log_loss": log_loss(y, probabilities),
            "balanced_log_loss": log_loss(y, probabilities, sample_weight=weights),
            "calibrated_log_loss": log_loss(y, calibrated),
            "balanced_calibrated_log_loss": log_loss(y, calibrated, sample_weight=weights),
        }
        found = dict(fitted.record["out_of_fold"])
        assert found.pop("balanced_log_loss_se") != pytest.approx(found.pop("log_loss_se"))
        assert found == pytest.approx(expected, rel=1e-5)
        assert expected["log_loss"] != pytest.approx(expected["balanced_log_loss"], rel=1e-3)
        best = min(fitted.history, key=lambda row: row["balanced_log_loss"])
        assert best["chosen"]
        assert best["accuracy"] == expected["accuracy"]

    def test_does_the_same_twice(self, name):
        x, y, folds = blobs(100, 10, 3, noise=2.0)
        first, second = (fit_head(x, y, folds=folds, n_classes=3, name=name) for _ in range(2))
        assert np.array_equal(first.oof_logits, second.oof_logits)
        assert first.temperature == second.temperature
        mine, other = first.head.tensors(), second.head.tensors()
        assert all(torch.equal(mine[key], other[key]) for key in mine)

    @pytest.mark.parametrize(
        ("n", "d", "k"),
        [(2, 3, 2), (12, 500, 3), (12, 1, 2), (40, 60, 20), (800, 50, 400)],
        ids=["one a class", "wide", "one feature", "two a class", "400 classes"],
    )
    def test_hard_shapes(self, name, n, d, k):
        x, y, _ = blobs(n, d, k)
        # As the folds are made: a class with one image is always in training.
        folds = np.arange(n) // k if n // k > 1 else np.full(n, -1)
        fitted = fit_head(x, y, folds=folds, n_classes=k, name=name)
        self.check(fitted, x, k)

    def test_a_class_with_one_image_among_large_ones(self, name):
        x, y, folds = blobs(101, 20, 2)
        y[100], folds[100] = 2, -1
        x[100] += 5
        fitted = fit_head(x, y, folds=folds, n_classes=3, name=name)
        self.check(fitted, x, 3)

    def test_a_class_that_one_folds_training_side_lacks(self, name):
        x, y, folds = blobs(60, 10, 3)
        folds[y == 2] = 1
        fitted = fit_head(x, y, folds=folds, n_classes=3, name=name)
        self.check(fitted, x, 3)

    def test_constant_and_huge_features(self, name):
        x, y, folds = blobs(60, 10, 3)
        x[:, 0] = 7.3
        x[:, 1] = 0
        x[:, 2] *= 6000
        x[:, 3] *= 1e-7
        fitted = fit_head(x, y, folds=folds, n_classes=3, name=name)
        self.check(fitted, x, 3)
        assert fitted.head.scale[:2].tolist() == [0, 0]

    def test_nothing_but_constants(self, name):
        x, y, folds = blobs(60, 10, 3)
        fitted = fit_head(np.ones_like(x), y, folds=folds, n_classes=3, name=name)
        self.check(fitted, np.ones_like(x), 3)

    def test_no_folds_means_no_scores_and_a_temperature_of_one(self, name):
        x, y, _ = blobs(30, 10, 3)
        fitted = fit_head(x, y, folds=np.full(30, -1), n_classes=3, name=name)
        assert fitted.temperature == 1
        assert not fitted.scored.any()
        assert fitted.record["out_of_fold"] is None
        json.dumps(fitted.record, allow_nan=False)
        self.check(fitted, x, 3)

    def test_goes_through_a_bundle(self, name):
        x, y, folds = blobs(60, 10, 3)
        head = fit_head(x, y, folds=folds, n_classes=3, name=name).head
        assert isinstance(head, Head)
        again = HEADS[head.kind].from_tensors(head.tensors())
        assert torch.equal(head(torch.from_numpy(x)), again(torch.from_numpy(x)))

    def check(self, fitted, x, k):
        with torch.inference_mode():
            logits = fitted.head(torch.from_numpy(x)).numpy()
        assert logits.shape == (len(x), k)
        assert np.isfinite(logits).all()
        assert np.isfinite(fitted.oof_logits).all()
        assert LOWEST <= fitted.temperature <= HIGHEST


def test_balanced_weights_raise_the_recall_of_a_rare_class():
    generator = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0).astype(np.int64)
    x = (generator.normal(size=(400, 5)) + 1.2 * y[:, None] * np.eye(5)[0]).astype(np.float32)
    folds = generator.permutation(np.arange(400) % 5)
    folds[y == 1] = np.arange(20) % 5
    plain, balanced = (
        fit_head(x, y, folds=folds, n_classes=2, class_weight=how)  # type: ignore[arg-type]
        for how in ("none", "balanced")
    )
    recall = [(f.oof_logits[y == 1].argmax(1) == 1).mean() for f in (plain, balanced)]
    assert recall[1] > recall[0] + 0.3


def test_balanced_weights_give_each_class_the_same_sum_and_rows_a_mean_of_one():
    y = np.repeat([0, 1, 3], [1, 6, 13])
    weights = sample_weights(y, 4, "balanced")
    assert np.bincount(y, weights) == pytest.approx([20 / 3, 20 / 3, 0, 20 / 3])
    assert weights.mean() == pytest.approx(1)
    assert np.array_equal(weights, class_weights(y, 4)[y])
    assert sample_weights(y, 4, "none").tolist() == [1] * 20


def weighted_rows():
    """Rows that overlap, with whole weights; each row is a fold's or in every fit."""
    x, y, folds = blobs(120, 5, 3, noise=3.0)
    weights = np.random.default_rng(1).integers(1, 5, 120)
    folds[:6] = -1
    return x, y, folds, weights


def unscaled(fitted):
    """Return the head's weights, and the logits of held-out rows, before they are scaled."""
    scale = fitted.record.get("scale", 1.0)
    return scale * fitted.head.weight.numpy(), scale * fitted.oof_logits[fitted.scored]


def at_one_penalty(near, n):
    """Return a start for a logistic fit of n rows, which takes its penalty over: 0.01."""
    return dataclasses.replace(near, record=near.record | {"n": 10**6, "penalty": 1e-8 * n})


@pytest.mark.parametrize("name", ["mean", "ridge", "logistic"])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_whole_weights_are_repeated_rows(name, class_weight):
    """Only the last scale differs: a temperature also depends on the number of rows."""
    x, y, folds, weights = weighted_rows()
    again = np.repeat(np.arange(120), weights)
    given = {"n_classes": 3, "name": name, "class_weight": class_weight,
             "standard": Standard.none(5)}  # fmt: skip
    once, more = {}, {}
    if name == "logistic":  # where its path begins depends on the number of rows, too
        near = fit_head(x, y, folds=folds, **given)
        once["near"], more["near"] = (at_one_penalty(near, n) for n in (120, len(again)))
    plain = unscaled(fit_head(x, y, folds=folds, **given, **once))
    weighted = unscaled(fit_head(x, y, folds=folds, own_weights=weights * 1.0, **given, **once))
    repeated = unscaled(fit_head(x[again], y[again], folds=folds[again], **given, **more))
    first = np.unique(again[folds[again] >= 0], return_index=True)[1]
    for one, two, three in zip(plain, weighted, (repeated[0], repeated[1][first]), strict=True):
        assert np.abs(two - three).max() < 5e-3 * np.abs(three).max()
        assert np.abs(one - three).max() > 2e-2 * np.abs(three).max()


def test_weights_are_those_of_other_libraries():
    x, y, folds, whole = weighted_rows()
    weights = whole / 7
    given = {"folds": folds, "n_classes": 3, "own_weights": weights, "standard": Standard.none(5)}

    ridge = fit_head(x, y, name="ridge", **given)
    alpha = ridge.record["penalty"] * weights.sum()
    theirs = Ridge(alpha=alpha).fit(x, np.eye(3)[y], sample_weight=weights)
    assert unscaled(ridge)[0] == pytest.approx(theirs.coef_, abs=1e-5)

    logistic = fit_head(x, y, name="logistic", **given)
    inverse = 1 / (logistic.record["penalty"] * weights.sum())
    theirs = LogisticRegression(C=inverse, tol=1e-8, max_iter=1000).fit(x, y, weights)
    with torch.inference_mode():
        p = logistic.head(torch.from_numpy(x)).softmax(1).numpy()
    assert p == pytest.approx(theirs.predict_proba(x), abs=2e-3)

    mean = fit_head(x, y, name="mean", **given)
    means = [np.average(x[y == k], axis=0, weights=weights[y == k]) for k in range(3)]
    assert unscaled(mean)[0] == pytest.approx(np.array(means), abs=1e-4)
    losses = log_losses(mean.oof_logits[folds >= 0], y[folds >= 0])
    expected = np.average(losses, weights=weights[folds >= 0])
    assert mean.record["out_of_fold"]["balanced_log_loss"] == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(FITTERS.keys() - WITHOUT_WEIGHTS.keys()))
def test_weights_of_any_size_are_ratios(name):
    x, y, folds, weights = weighted_rows()
    given = {"folds": folds, "n_classes": 3, "name": name}
    once, more, huge = (
        fit_head(x, y, own_weights=weights * factor, **given).head.state_dict()
        for factor in (1.0, 2.0**-30, 2.0**1021)
    )
    for part, tensor in once.items():
        assert torch.equal(tensor, more[part])
        assert torch.equal(tensor, huge[part])
    extreme = np.where(np.arange(120) % 4 == 0, 1e300, 1e-300)
    few = fit_head(x, y, own_weights=extreme, **given)
    assert all(torch.isfinite(tensor).all() for tensor in few.head.state_dict().values())


def test_balanced_classes_count_the_same_whatever_the_weights_of_their_rows():
    y, own = np.repeat([0, 1, 3], [1, 6, 13]), np.arange(1.0, 21.0)
    weights = sample_weights(y, 4, "balanced", own)
    assert np.bincount(y, weights) == pytest.approx([20 / 3, 20 / 3, 0, 20 / 3])
    assert weights[1:7] / weights[1] == pytest.approx(own[1:7] / own[1])
    assert sample_weights(y, 4, "none", own) == pytest.approx(own / 10.5)


def test_mean_is_the_nearest_class_mean():
    x, y, folds = blobs(90, 6, 3, noise=2.0)
    head = fit_head(x, y, folds=folds, n_classes=3, name="mean").head
    z = (x - head.mean.numpy()) * head.scale.numpy()
    means = np.stack([z[y == label].mean(0) for label in range(3)])
    nearest = np.square(z[:, None] - means).sum(2).argmin(1)
    with torch.inference_mode():
        assert np.array_equal(head(torch.from_numpy(x)).argmax(1).numpy(), nearest)


def test_knn_never_counts_a_neighbour_of_the_same_fold():
    x, y, folds = blobs(60, 6, 3, noise=0.0)
    x, y = np.repeat(x, 2, axis=0), np.repeat(y, 2)
    folds = np.repeat(np.arange(60), 2)  # each pair of duplicates is one fold
    y[:] = np.repeat(np.random.default_rng(0).integers(0, 3, 60), 2)
    fitted = fit_head(x, y, folds=folds, n_classes=3, name="knn")
    assert fitted.record["out_of_fold"]["accuracy"] < 0.6  # 1 if duplicates gave the label away


def test_blocks_of_their_own_widths():
    x, y, folds = blobs(100, 10, 2)
    x[:, :5] *= 100
    apart = fit_head(x, y, folds=folds, n_classes=2, widths=[5, 5])
    scale = apart.head.scale
    torch.testing.assert_close(scale[:5].mean() * 100, scale[5:].mean(), rtol=0.2, atol=0)
    with pytest.raises(InputError, match=r"blocks of widths \[5, 6\] do not make 10 features"):
        fit_head(x, y, folds=folds, n_classes=2, widths=[5, 6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "svm"}, "there is no head 'svm'\nhint: one of logistic, ridge, knn, mean"),
        ({"n_classes": 1}, "there is 1 class; a classifier needs two"),
        ({"n_classes": 2}, "labels are from 0 to 2; they must be from 0 to 1"),
        ({"x": np.zeros((30, 0), np.float32)}, "features have shape (30, 0)"),
        ({"x": np.zeros((0, 4), np.float32)}, "features have shape (0, 4)"),
        ({"x": np.zeros(30, np.float32)}, "features have shape (30,)"),
        ({"x": np.zeros((30, 4, 1), np.float32)}, "features have shape (30, 4, 1)"),
        ({"x": np.zeros((29, 4), np.float32)}, "29 rows of features, labels of shape (30,)"),
        ({"y": np.zeros((30, 1), np.int64)}, "labels of shape (30, 1) and folds of shape (30,)"),
        ({"y": np.arange(30) % 3 - 1}, "labels are from -1 to 1; they must be from 0 to 2"),
        ({"folds": np.zeros(30, np.int64)}, "all samples are in fold 0; a fit without it has none"),
        ({"widths": []}, "blocks of widths [] do not make 4 features"),
        ({"widths": [4, 0]}, "blocks of widths [4, 0] do not make 4 features"),
        ({"widths": [5, -1]}, "blocks of widths [5, -1] do not make 4 features"),
        ({"folds": np.zeros(3, np.int64)}, "folds of shape (3,) do not belong together"),
    ],
)
def test_refuses_what_does_not_fit_together(change, message):
    x, y, folds = blobs(30, 4, 3)
    given = {"x": x, "y": y, "folds": folds, "n_classes": 3} | change
    with pytest.raises(InputError) as caught:
        fit_head(given.pop("x"), given.pop("y"), **given)
    assert message in str(caught.value)


@pytest.mark.parametrize("row", [0, 17, 4095, 4096, 9000])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_names_the_first_feature_that_is_not_finite(row, value):
    x, y, folds = blobs(9001, 4, 3)
    x[row, 2] = value
    x[row + 1 :, 1] = np.nan
    with pytest.raises(InputError, match=rf"^feature 2 of sample {row} is not finite$"):
        fit_head(x, y, folds=folds, n_classes=3)


@pytest.mark.parametrize("how", ["other types", "backwards in memory", "read-only"])
def test_arrays_of_other_types_and_layouts_are_fitted_the_same(how):
    """Torch cannot share memory that is read backwards, and warns about what is read-only."""
    arrays = blobs(60, 4, 3, noise=3.0)
    if how == "other types":
        types = np.float64, np.uint8, np.int32
        views = [array.astype(dtype) for array, dtype in zip(arrays, types, strict=True)]
    else:
        views = [array[::-1].copy()[::-1] if how[0] == "b" else array.copy() for array in arrays]
    for view in views:
        view.flags.writeable = how != "read-only"
    once, again = (
        fit_head(x, y, folds=folds, n_classes=3) for x, y, folds in (arrays, tuple(views))
    )
    assert np.array_equal(once.oof_logits, again.oof_logits)


def test_a_fitter_of_ones_own_is_given_what_its_protocol_says(monkeypatch):
    given = {}

    def own(x, y, **others):
        given.update({"x": x, "y": y, **others})
        return fit_mean(x, y, **others)

    monkeypatch.setitem(FITTERS, "mean", own)
    x, y, folds = blobs(60, 4, 3)
    fit_head(
        x.astype(np.float64), y.astype(np.uint8), folds=folds.astype(np.int32), n_classes=3,
        name="mean", own_weights=np.linspace(1, 2, 60),
    )  # fmt: skip
    types = [given[name].dtype for name in ("x", "y", "folds", "weights")]
    assert types == [np.float32, np.int64, np.int64, np.float64]
    assert all(np.array_equal(given[n], a) for n, a in (("x", x), ("y", y), ("folds", folds)))
    assert given["weights"].mean() == pytest.approx(1)
    assert given["n_classes"] == 3
    assert torch.equal(given["standard"].scale, Standard.measure(torch.from_numpy(x)).scale)


def test_a_width_of_one_is_a_block():
    x, y, folds = blobs(60, 3, 3)
    x *= np.float32([1, 10, 100])
    head = fit_head(x, y, folds=folds, n_classes=3, name="mean", widths=[1, 2]).head
    expected = Standard.measure(torch.from_numpy(x), [1, 2])
    assert torch.equal(head.scale, expected.scale)
    assert not torch.allclose(head.scale, Standard.measure(torch.from_numpy(x)).scale)


def test_temperature_mends_what_was_scaled():
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(5000, 4))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(1)
    scaled = (2 * logits).astype(np.float32)
    assert fit_temperature(scaled, labels) == pytest.approx(2, rel=0.05)
    for factor, bound in ((100, HIGHEST), (0.01, LOWEST)):
        found = fit_temperature((factor * logits).astype(np.float32), labels)
        assert found == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("n_classes", [2, 7])
@pytest.mark.parametrize("n", [9, 900])
def test_where_every_answer_is_right_one_mistake_more_is_expected(n, n_classes):
    labels = np.arange(n) % n_classes
    logits = np.eye(n_classes, dtype=np.float32)[labels]
    temperature = fit_temperature(logits, labels, bounds=(1e-3, 1e3))
    wrong = 1 - np.exp(-log_losses(logits / np.float32(temperature), labels)).mean()
    assert wrong == pytest.approx(1 / (n + 2), rel=0.01)


def test_log_losses_do_not_overflow():
    logits = np.array([[1e30, 0.0], [0.0, 500.0]], np.float32)
    assert log_losses(logits, np.array([0, 0])).tolist() == [0, 500]
