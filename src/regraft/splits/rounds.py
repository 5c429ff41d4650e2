"""Cross-validation of the whole probe: each image is tested once, by a model fitted without it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import counted, listed
from regraft.data.samples import Parts
from regraft.errors import DataError
from regraft.splits.clusters import clusters_of
from regraft.splits.folds import assign_folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples


def test_folds(dataset: Dataset, n_folds: int, seed: int) -> list[Dataset]:
    """Return one dataset with its test part, or one for each fold, which is its test part."""
    if not n_folds:
        return [dataset]
    folds = outer_folds(dataset.samples, dataset.train, n_folds, seed)
    return [dataclasses.replace(dataset, parts=parts) for parts in folds]


def outer_folds(
    samples: Samples, indices: NDArray[np.int64], n_folds: int, seed: int
) -> list[Parts]:
    """Return for each fold its images as the test part, and all others as the training part.

    Clusters are in one fold, classes are spread evenly, and the fold of an image depends on its
    content and the seed. A class of one cluster is in every training part and in no test part, and
    a note names it; another counts the images of tested classes that are there too. Raises
    DataError if no image can be tested.
    """
    labels, keys = samples.labels[indices], [samples.hashes[index] for index in indices]
    folds = assign_folds(labels, clusters_of(samples)[indices], n_folds, seed, keys)  # (n,)
    if (folds < 0).all():
        raise DataError(
            "no image can be tested: every class is a single image or group",
            hint="add images: at least two images, or groups, of each class",
        )
    notes = _never_tested(samples, labels, folds)
    return [
        Parts(
            train=indices[folds != fold],
            val=np.empty(0, np.int64),
            test=indices[folds == fold],
            left_out={},
            notes=notes,
        )
        for fold in range(n_folds)
        if (folds == fold).any()
    ]


def _never_tested(
    samples: Samples, labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> tuple[str, ...]:
    """Return notes of what is in every training part: classes, and images of other classes."""
    always = labels[folds < 0]
    never = np.setdiff1d(always, labels[folds >= 0])
    notes = []
    if len(never):
        named = listed([samples.classes[label] for label in never])
        notes.append(f"never tested, since it is one image or group: class {named}")
    n_beside = int((~np.isin(always, never)).sum())
    if n_beside:
        notes.append(
            f"never tested, so that every round trains on every class: {counted(n_beside)} of "
            "tested classes"
        )
    return tuple(notes)
