"""Ridge chooses by what the head that is built would have answered, also where classes are rare."""

import time

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss

from regraft.heads.fit import fit_head, sample_weights
from regraft.heads.standardise import Standard
from regraft.heads.temperature import fit_temperature


def imbalanced(counts, d=4, seed=0, signal=1.5):
    """Return features and labels of that many rows in each class."""
    y = np.repeat(np.arange(len(counts)), counts)
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(len(y), d)) + signal * np.eye(len(counts), d)[y]
    return x.astype(np.float32), y


@pytest.mark.parametrize(
    ("rows_a_fold", "class_weight", "column"),
    [(1, "none", "log_loss"), (2, "none", "log_loss"), (3, "balanced", "balanced_log_loss")],
)
def test_penalties_are_judged_by_fits_that_have_not_seen_the_row(rows_a_fold, class_weight, column):
    """Fitted again by scikit-learn without each row, or group of rows, with an intercept."""
    x, y = imbalanced([3, 5, 13])
    folds = np.arange(len(y)) * 5 % len(y) // rows_a_fold
    fitted = fit_head(
        x, y, folds=folds, n_classes=3, name="ridge", class_weight=class_weight,
        standard=Standard.none(4),
    )  # fmt: skip
    weights = sample_weights(y, 3, class_weight)
    assert len(fitted.history) > 10
    for row in fitted.history[::5]:
        predictions = np.empty((len(y), 3))
        for fold in np.unique(folds):
            kept = folds != fold
            model = Ridge(alpha=row["penalty"] * weights.sum(), solver="cholesky")
            model.fit(x[kept].astype(float), np.eye(3)[y[kept]], sample_weight=weights[kept])
            predictions[~kept] = model.predict(x[~kept])
        scale = fit_temperature(predictions, y, weights, bounds=(1e-3, 10))
        expected = log_loss(y, softmax(predictions / scale, axis=1), sample_weight=weights)
        assert row[column] == pytest.approx(expected, rel=1e-4)
        assert row["accuracy"] == (predictions.argmax(1) == y).mean()
    best = min(fitted.history, key=lambda row: row[column])
    assert best["chosen"]
    assert fitted.record["penalty"] == best["penalty"]


@pytest.mark.parametrize("counts", [(20, 40), (6, 240)])
def test_classes_that_a_line_divides_are_divided_however_rare_one_is(counts):
    """Black and white images: centred predictions take any penalty, and the head all but none."""
    x, y = imbalanced(counts, d=2, signal=200)
    fitted = fit_head(x, y, folds=np.arange(len(y)), n_classes=2, name="ridge")
    new, labels = imbalanced((50, 50), d=2, seed=1, signal=200)
    with torch.inference_mode():
        assert np.array_equal(fitted.head(torch.from_numpy(new)).argmax(1).numpy(), labels)
    assert fitted.record["out_of_fold"]["accuracy"] == 1
    assert fitted.temperature == pytest.approx(1, abs=0.01)  # 4, the bound, where scales differ


def many_rows(n, d=3, signal=0.7):
    """Return rows of three classes and of unequal weights, with correlated features; some folds."""
    chance = np.random.default_rng(0)
    y = chance.integers(0, 3, n)
    x = (chance.normal(size=(n, d)) + signal * np.eye(3, d)[y]) @ chance.normal(size=(d, d)) + 5
    folds = chance.integers(-1, 4, n)
    return x.astype(np.float32), y, folds, chance.uniform(0.2, 3, n)


@pytest.mark.parametrize("n", [40, 1100])  # in one chunk of rows, and in two
def test_the_head_and_its_held_out_logits_are_those_of_scikit_learn(n):
    x, y, folds, weights = many_rows(n)
    scored = np.arange(n) % 3 > 0
    fitted = fit_head(
        x, y, folds=folds, n_classes=3, name="ridge", own_weights=weights, scored=scored
    )
    head, scale, penalty = fitted.head, fitted.record["scale"], fitted.record["penalty"]
    z = (x.astype(float) - head.mean.numpy()) * head.scale.numpy()

    def fit(rows):
        model = Ridge(alpha=penalty * weights.sum(), solver="cholesky")
        return model.fit(z[rows], np.eye(3)[y[rows]], sample_weight=weights[rows])

    with torch.inference_mode():
        logits = head(torch.from_numpy(x)).numpy()
    assert scale * logits == pytest.approx(fit(folds > -2).predict(z), abs=1e-5)
    held_out = np.empty((n, 3))
    for fold in range(4):
        held_out[folds == fold] = fit(folds != fold).predict(z[folds == fold])
    seen_by_none = folds >= 0
    expected = held_out[seen_by_none]
    assert scale * fitted.oof_logits[seen_by_none] == pytest.approx(expected, abs=1e-5)
    assert fitted.oof_logits.dtype == np.float32
    assert np.array_equal(fitted.scored, scored & (folds >= 0))
    rows = fitted.scored
    expected = fit_temperature(held_out[rows], y[rows], weights[rows], bounds=(1e-3, 10))
    assert scale == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("d", "signal"), [(3, 0.7), (31, 6)])  # weak penalties overfit 31
def test_penalties_fall_by_half_decades_until_the_loss_has_risen_by_half(d, signal):
    x, y, folds, weights = many_rows(40, d, signal)
    began = time.perf_counter()
    fitted = fit_head(x, y, folds=folds, n_classes=3, name="ridge", own_weights=weights)
    elapsed = time.perf_counter() - began
    z = (x.astype(float) - fitted.head.mean.numpy()) * fitted.head.scale.numpy()
    largest = np.linalg.eigvalsh(np.cov(z.T, aweights=weights, bias=True))[-1]
    penalties = [row["penalty"] for row in fitted.history]
    losses = [row["balanced_log_loss"] for row in fitted.history]
    steps = 10 ** (1 - np.arange(len(penalties)) / 2)
    assert penalties == pytest.approx(largest * steps, rel=1e-5)
    too_high = [i for i, loss in enumerate(losses) if loss > 1.5 * min(losses[: i + 1])]
    assert too_high == ([len(losses) - 1] if d == 31 else [])
    assert len(losses) == 17 or too_high  # the weakest is 1e-7 of the largest eigenvalue
    # Time is counted once: of the first penalty from the start of the call on.
    seconds = [row["seconds"] for row in fitted.history]
    assert [f"{one!r}" for one in seconds] == [f"{float(f'{one:.3f}')!r}" for one in seconds]
    assert 0 <= min(seconds) <= sum(seconds) <= elapsed + 0.0005 * len(seconds)


def test_features_of_any_size_have_penalties_in_proportion_to_their_squares():
    x, y, folds, weights = many_rows(40)
    once, small = (
        fit_head(
            (x - 5) * np.float32(factor), y, folds=folds, n_classes=3, name="ridge",
            own_weights=weights, standard=Standard.none(3),
        )
        for factor in (1, 2**-10)
    )  # fmt: skip
    penalties = [row["penalty"] for row in once.history]
    assert [row["penalty"] * 2**20 for row in small.history] == pytest.approx(penalties)
    assert small.oof_logits == pytest.approx(once.oof_logits, abs=1e-4)


@pytest.mark.parametrize("folds", [np.full(50, -1), np.arange(50) % 5], ids=["no fold", "folds"])
def test_constant_features_have_a_penalty_of_one(folds):
    _, y, _, _ = many_rows(50)
    fitted = fit_head(np.ones((50, 3), np.float32), y, folds=folds, n_classes=3, name="ridge")
    assert fitted.record["penalty"] == 1
    assert fitted.history == []


@pytest.mark.parametrize("constant", [False, True])
def test_where_nothing_can_be_scored_the_penalty_is_the_usual_one(constant):
    x, y, _, _ = many_rows(50)
    x = np.ones_like(x) if constant else x
    fitted = fit_head(x, y, folds=np.full(50, -1), n_classes=3, name="ridge")
    z = (x.astype(float) - fitted.head.mean.numpy()) * fitted.head.scale.numpy()
    usual = 1.0 if constant else np.linalg.eigvalsh(np.cov(z.T, bias=True))[-1] / 50
    assert fitted.record["penalty"] == pytest.approx(usual, rel=1e-5)
    assert fitted.history == []
    assert fitted.record["scale"] == 0.1  # logits are ten times as far apart as predictions
    assert not fitted.oof_logits.any()
    theirs = Ridge(alpha=usual * 50, solver="cholesky").fit(z, np.eye(3)[y])
    with torch.inference_mode():
        logits = fitted.head(torch.from_numpy(x)).numpy()
    assert fitted.record["scale"] * logits == pytest.approx(theirs.predict(z), abs=1e-5)
