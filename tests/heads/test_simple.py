"""Baselines that cost next to nothing."""

import numpy as np

from regraft.evaluation.metrics import measure_classification
from regraft.heads import simple
from regraft.heads.fit import fit_head
from regraft.heads.simple import majority_baseline


def test_the_majority_baseline_gives_every_image_the_shares_of_the_training_part():
    baseline = majority_baseline(np.array([1, 1, 0]), np.array([0, 1, 2]), 3)
    assert baseline.shape == (3, 3)
    assert baseline.dtype == np.float32
    result = measure_classification(baseline, np.array([0, 1, 1]), ("a", "b", "c"))
    assert result["accuracy"]["value"] == 2 / 3


def test_of_many_samples_neighbours_score_some_of_every_kind(monkeypatch):
    """Left and right by turns: of every second one, all would be left."""
    monkeypatch.setattr(simple, "_MOST_SCORED", 100)
    y = np.arange(200) % 2
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    fitted, again = (
        fit_head(x, y, folds=np.arange(200) % 5, n_classes=2, name="knn") for _ in range(2)
    )
    assert fitted.scored.sum() == 100
    assert 25 < y[fitted.scored].sum() < 75
    assert np.array_equal(fitted.scored, again.scored)
