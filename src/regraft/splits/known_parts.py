"""Parts that are known: from the data's own, or from the split.csv of an earlier run.

An image without a known part goes where its group is, then where images are with which its group
shares one, so that no group is torn. Only what is left is divided.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import counted, listed
from regraft.errors import DataError
from regraft.splits.draw import draw
from regraft.splits.split_csv import SplitRow, read_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.data.samples import Part, Samples
    from regraft.splits.clusters import Clusters

#: Codes of the parts; of copies in several parts, the one with the highest is kept.
TRAIN, VAL, TEST, LEFT_OUT, UNKNOWN = 0, 1, 2, -1, -2
NAMES: tuple[Part, ...] = ("train", "val", "test")


def has_parts(samples: Samples) -> bool:
    """Return whether the data have parts of their own, and not only a train part."""
    return not set(samples.parts) <= {None} and set(samples.parts) != {"train"}


def as_given(
    samples: Samples, clusters: Clusters, test_fraction: float, seed: int
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the part codes (N,) of the data's own parts, and notes; given parts are kept.

    Images without a part are for training where there are test images, and else divided.
    """
    if not {"train", None} & set(samples.parts):
        others = " and ".join(part for part in NAMES if part in samples.parts)
        raise DataError(
            f"{samples.source.location} has no training images, only {others} ones",
            hint="add a train part, or train on another folder and evaluate on this one",
        )
    notes = []
    codes = np.array(
        [UNKNOWN if part is None else NAMES.index(part) for part in samples.parts], dtype=np.int64
    )
    if not (codes == TEST).any() and (codes == VAL).any():
        codes[codes == VAL] = TEST
        notes.append("val is used as the test part: the data have no other")
    unknown = codes == UNKNOWN
    torn = _follow_groups(codes, samples, clusters)
    if torn:
        notes.append(
            "groups in several of the given parts, which makes results look better than they are: "
            f"{listed(torn)}"
        )
    if unknown.any():
        rest = codes == UNKNOWN
        tests = bool((codes == TEST).any())
        codes[rest] = TRAIN
        if not tests:
            codes[draw(samples, clusters, rest, test_fraction, f"test {seed}")] = TEST
        notes.append(
            f"without a part: {counted(int(unknown.sum()))}; {_shares(codes[unknown])} "
            f"({'the data have a test part' if tests else 'the data name no test part'})"
        )
    return codes, notes


def from_file(
    samples: Samples, clusters: Clusters, path: Path | str, test_fraction: float, seed: int
) -> tuple[NDArray[np.int64], list[str]]:
    """Return part codes (N,) from a file, by content: another content is another image."""
    rows = read_split(path)
    codes, relabelled = _find(samples, rows)
    if not (codes >= 0).any():
        raise DataError(
            f"{path} has none of the {len(samples):,} images",
            hint="images are found by the sha256 of their files: is it the split of other data?",
        )
    notes = []
    present = set(samples.hashes)
    absent = [row for row in rows if row.sha256 not in present]
    if absent:
        missing = len({row.sha256 for row in absent})
        notes.append(f"in {path}, but not among the data: {counted(missing)}")
    if relabelled:
        notes.append(f"with another label than in {path}: {counted(relabelled)}")
    unknown = codes == UNKNOWN
    elsewhere = [
        (row.group, NAMES.index(row.part)) for row in absent if row.group and row.part is not None
    ]
    old_labels = np.unique(samples.labels[codes >= 0])
    torn = _follow_groups(codes, samples, clusters, elsewhere)
    if torn:
        notes.append(
            f"groups in several parts of {path}, which makes results look better than they are: "
            f"{listed(torn)}; new images of a group go where most of it is"
        )
    if unknown.any():
        if set(samples.groups) == {None} and any(row.group for row in rows):
            notes.append(
                f"{path} names groups and these data have none, so new images may be in another "
                "part than their group: give `group_by` as before"
            )
        _divide_new(codes, samples, clusters, old_labels, test_fraction, f"test {seed}")
        count = counted(int(unknown.sum()))
        notes.append(f"not in {path}: {count}; by group or by hash {_shares(codes[unknown])}")
    return codes, notes


def _find(samples: Samples, rows: Sequence[SplitRow]) -> tuple[NDArray[np.int64], int]:
    """Return the codes (N,) of the images in a file, and how many have another label there."""
    exact = {(row.sha256, row.id): row for row in rows}
    by_content: dict[bytes, int] = {}
    for row in rows:
        if row.part is not None:
            code = NAMES.index(row.part)
            by_content[row.sha256] = max(code, by_content.get(row.sha256, code))
    codes = np.array([by_content.get(digest, UNKNOWN) for digest in samples.hashes])
    relabelled = 0
    for index, (digest, name) in enumerate(zip(samples.hashes, samples.ids, strict=True)):
        found = exact.get((digest, name))
        if found is not None:  # each copy has its own row, which may be left out
            codes[index] = LEFT_OUT if found.part is None else NAMES.index(found.part)
            relabelled += found.label != samples.classes[samples.labels[index]]
    kept = {digest for digest, code in zip(samples.hashes, codes, strict=True) if code >= 0}
    for index in np.flatnonzero(codes == LEFT_OUT).tolist():
        if samples.hashes[index] not in kept:  # the copy that was kept is not in the data now
            codes[index] = by_content.get(samples.hashes[index], UNKNOWN)
    return codes, relabelled


def _follow_groups(
    codes: NDArray[np.int64],
    samples: Samples,
    clusters: Clusters,
    elsewhere: Iterable[tuple[str, int]] = (),
) -> list[str]:
    """Give unknown images the part of their group, else of their cluster; return torn groups.

    ``elsewhere`` has groups and parts of images that are not among the samples. Most of a group
    decide; in a tie, test goes before val, and val before train.
    """
    by_group: dict[str, Counter[int]] = defaultdict(Counter)
    by_cluster: dict[int, Counter[int]] = defaultdict(Counter)
    cluster_of: dict[str, int] = {}
    members = clusters.members.tolist()
    for group, cluster, code in zip(samples.groups, members, codes.tolist(), strict=True):
        if group is not None:
            cluster_of[group] = cluster
        if code >= 0:
            by_cluster[cluster][code] += 1
            if group is not None:
                by_group[group][code] += 1
    for group, code in elsewhere:
        by_group[group][code] += 1
        if group in cluster_of:
            by_cluster[cluster_of[group]][code] += 1
    for index in np.flatnonzero(codes == UNKNOWN).tolist():
        counts = by_group.get(samples.groups[index] or "") or by_cluster.get(members[index])
        if counts:
            codes[index] = max(counts, key=lambda code: (counts[code], code))
    return sorted(group for group, counts in by_group.items() if len(counts) > 1)


def _divide_new(
    codes: NDArray[np.int64],
    samples: Samples,
    clusters: Clusters,
    old_labels: NDArray[np.int64],
    test_fraction: float,
    salt: str,
) -> None:
    """Divide what is still unknown by hash; clusters of new classes alone as if they were all.

    No limits for known classes: they have test images, and a limit would look at the new ones only.
    """
    unknown = codes == UNKNOWN
    of_old = unknown & np.isin(samples.labels, old_labels)
    mixed = np.isin(clusters.members, clusters.members[of_old])
    by_hash = clusters.numbers(salt)[clusters.members] < test_fraction  # (N,)
    codes[unknown] = np.where(by_hash[unknown], TEST, TRAIN)
    new = unknown & ~mixed
    codes[new] = TRAIN
    codes[draw(samples, clusters, new, test_fraction, salt)] = TEST


def _shares(codes: NDArray[np.int64]) -> str:
    """Return how many images each part got.

    Examples
    --------
    >>> _shares(np.array([0, 0, 2]))
    '2 to train, 1 to test'
    """
    counts = np.bincount(codes, minlength=len(NAMES)).tolist()
    pairs = zip(NAMES, counts, strict=True)
    return ", ".join(f"{count:,} to {name}" for name, count in pairs if count)
