"""Baselines that cost next to nothing."""

import numpy as np

from regraft.evaluation.metrics import measure_classification
from regraft.heads.simple import majority_baseline


def test_the_majority_baseline_gives_every_image_the_shares_of_the_training_part():
    baseline = majority_baseline(np.array([1, 1, 0]), np.array([0, 1, 2]), 3)
    assert baseline.shape == (3, 3)
    assert baseline.dtype == np.float32
    result = measure_classification(baseline, np.array([0, 1, 1]), ("a", "b", "c"))
    assert result["accuracy"]["value"] == 2 / 3
