"""Split images into a training, a validation and a test part.

All images of a cluster (a group such as a patient, or byte-identical images) are in one part. A
hash of the seed and of the cluster's name or content gives each cluster a number in [0, 1); the
cluster is in the test part if that number is below the fraction. So the part of a cluster depends
on the cluster and the seed alone, unless a limit below applies: images that are added later do not
move the old ones.

The size of the test part is then random. For large classes this is fine (a fifth of 200 images: 40
plus or minus 6); for small classes two limits correct it, in the order of the numbers:

- the test part has at least a quarter of the class's share, and at least one cluster if the class
  has two or more;
- it has at most double the share, and at least one cluster stays in training.

The limits rarely apply to a class of more than 50 clusters. Where one does, images that are added
later may move old ones (docs/design/decisions.md has the odds); with a split.csv none moves. If
clusters hold images of several classes (patients with two diagnoses), each class also keeps an
image in training.

Parts that the data have themselves are kept, with one exception: if byte-identical images are in
several parts, only the copy in the test part is kept, and the others are left out and named. Images
without a part, beside others that have one, go to the part of their group or copies; the rest is
for training where the data have a test part, and is else divided like data without parts.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import counted, listed
from regraft.data.dataset import Dataset
from regraft.data.samples import Parts
from regraft.errors import ConfigError, DataError
from regraft.splits.clusters import Clusters
from regraft.splits.draw import draw
from regraft.splits.known_parts import (
    LEFT_OUT,
    NAMES,
    TEST,
    TRAIN,
    VAL,
    as_given,
    from_file,
    has_parts,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.config.train_config import TrainConfig
    from regraft.data.samples import Samples


def split_by_config(samples: Samples, config: TrainConfig) -> Dataset:
    """Return the samples with the parts for a training with these settings."""
    if config.folds:
        return all_for_training(samples)
    parts = split(
        samples,
        test_fraction=config.test_fraction,
        seed=config.seed,
        val_fraction=0.0 if config.strategy == "probe" else config.val_fraction,
        split_file=config.split,
    )
    return Dataset(samples, parts)


def all_for_training(samples: Samples) -> Dataset:
    """Return the samples, all in the training part, whose folds are tested later."""
    if any(part is not None for part in samples.parts):
        raise ConfigError(
            "folds tests every image, and these data have parts of their own",
            hint="leave `folds` out, or give the folder of classes without train and test",
        )
    none = np.empty(0, np.int64)
    return Dataset(samples, Parts(np.arange(len(samples)), none, none, left_out={}))


def split(
    samples: Samples,
    *,
    test_fraction: float,
    seed: int,
    val_fraction: float = 0.0,
    split_file: Path | str | None = None,
) -> Parts:
    """Split samples into a training, a validation and a test part.

    ``test_fraction`` is the share of each class in the test part, in (0, 1), and ``val_fraction``
    the share of the rest in the validation part, in [0, 1); neither is used for parts that the data
    have. ``split_file`` is a split.csv, in which images are found by content; other images get the
    part of their group, also where only the file knows it, or a part by hash.

    Raises DataError if a class has no training image or nothing can be held out for testing, and
    TableError if ``split_file`` cannot be used.
    """
    clusters = Clusters.of(samples)
    if split_file is not None:
        codes, notes = from_file(samples, clusters, split_file, test_fraction, seed)
    elif has_parts(samples):
        codes, notes = as_given(samples, clusters, test_fraction, seed)
    else:
        codes, notes = _by_hash(samples, clusters, test_fraction, seed)
    left_out = _copies_in_other_parts(samples, codes)  # none by hash: a cluster has all copies
    codes[list(left_out)] = LEFT_OUT
    notes += _left_out_note(samples, left_out)
    if val_fraction > 0 and not (codes == VAL).any():
        codes[draw(samples, clusters, codes == TRAIN, val_fraction, f"val {seed}")] = VAL
    notes += _check_classes(samples, codes)
    train, val, test = (np.flatnonzero(codes == code) for code in (TRAIN, VAL, TEST))
    return Parts(train, val, test, left_out, tuple(notes))


# --- by hash --------------------------------------------------------------------------------------


def _by_hash(
    samples: Samples, clusters: Clusters, test_fraction: float, seed: int
) -> tuple[NDArray[np.int64], list[str]]:
    """Return part codes (N,) of a test part that is drawn, and notes."""
    notes = []
    if set(samples.parts) == {"train"}:
        notes.append("the data have a train part only: the test part is taken from it")
    codes = np.zeros(len(samples), dtype=np.int64)
    codes[draw(samples, clusters, codes == TRAIN, test_fraction, f"test {seed}")] = TEST
    return codes, notes + _name_copies(samples)


# --- copies, and checks ---------------------------------------------------------------------------


def _copies_in_other_parts(samples: Samples, codes: NDArray[np.int64]) -> dict[int, str]:
    """Return the byte-identical images to leave out, with reasons, if copies are in several parts.

    Those in the test part are kept, or else those in the validation part.
    """
    copies: dict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(samples.hashes):
        copies[digest].append(index)
    reasons: dict[int, str] = {}
    for group in copies.values():
        kept = max(group, key=lambda index: codes[index])  # the first one in the highest part
        for index in group:
            if codes[index] < codes[kept]:  # also one that a file has left out already
                part = NAMES[codes[kept]]
                reasons[index] = (
                    f"byte-identical to {samples.ids[kept]}, which is in the {part} part"
                )
    return dict(sorted(reasons.items()))


def _left_out_note(samples: Samples, left_out: dict[int, str]) -> list[str]:
    if not left_out:
        return []
    named = [samples.ids[index] for index in left_out]
    count = counted(len(left_out))
    note = (
        f"left out, as another part holds the same bytes: {count} ({listed(named)}); a run's "
        "ledger.json names each with its copy"
    )
    return [note]


def _name_copies(samples: Samples) -> list[str]:
    """Return a note that names byte-identical images; empty if there are none."""
    first: dict[bytes, str] = {}
    copies = [
        f"{name} of {first[digest]}"
        for digest, name in zip(samples.hashes, samples.ids, strict=True)
        if first.setdefault(digest, name) != name
    ]
    if not copies:
        return []
    return [
        (
            f"copies of other images, kept in one part with them: {counted(len(copies))} "
            f"({listed(copies)})"
        )
    ]


def _check_classes(samples: Samples, codes: NDArray[np.int64]) -> list[str]:
    """Raise DataError if nothing can be trained or tested; return a note of untested classes."""
    n_classes = len(samples.classes)
    trained = np.bincount(samples.labels[codes == TRAIN], minlength=n_classes)
    tested = np.bincount(samples.labels[codes == TEST], minlength=n_classes)
    untrained = [samples.classes[label] for label in np.flatnonzero(trained == 0)]
    if untrained:
        plural = "classes have" if len(untrained) > 1 else "class has"
        raise DataError(
            f"{len(untrained):,} {plural} no training image: {listed(untrained)}",
            hint="add images to the training part, or take the class out of the data",
        )
    if not tested.any():
        raise DataError(
            "no image can be held out for testing: every class has one image or group only",
            hint="add images, or a test part"
            if all(group is None for group in samples.groups)
            else "a class needs several groups: in CLASS/GROUP/FILE parent names them, in a file's "
            "name a pattern such as '(p[0-9]+)_' does",
        )
    untested = [samples.classes[label] for label in np.flatnonzero(tested == 0)]
    return [f"no test image: {listed(untested)}"] if untested else []
