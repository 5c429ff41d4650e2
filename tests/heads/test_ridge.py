"""Ridge chooses by what the head that is built would have answered, also where classes are rare."""

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
    [(1, "none", "log_loss"), (3, "balanced", "balanced_log_loss")],
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
    for row in fitted.history[::3]:
        predictions = np.empty((len(y), 3))
        for fold in np.unique(folds):
            kept = folds != fold
            model = Ridge(alpha=row["penalty"] * weights.sum(), solver="cholesky")
            model.fit(x[kept].astype(float), np.eye(3)[y[kept]], sample_weight=weights[kept])
            predictions[~kept] = model.predict(x[~kept])
        scale = fit_temperature(predictions.astype(np.float32), y, weights, bounds=(1e-3, 10))
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
