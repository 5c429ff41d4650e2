"""Known parts: where the other images go, against the rules written out with plain loops."""

import random
from collections import Counter

import numpy as np
import pytest

from listed_samples import samples_of
from regraft.errors import DataError
from regraft.splits.clusters import Clusters
from regraft.splits.draw import draw
from regraft.splits.known_parts import (
    LEFT_OUT,
    TEST,
    TRAIN,
    UNKNOWN,
    VAL,
    as_given,
    from_file,
    has_parts,
)

CODES = {"train": TRAIN, "val": VAL, "test": TEST}
WORDS = {code: part for part, code in CODES.items()}


def random_rows(chance):
    """Return images, of which many share a group or their bytes with others."""
    n, n_groups, n_contents = chance.randint(2, 20), chance.randint(1, 7), chance.randint(5, 40)
    return [
        {
            "label": chance.choice("aab"),
            "id": f"{k}",
            "content": f"c{chance.randint(0, n_contents)}",
            "group": chance.choice([None, *(f"g{chance.randint(1, n_groups)}" for _ in "12")]),
        }
        for k in range(n)
    ]


def most(parts):
    """Return the part that most are in; in a tie, test before val before train."""
    return max(parts, key=lambda code: (parts.count(code), code))


def followed(codes, rows, clusters, elsewhere=()):
    """Return codes in which unknown images are where their group is, or else their cluster.

    ``elsewhere`` has the groups and parts of images that are not among the rows.
    """
    found = list(codes)
    for k, code in enumerate(codes):
        if code != UNKNOWN:
            continue
        group, cluster = rows[k]["group"], clusters.members[k]
        near = {r["group"] for r, c in zip(rows, clusters.members, strict=True) if c == cluster}
        near -= {None}
        known = [each for each in range(len(rows)) if codes[each] >= 0]
        of_group = [codes[each] for each in known if group and rows[each]["group"] == group]
        of_group += [part for name, part in elsewhere if name == group]
        of_cluster = [codes[each] for each in known if clusters.members[each] == cluster]
        of_cluster += [part for name, part in elsewhere if name in near]
        if of_group or of_cluster:
            found[k] = most(of_group or of_cluster)
    return found


def torn(codes, rows, elsewhere=()):
    """Return the names of the groups that are in several parts."""
    pairs = {(r["group"], code) for r, code in zip(rows, codes, strict=True) if code >= 0}
    pairs |= set(elsewhere)
    counts = Counter(group for group, _ in pairs if group)
    return sorted(group for group, count in counts.items() if count > 1)


def shares(codes):
    counts = [(code, codes.count(code)) for code in (TRAIN, VAL, TEST)]
    return ", ".join(f"{count} to {WORDS[code]}" for code, count in counts if count)


def counted(count):
    return f"{count} image" + "s" * (count != 1)


# --- split.csv ------------------------------------------------------------------------------------


def random_file(chance, rows):
    """Return the rows of a split.csv: some of the images, in any part, and others beside them."""
    others = [{**row, "id": f"other {row['id']}"} for row in random_rows(chance)]
    for row in others:
        if chance.random() < 0.7:
            row["content"] += " of others"
    same = [dict(row) for row in rows if chance.random() < 0.5]
    for row in same:
        if chance.random() < 0.2:
            row["label"] = "c"
        if chance.random() < 0.2:
            row["content"] = "before it was changed"
    listed = [*same, *others]
    return [{**row, "part": chance.choice(["train", "val", "test", "test", ""])} for row in listed]


def write_file(path, listed):
    hashes = samples_of(listed).hashes
    lines = [
        f"{row['id']},{row['label']},{row['part']},{digest.hex()},{row['group'] or ''}"
        for row, digest in zip(listed, hashes, strict=True)
    ]
    path.write_text("\n".join(["id,label,part,sha256,group", *lines, ""]), encoding="utf-8")


def known_by_file(rows, listed):
    """Return the code of each image that the file says, and how many labels differ there."""
    codes, relabelled = [], 0
    parts_of = {
        row["content"]: [
            CODES[r["part"]] for r in listed if r["content"] == row["content"] and r["part"]
        ]
        for row in rows
    }
    for row in rows:
        own = [r for r in listed if (r["id"], r["content"]) == (row["id"], row["content"])]
        relabelled += sum(r["label"] != row["label"] for r in own)
        by_content = max(parts_of[row["content"]], default=UNKNOWN)
        codes.append(CODES.get(own[0]["part"], LEFT_OUT) if own else by_content)
    kept = {row["content"] for row, code in zip(rows, codes, strict=True) if code >= 0}
    for k, row in enumerate(rows):  # the copy that was kept instead is gone: this one replaces it
        if codes[k] == LEFT_OUT and row["content"] not in kept:
            codes[k] = max(parts_of[row["content"]], default=UNKNOWN)
    return codes, relabelled


def divided(codes, rows, clusters, old, samples, fraction, seed):
    """Return codes without unknown ones: by hash, and as if alone where all classes are new."""
    numbers = clusters.numbers(f"test {seed}")
    unknown = [k for k, code in enumerate(codes) if code == UNKNOWN]
    with_old = {clusters.members[k] for k in unknown if rows[k]["label"] in old}
    alone = np.array(
        [
            code == UNKNOWN and c not in with_old
            for c, code in zip(clusters.members, codes, strict=True)
        ]
    )
    drawn = draw(samples, clusters, alone, fraction, f"test {seed}")
    found = list(codes)
    for k in unknown:
        below = numbers[clusters.members[k]] < fraction
        found[k] = TEST if (drawn[k] if alone[k] else below) else TRAIN
    return found


@pytest.mark.parametrize("seed", range(150))
def test_images_are_where_the_file_has_them_or_what_is_next_to_them(tmp_path, seed):
    chance = random.Random(seed)
    rows = random_rows(chance)
    listed = random_file(chance, rows)
    path = tmp_path / "split.csv"
    write_file(path, listed)
    samples = samples_of(rows)
    clusters = Clusters.of(samples)
    fraction = chance.choice([0.25, 0.5, *clusters.numbers(f"test {seed}")])
    known, relabelled = known_by_file(rows, listed)
    if max(known) < 0:
        with pytest.raises(DataError, match=f"has none of the {len(rows)} images"):
            from_file(samples, clusters, path, fraction, seed)
        return
    contents = {row["content"] for row in rows}
    absent = [row for row in listed if row["content"] not in contents]
    elsewhere = [(r["group"], CODES[r["part"]]) for r in absent if r["part"] and r["group"]]
    old = {row["label"] for row, code in zip(rows, known, strict=True) if code >= 0}
    codes = followed(known, rows, clusters, elsewhere)
    codes = divided(codes, rows, clusters, old, samples, fraction, seed)
    found, notes = from_file(samples, clusters, path, fraction, seed)
    assert found.tolist() == codes

    expected = []
    if absent:
        missing = counted(len({row["content"] for row in absent}))
        expected.append(f"in {path}, but not among the data: {missing}")
    if relabelled:
        expected.append(f"with another label than in {path}: {counted(relabelled)}")
    if torn(known, rows, elsewhere):
        expected.append(
            f"groups in several parts of {path}, which makes results look better than they are: "
            f"{', '.join(torn(known, rows, elsewhere))}; new images of a group go where most of "
            "it is"
        )
    new = [code for code, before in zip(codes, known, strict=True) if before == UNKNOWN]
    if new:
        if not any(row["group"] for row in rows) and any(row["group"] for row in listed):
            expected.append(
                f"{path} names groups and these data have none, so new images may be in another "
                "part than their group: give `group_by` as before"
            )
        expected.append(f"not in {path}: {counted(len(new))}; by group or by hash {shares(new)}")
    assert notes == expected


# --- parts of the data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((None, None), False),
        (("train", "train"), False),  # as if without parts: nothing is held out
        (("train", None), True),
        (("train", "val"), True),
        (("test",), True),
        ((None, "test"), True),
    ],
)
def test_data_have_parts_unless_none_or_all_are_for_training(parts, expected):
    samples = samples_of([{"label": "a", "part": part} for part in parts])
    assert has_parts(samples) is expected


@pytest.mark.parametrize("seed", range(100))
def test_images_without_a_part_are_where_their_group_or_their_copies_are(seed):
    chance = random.Random(seed)
    rows = random_rows(chance)
    given = chance.choice(
        [("train", "test"), ("train", "val"), ("train",), ("val",), ("val", "test")]
    )
    for row in rows:
        row["part"] = chance.choice([None, *given])
    samples = samples_of(rows)
    clusters = Clusters.of(samples)
    parts = {row["part"] for row in rows}
    if not parts & {None, "train"}:
        others = " and ".join(part for part in ("val", "test") if part in parts)
        with pytest.raises(DataError, match=f"photos has no training images, only {others} ones"):
            as_given(samples, clusters, 0.5, seed)
        return
    known = [CODES[row["part"]] if row["part"] else UNKNOWN for row in rows]
    expected = []
    if "val" in parts and "test" not in parts:
        known = [TEST if code == VAL else code for code in known]
        expected.append("val is used as the test part: the data have no other")
    if torn(known, rows):
        expected.append(
            "groups in several of the given parts, which makes results look better than they "
            f"are: {', '.join(torn(known, rows))}"
        )
    codes = followed(known, rows, clusters)
    rest = np.array([code == UNKNOWN for code in codes])
    to_test = np.zeros(len(rows), dtype=bool)
    if TEST not in codes:
        to_test = draw(samples, clusters, rest, 0.5, f"test {seed}")
    codes = [
        code if code != UNKNOWN else TEST if tested else TRAIN
        for code, tested in zip(codes, to_test, strict=True)
    ]
    if None in parts:
        new = [code for code, before in zip(codes, known, strict=True) if before == UNKNOWN]
        why = "the data have a test part" if TEST in known else "the data name no test part"
        expected.append(f"without a part: {counted(len(new))}; {shares(new)} ({why})")
    found, notes = as_given(samples, clusters, 0.5, seed)
    assert found.dtype == np.int64
    assert found.tolist() == codes
    assert notes == expected
