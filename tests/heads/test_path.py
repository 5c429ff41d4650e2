"""Where the path of penalties begins and ends, and what is chosen: by scikit-learn's fits."""

import functools
import time
import warnings

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from regraft.errors import ConvergenceWarning
from regraft.heads import logistic
from regraft.heads.fit import fit_head
from regraft.heads.standardise import Standard

STEP = 10**0.5


def overlapping(n=60, d=4, k=3, *, seed=0, separation=1.0):
    """Return rows that no line divides, in four folds and in none, with weights."""
    chance = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = chance.normal(size=(n, d)) * np.geomspace(3, 0.5, d)
    x += separation * chance.normal(size=(k, d))[y]
    folds = np.arange(n) // k % 5 - 1
    return x.astype(np.float32), y, folds, chance.uniform(0.3, 3, n)


def standardised(x, head):
    return (x.astype(np.float64) - head.mean.numpy()) * head.scale.numpy()


def fit_of_theirs(z, y, weights, penalty):
    model = LogisticRegression(C=1 / (penalty * weights.sum()), tol=1e-6, max_iter=2000)
    return model.fit(z, y, sample_weight=weights)


def usual_penalty(z, n_classes):
    largest = np.linalg.eigvalsh(z.T @ z / len(z))[-1]
    return min(1, 10 / n_classes) * largest / len(z), largest


class Path:
    """The path as it is described, with scikit-learn's fits."""

    def __init__(self, z, y, folds, weights):
        self.z, self.y, self.folds, self.weights = z, y, folds, weights
        self.held_out = folds >= 0
        self.order = []

    @functools.cache  # noqa: B019 - a path is kept as long as its test
    def losses(self, penalty):
        """Return the loss of each row that a fold holds out, and whether it was right."""
        log_p = np.zeros((len(self.y), self.y.max() + 1))
        for fold in range(self.folds.max() + 1):
            inside = self.folds != fold
            model = fit_of_theirs(self.z[inside], self.y[inside], self.weights[inside], penalty)
            log_p[~inside] = log_softmax(model.decision_function(self.z[~inside]), axis=1)
        rows = np.flatnonzero(self.held_out)
        return -log_p[rows, self.y[rows]], log_p[rows].argmax(1) == self.y[rows]

    def mean_and_error(self, values):
        w = self.weights[self.held_out]
        mean = np.average(values, weights=w)
        return mean, np.sqrt(np.square(w * (values - mean)).sum()) / w.sum()

    def best(self):
        return min(self.order, key=lambda penalty: self.mean_and_error(self.losses(penalty)[0])[0])

    def risen(self, penalty):
        difference = self.losses(penalty)[0] - self.losses(self.best())[0]
        rise, error = self.mean_and_error(difference)
        return rise > 2 * error or (self.best() > 9.9 * penalty and rise > 0)

    def walk(self, first, strongest, weakest):
        self.order = [first]
        while not self.risen(self.order[-1]) and self.order[-1] >= weakest * STEP:
            self.order.append(self.order[-1] / STEP)
        while self.best() == max(self.order) and self.best() * STEP <= strongest:
            self.order.append(self.best() * STEP)
        return sorted(self.order, reverse=True)


@pytest.mark.parametrize(
    ("seed", "k", "separation"),
    [(0, 3, 1), (1, 3, 1), (2, 3, 2), (24, 3, 0), (26, 3, 0), (4, 4, 0.3), (0, 20, 1)],
)
def test_the_path_ends_where_the_loss_has_clearly_risen_on_both_sides(seed, k, separation):
    n = 60 if k < 20 else 120
    x, y, folds, weights = overlapping(n, k=k, seed=seed, separation=separation)
    began = time.perf_counter()
    fitted = fit_head(x, y, folds=folds, n_classes=k, own_weights=weights)
    elapsed = time.perf_counter() - began
    z, weights = standardised(x, fitted.head), weights / weights.mean()
    usual, largest = usual_penalty(z, k)
    found = [row["penalty"] for row in fitted.history]
    first = min(found, key=lambda penalty: abs(penalty - 10 * usual))
    assert first == pytest.approx(10 * usual, rel=0.01)
    path = Path(z, y, folds, weights)
    assert found == pytest.approx(path.walk(first, 10 * largest, 1e-5 * usual), rel=1e-6)
    for row in fitted.history:
        losses, right = path.losses(min(path.order, key=lambda p: abs(p - row["penalty"])))
        mean, error = path.mean_and_error(losses)
        # Where the penalty is too weak, fits within the tolerance predict different things.
        slack = 5e-3 if row["penalty"] >= fitted.record["penalty"] else 0.03
        assert row["balanced_log_loss"] == pytest.approx(mean, abs=slack)
        assert row["balanced_log_loss_se"] == pytest.approx(error, abs=slack)
        assert row["log_loss"] == pytest.approx(losses.mean(), abs=slack)
        assert row["accuracy"] == pytest.approx(right.mean(), abs=2.5 / len(losses))
        assert row["chosen"] == (row["penalty"] == fitted.record["penalty"])
    assert fitted.record["penalty"] == pytest.approx(path.best(), rel=1e-6)
    with torch.inference_mode():
        p = fitted.head(torch.from_numpy(x)).softmax(1).numpy()
    theirs = fit_of_theirs(z, y, weights, fitted.record["penalty"])
    assert p == pytest.approx(theirs.predict_proba(z), abs=5e-3)
    seconds = [row["seconds"] for row in fitted.history]
    assert 0 <= min(seconds) <= sum(seconds) <= elapsed + 0.0005 * len(seconds)


def test_where_the_loss_falls_for_ever_the_path_ends_at_its_weakest_penalty():
    x, y, folds, _ = overlapping(60, separation=30)
    fitted = fit_head(x, y, folds=folds, n_classes=3)
    usual, _ = usual_penalty(standardised(x, fitted.head), 3)
    found = [row["penalty"] for row in fitted.history]
    # 12 half decades are 6 decades: the last one may be left out by rounding.
    assert found == pytest.approx(10 * usual / STEP ** np.arange(len(found)), rel=0.01)
    assert len(found) in (12, 13)
    assert fitted.record["penalty"] == found[-1]


@pytest.mark.parametrize(("k", "n"), [(3, 60), (20, 60), (2, 6)])
def test_where_nothing_can_be_scored_the_penalty_is_the_usual_one(k, n):
    x, y, _, _ = overlapping(n, k=k)
    fitted = fit_head(x, y, folds=np.full(n, -1), n_classes=k)
    z = standardised(x, fitted.head)
    penalty, _ = usual_penalty(z, k)
    assert fitted.record["penalty"] == pytest.approx(penalty, rel=0.01)
    assert fitted.record["folds_scored"] == 0
    assert fitted.history == []
    assert fitted.oof_logits.dtype == np.float32
    assert not fitted.oof_logits.any()
    if k > 2:
        theirs = fit_of_theirs(z, y, np.ones(n), penalty)
        with torch.inference_mode():
            p = fitted.head(torch.from_numpy(x)).softmax(1).numpy()
        assert p == pytest.approx(theirs.predict_proba(z), abs=0.01)


def test_of_penalties_that_are_equally_good_the_first_is_kept():
    """Constant features: any penalty gives weights of zero."""
    _, y, folds, _ = overlapping(60)
    fitted = fit_head(np.ones((60, 2), np.float32), y, folds=folds, n_classes=3)
    assert fitted.record["penalty"] == pytest.approx(10 / 60)
    assert not fitted.head.weight.any()
    assert {row["log_loss"] for row in fitted.history} == {fitted.history[0]["log_loss"]}


def near_fit(x, y, folds, **given):
    return fit_head(x, y, folds=folds, n_classes=int(y.max()) + 1, **given)


def test_a_penalty_is_taken_over_in_proportion_to_the_rows_and_is_never_the_strongest():
    x, y, folds, _ = overlapping(120)
    standard = Standard.none(4)  # so that the largest eigenvalue is far from 1
    near = near_fit(x[:90], y[:90], folds[:90], standard=standard)
    fitted = near_fit(x, y, folds, standard=standard, near=near)
    assert fitted.record["penalty"] == pytest.approx(near.record["penalty"] * 90 / 120)
    assert [row["chosen"] for row in fitted.history] == [True]
    assert fitted.oof_logits[folds >= 0].any(1).all()
    assert not fitted.oof_logits[folds < 0].any()
    _, largest = usual_penalty(standardised(x, fitted.head), 3)
    near.record["penalty"] = 1e9
    fitted = near_fit(x, y, folds, standard=standard, near=near)
    assert fitted.record["penalty"] == pytest.approx(10 * largest, rel=0.01)


@pytest.mark.parametrize(("n_near", "again"), [(29, True), (30, False)])
def test_a_fit_of_fewer_than_half_of_the_rows_does_not_choose(n_near, again):
    x, y, folds, _ = overlapping(60, separation=0.3)
    near = near_fit(x[:n_near], y[:n_near], folds[:n_near])
    assert (len(near_fit(x, y, folds, near=near).history) > 1) == again


@pytest.mark.parametrize(("n_near", "again"), [(11, True), (12, False)])
def test_a_fit_of_enough_of_each_class_chooses_for_any_number(n_near, again, monkeypatch):
    monkeypatch.setattr(logistic, "_ENOUGH_OF_A_CLASS", 4)
    x, y, folds, _ = overlapping(60, separation=0.3)
    near = near_fit(x[:n_near], y[:n_near], folds[:n_near])
    assert (len(near_fit(x, y, folds, near=near).history) > 1) == again


@pytest.mark.parametrize("refit", [True, False])
def test_a_fit_of_the_same_rows_starts_at_its_end(refit):
    x, y, _, _ = overlapping(60)
    nobody = np.full(60, -1)
    near = near_fit(x, y, nobody)
    assert near.record["iterations"] > 2
    again = near_fit(x, y, nobody, near=near, refit=refit)
    assert again.record["iterations"] == 0
    assert again.record["penalty"] == near.record["penalty"]
    assert torch.equal(again.head.weight, near.head.weight)
    assert torch.equal(again.head.bias, near.head.bias)


def test_the_first_fit_of_the_path_that_stops_early_is_what_the_warning_is_about():
    """Of fits that are not used, where the one that is used has converged."""
    x, y, folds, _ = overlapping(60, d=20, separation=0.5)
    whole = fit_head(x, y, folds=folds, n_classes=3)
    tried = {row["penalty"]: row["iterations"] for row in whole.history}
    most = max(tried[whole.record["penalty"]], whole.record["iterations"]) + 2
    assert most <= max(tried.values()) - 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit_head(x, y, folds=folds, n_classes=3, max_iterations=most)
    assert fitted.record["converged"]
    assert [warning.category for warning in caught] == [ConvergenceWarning]
    penalty = next(penalty for penalty, iterations in tried.items() if iterations > most)
    expected = f"logistic regression with penalty {penalty:.3g} stopped after {most} iterations"
    assert str(caught[0].message).startswith(expected)


@pytest.mark.parametrize("seed", range(20))
def test_folds_are_held_out_in_order_until_enough_rows_are_scored(seed, monkeypatch):
    monkeypatch.setattr(logistic, "_ENOUGH_SCORED", 20)
    monkeypatch.setattr(logistic, "MOST_CLASSES_AT_ONCE", 12)
    chance = np.random.default_rng(seed)
    k = int(chance.choice([2, 3, 4, 5, 9]))
    n = int(chance.integers(2 * k, 60))
    y, folds = np.arange(n) % k, chance.choice([-1, 0, 2, 3, 7, 8, 9], n)
    scored = chance.random(n) < 0.8
    expected, rows = [], 0
    for fold in (0, 2, 3, 7, 8, 9):
        of_fold = int((scored & (folds == fold)).sum())
        room = len(expected) < 2 or (len(expected) + 1) * k <= 12
        if of_fold and rows < 20 and room:
            expected.append(fold)
            rows += of_fold
    x = chance.normal(size=(n, 2)).astype(np.float32)
    fitted = fit_head(x, y, folds=folds, n_classes=k, scored=scored)
    assert fitted.record["folds_scored"] == len(expected)
    assert np.array_equal(fitted.scored, scored & np.isin(folds, expected))
    # Rows beside the scored ones are held out too, and have logits.
    assert np.array_equal(fitted.oof_logits.any(1), np.isin(folds, expected))


def test_a_choice_alone_with_a_penalty_that_is_taken_over_is_the_mean_of_the_folds_fits():
    x, y, folds, _ = overlapping(60)
    near = near_fit(x[:40], y[:40], folds[:40])
    fitted = near_fit(x, y, folds, near=near, refit=False)
    z = standardised(x, fitted.head)
    penalty = near.record["penalty"] * 40 / 60
    fits = [fit_of_theirs(z[i], y[i], np.ones(i.sum()), penalty)
            for i in (folds != fold for fold in range(4))]  # fmt: skip
    with torch.inference_mode():
        found = fitted.head(torch.from_numpy(x)).log_softmax(1).exp().numpy()
    logits = np.mean([model.decision_function(z) for model in fits], axis=0)
    assert found == pytest.approx(np.exp(log_softmax(logits, axis=1)), abs=0.02)
    assert fitted.record["penalty"] == pytest.approx(penalty)
