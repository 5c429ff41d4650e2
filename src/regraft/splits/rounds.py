"""Outer cross-validation: every image is tested once, by a model that has not seen it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.data.samples import Parts
from regraft.errors import ConfigError, DataError
from regraft.splits.folds import assign_folds
from regraft.splits.split import units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.config.train_config import TrainConfig
    from regraft.data.samples import Samples


def whole(samples: Samples) -> Parts:
    """Put every image into the training part, where rounds of testing follow.

    Raises
    ------
    ConfigError
        Where the data bring parts of their own.
    """
    if any(part is not None for part in samples.parts):
        raise ConfigError(
            "--folds tests every image, and these data bring a test part of their own",
            hint="leave --folds out, or give the folder of classes without train and test",
        )
    none = np.empty(0, np.int64)
    return Parts(train=np.arange(len(samples)), val=none, test=none, left_out={})


def testing_rounds(samples: Samples, parts: Parts, config: TrainConfig) -> list[Parts]:
    """Return what is tested and what is learnt from: once, or in each of ``--folds`` rounds."""
    if not config.folds:
        return [parts]
    return outer_rounds(samples, parts.train, config.folds, config.seed)


def outer_rounds(
    samples: Samples, indices: NDArray[np.int64], n_rounds: int, seed: int
) -> list[Parts]:
    """Split all images into rounds; each tests one share and trains on the rest.

    Groups and copies stay together, classes are spread evenly, and an image's round depends on its
    content and the seed.

    Parameters
    ----------
    samples : Samples
        Labels, groups and hashes.
    indices : array of shape (n,), int64
        Ascending; those that can be used.
    n_rounds : int
        At least 2.
    seed : int
        Another seed, other rounds.

    Returns
    -------
    list of Parts
        ``n_rounds`` of them, without validation part. Images of a class that is one group, or one
        image, are tested in none and train in all; a note in each names the class.

    Raises
    ------
    DataError
        Where nothing could be tested.
    """
    labels, keys = samples.labels[indices], [samples.hashes[index] for index in indices]
    numbers = assign_folds(labels, units(samples)[indices], n_rounds, seed, keys)
    if (numbers < 0).all():
        raise DataError(
            "no image can be tested: every class is a single image or group",
            hint="bring at least two images, or groups, of each class",
        )
    never = sorted({samples.classes[label] for label in labels[numbers < 0]})
    names = ", ".join(never[:10])
    notes = (f"never tested, since it is one image or group: class {names}",) if never else ()
    return [
        Parts(
            train=indices[numbers != number],
            val=np.empty(0, np.int64),
            test=indices[numbers == number],
            left_out={},
            notes=notes,
        )
        for number in range(n_rounds)
        if (numbers == number).any()
    ]
