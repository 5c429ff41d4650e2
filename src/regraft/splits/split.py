"""Split images into a training, a validation and a test part.

All images of a cluster (a group such as a patient, or byte-identical images) are in one part. A
hash of the seed and of the cluster's name or content gives each cluster a number in [0, 1); the
cluster is in the test part if that number is below the fraction. So the part of a cluster depends
on the cluster and the seed alone: images that are added later do not move the old ones.

The size of the test part is then random. For large classes this is fine (a fifth of 200 images: 40
plus or minus 6); for small classes two limits correct it, in the order of the numbers:

- the test part has at least a quarter of the class's share, and at least one cluster if the class
  has two or more;
- it has at most double the share, and at least one cluster stays in training.

The limits rarely move an image of a class of more than 50 images. If clusters hold images of
several classes (patients with two diagnoses), each class also keeps an image in training.

Parts that the data have themselves are kept, with one exception: if byte-identical images are in
several parts, only the copy in the test part is kept, and the others are left out and named.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import counted, listed
from regraft.data.dataset import Dataset
from regraft.data.samples import Part, Parts
from regraft.errors import ConfigError, DataError
from regraft.splits.clusters import Clusters
from regraft.splits.folds import cluster_classes
from regraft.splits.split_csv import read_split

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.config.train_config import TrainConfig
    from regraft.data.samples import Samples

#: Codes of the parts in this module; of copies in several parts, the one with the highest is kept.
_TRAIN, _VAL, _TEST, _LEFT_OUT, _UNKNOWN = 0, 1, 2, -1, -2
_NAMES: tuple[Part, ...] = ("train", "val", "test")


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
            "--folds tests every image, and these data have a test part of their own",
            hint="leave --folds out, or give the folder of classes without train and test",
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
    part of their cluster, or a part by hash.

    Raises DataError if a class has no training image or nothing can be held out for testing, and
    TableError if ``split_file`` cannot be used.
    """
    clusters = Clusters.of(samples)
    if split_file is not None:
        codes, notes = _from_file(samples, clusters, split_file, test_fraction, seed)
    elif _has_parts(samples):
        _require_whole_parts(samples)
        codes, notes = _as_given(samples)
    else:
        codes, notes = _by_hash(samples, clusters, test_fraction, seed)
    left_out = _copies_in_other_parts(samples, codes)  # none by hash: a cluster has all copies
    codes[list(left_out)] = _LEFT_OUT
    notes += _left_out_note(samples, left_out)
    if val_fraction > 0 and not (codes == _VAL).any():
        codes[_draw(samples, clusters, codes == _TRAIN, val_fraction, f"val {seed}")] = _VAL
    notes += _check_classes(samples, codes)
    train, val, test = (np.flatnonzero(codes == code) for code in (_TRAIN, _VAL, _TEST))
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
    codes[_draw(samples, clusters, codes == _TRAIN, test_fraction, f"test {seed}")] = _TEST
    return codes, notes + _name_copies(samples)


def _draw(
    samples: Samples,
    clusters: Clusters,
    eligible: NDArray[np.bool_],
    fraction: float,
    salt: str,
) -> NDArray[np.bool_]:
    """Return a mask (N,) of about ``fraction`` of each class, of eligible samples by clusters."""
    drawn = np.zeros(len(samples), dtype=bool)  # (N,)
    if not eligible.any():
        return drawn
    # n eligible samples are in c clusters: numbers (c,), cluster of each (n,), sizes (c,).
    cluster, members, sizes = np.unique(
        clusters.members[eligible], return_inverse=True, return_counts=True
    )
    labels = samples.labels[eligible]  # (n,)
    numbers = clusters.numbers(salt)[cluster]  # (c,)
    classes = cluster_classes(labels, members)  # (c,)
    order = np.lexsort((numbers, classes))
    chosen = np.zeros(len(cluster), dtype=bool)  # (c,)
    for ranked in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        chosen[_within_limits(ranked, numbers, sizes, fraction)] = True
    # A class may be only in clusters of other classes: put one of them back into training.
    kept = np.bincount(labels[~chosen[members]], minlength=len(samples.classes))  # (K,)
    for label in np.flatnonzero(np.bincount(labels, minlength=len(kept)) > 0):
        if not kept[label]:
            holders = np.unique(members[labels == label])
            returned = holders[np.argmax(numbers[holders])]
            chosen[returned] = False
            kept += np.bincount(labels[members == returned], minlength=len(kept))
    drawn[eligible] = chosen[members]
    return drawn


def _within_limits(
    ranked: NDArray[np.int64],
    numbers: NDArray[np.float64],
    sizes: NDArray[np.int64],
    fraction: float,
) -> NDArray[np.int64]:
    """Return the clusters of one class to hold out, of clusters in the order of their numbers."""
    quota = fraction * sizes[ranked].sum()
    most_images = max(2 * quota, sizes[ranked].min())
    candidates = ranked[sizes[ranked] <= most_images]  # a larger cluster stays in training
    images = np.cumsum(sizes[candidates])
    least = int(np.searchsorted(images, quota / 4)) + 1
    most = int(np.searchsorted(images, most_images, side="right"))
    count = int((numbers[candidates] < fraction).sum())
    within: NDArray[np.int64] = candidates[: min(max(count, least), most, len(ranked) - 1)]
    return within


# --- from the data or a file ----------------------------------------------------------------------


def _has_parts(samples: Samples) -> bool:
    """Return whether the data have parts of their own, and not only a train part."""
    return not set(samples.parts) <= {None} and set(samples.parts) != {"train"}


def _require_whole_parts(samples: Samples) -> None:
    """Raise DataError if some images are in no part, or there is no train part."""
    given = Counter(samples.parts)
    if given[None] not in {0, len(samples)}:
        index = samples.parts.index(None)
        raise DataError(
            f"{given[None]:,} of {len(samples):,} images are in no part, such as "
            f"{samples.ids[index]}, and the others are in one",
            hint="give each image a part (train, val or test), or none of them",
        )
    if "train" not in given:
        others = " and ".join(part for part in _NAMES if part in given)
        raise DataError(
            f"{samples.source.location} has no training images, only {others} ones",
            hint="add a train part, or train on another folder and evaluate on this one",
        )


def _as_given(samples: Samples) -> tuple[NDArray[np.int64], list[str]]:
    """Return the part codes (N,) of the data's own parts, and notes."""
    notes = []
    codes = np.array([_NAMES.index(part) for part in samples.parts if part], dtype=np.int64)
    if not (codes == _TEST).any():
        codes[codes == _VAL] = _TEST
        notes.append("val is used as the test part: the data have no other")
    by_group: dict[str, set[int]] = {}
    for group, code in zip(samples.groups, codes.tolist(), strict=True):
        if group is not None:
            by_group.setdefault(group, set()).add(code)
    torn = sorted(group for group, parts in by_group.items() if len(parts) > 1)
    if torn:
        notes.append(
            "groups in several of the given parts, which makes results look better than they are: "
            f"{listed(torn)}"
        )
    return codes, notes


def _from_file(
    samples: Samples,
    clusters: Clusters,
    path: Path | str,
    test_fraction: float,
    seed: int,
) -> tuple[NDArray[np.int64], list[str]]:
    """Return part codes (N,) from a file, by content: another content is another image."""
    notes = []
    rows = read_split(path)
    exact = {(row.sha256, row.id): row for row in rows}
    by_content: dict[bytes, int] = {}
    for row in rows:
        if row.part is not None:
            code = _NAMES.index(row.part)
            by_content[row.sha256] = max(code, by_content.get(row.sha256, code))
    codes = np.array([by_content.get(digest, _UNKNOWN) for digest in samples.hashes])
    relabelled = 0
    for index, (digest, name) in enumerate(zip(samples.hashes, samples.ids, strict=True)):
        found = exact.get((digest, name))
        if found is not None:  # each copy has its own row, which may be left out
            codes[index] = _LEFT_OUT if found.part is None else _NAMES.index(found.part)
            relabelled += found.label != samples.classes[samples.labels[index]]
    kept = {digest for digest, code in zip(samples.hashes, codes, strict=True) if code >= 0}
    for index in np.flatnonzero(codes == _LEFT_OUT).tolist():
        if samples.hashes[index] not in kept:  # the copy that was kept is not in the data now
            codes[index] = by_content.get(samples.hashes[index], _UNKNOWN)
    if not (codes >= 0).any():
        raise DataError(
            f"{path} has none of the {len(samples):,} images",
            hint="images are found by the sha256 of their files: is it the split of other data?",
        )
    missing = len({row.sha256 for row in rows} - set(samples.hashes))
    if missing:
        notes.append(f"in {path}, but not among the data: {counted(missing)}")
    if relabelled:
        notes.append(f"with another label than in {path}: {counted(relabelled)}")
    notes += _assign_unknown(codes, clusters, test_fraction, seed, str(path))
    return codes, notes


def _assign_unknown(
    codes: NDArray[np.int64], clusters: Clusters, test_fraction: float, seed: int, path: str
) -> list[str]:
    """Set the codes of images that are not in the file, by cluster or hash; return a note."""
    unknown = np.flatnonzero(codes == _UNKNOWN)
    if not len(unknown):
        return []
    known = codes >= 0
    counted_parts = np.zeros((len(clusters.keys), len(_NAMES)), dtype=np.int64)  # (C, 3)
    np.add.at(counted_parts, (clusters.members[known], codes[known]), 1)
    # In a tie, test goes before val, and val before train.
    majority = _TEST - np.argmax(counted_parts[:, ::-1], axis=1)
    by_hash = np.where(clusters.numbers(f"test {seed}") < test_fraction, _TEST, _TRAIN)
    of_clusters = np.where(counted_parts.sum(axis=1) > 0, majority, by_hash)
    codes[unknown] = of_clusters[clusters.members[unknown]]
    counts = np.bincount(codes[unknown], minlength=len(_NAMES)).tolist()
    assigned = ", ".join(
        f"{count:,} to {name}" for name, count in zip(_NAMES, counts, strict=True) if count
    )
    return [f"not in {path}: {counted(len(unknown))}; by group or by hash {assigned}"]


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
                part = _NAMES[codes[kept]]
                reasons[index] = (
                    f"byte-identical to {samples.ids[kept]}, which is in the {part} part"
                )
    return dict(sorted(reasons.items()))


def _left_out_note(samples: Samples, left_out: dict[int, str]) -> list[str]:
    if not left_out:
        return []
    named = [f"{samples.ids[index]} is {reason}" for index, reason in left_out.items()]
    count = counted(len(left_out))
    return [
        f"left out, as another part holds the same bytes: {count} ({listed(named, between='; ')})"
    ]


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
    trained = np.bincount(samples.labels[codes == _TRAIN], minlength=n_classes)
    tested = np.bincount(samples.labels[codes == _TEST], minlength=n_classes)
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
