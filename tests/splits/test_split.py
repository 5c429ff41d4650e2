"""Splits: stable, stratified, clusters kept together; given parts are kept."""

import hashlib
import itertools
import random
import time

import numpy as np
import pytest

from listed_samples import images, names, samples_of
from regraft.config.train_config import TrainConfig
from regraft.data.dataset import Dataset
from regraft.errors import ConfigError, DataError
from regraft.splits.clusters import Clusters, clusters_of
from regraft.splits.draw import draw
from regraft.splits.folds import assign_folds
from regraft.splits.split import split, split_by_config
from regraft.splits.split_csv import fitted_hashes, write_split


def divide(samples, test_fraction=0.2, seed=0, **options):
    return split(samples, test_fraction=test_fraction, seed=seed, **options)


def assert_sound(samples, parts):
    """Disjoint, complete, ascending; no cluster in two parts; no class without training images."""
    everything = np.concatenate([parts.train, parts.val, parts.test, list(parts.left_out)])
    assert sorted(everything.tolist()) == list(range(len(samples)))
    clusters = clusters_of(samples)
    for one in (parts.train, parts.val, parts.test):
        assert (np.diff(one) > 0).all()
    for one, other in itertools.combinations((parts.train, parts.val, parts.test), 2):
        assert not set(clusters[one]) & set(clusters[other])
    assert set(samples.labels[parts.train]) == set(range(len(samples.classes)))


def assert_same_parts(one, other):
    for part in ("train", "val", "test"):
        assert getattr(one, part).tolist() == getattr(other, part).tolist()


def random_samples(chance):
    """Groups of several classes, duplicates, classes of a few images."""
    rows = []
    for label in "abcdef"[: chance.randint(1, 6)]:
        for index in range(chance.choice([2, 3, 5, 20, 100])):
            row = {"label": label, "id": f"{label}{index}"}
            if chance.random() < 0.2:
                row["content"] = f"same {chance.randint(0, 9)}"
            if chance.random() < 0.3:
                row["group"] = f"g{chance.randint(0, 30)}"
            rows.append(row)
    return rows


# --- by hash --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_random_data_are_divided_soundly(seed):
    chance = random.Random(seed)
    rows = random_samples(chance)
    samples = samples_of(rows)
    val_fraction = chance.choice([0.0, 0.1, 0.5])
    try:
        parts = divide(samples, chance.choice([0.1, 0.2, 0.5]), seed, val_fraction=val_fraction)
    except DataError as error:  # all is one cluster
        assert len(set(clusters_of(samples).tolist())) <= len(samples.classes), error  # noqa: PT017
        return
    assert_sound(samples, parts)
    assert len(parts.test)
    chance.shuffle(rows)
    again = samples_of(rows)
    assert_sound(again, divide(again, 0.2, seed))


def test_shares_and_strata():
    samples = samples_of(images("cat", 1000) + images("dog", 300))
    parts = divide(samples, val_fraction=0.1)
    of_class = np.bincount(samples.labels[parts.test])
    assert 160 < of_class[0] < 240
    assert 40 < of_class[1] < 80
    assert 60 < len(parts.val) < 150


def test_order_and_ids_do_not_matter_and_seeds_do():
    rows = images("cat", 200) + images("dog", 200)
    one, other = samples_of(rows), samples_of(rows[::-1])
    assert names(one, divide(one).test) == names(other, divide(other).test)
    assert names(one, divide(one).test) != names(one, divide(one, seed=1).test)


@pytest.mark.parametrize("seed", range(10))
def test_added_images_move_no_old_one(seed):
    rows = images("cat", 200) + images("dog", 200) + images("owl", 200, group=None)
    rows += [{"label": "elk", "id": f"elk{i}", "group": f"herd{i // 4}"} for i in range(400)]
    old = samples_of(rows)
    more = [image for label in ("cat", "dog", "owl") for image in images(label, 40, start=200)]
    more += [{"label": "elk", "id": f"elk{i}", "group": f"herd{i // 4}"} for i in range(398, 480)]
    more += images("yak", 30)  # a new class, which shifts the others' numbers
    new = samples_of(rows + more[1:])
    before, after = (
        divide(old, seed=seed, val_fraction=0.2),
        divide(new, seed=seed, val_fraction=0.2),
    )
    known = set(old.ids)
    for part in ("train", "val", "test"):
        assert names(old, getattr(before, part)) == names(new, getattr(after, part)) & known


def test_the_odds_that_a_new_group_moves_an_old_one_follow_from_the_limits():
    """Of 4 equal groups a fifth is 0.8: at most 1 is tested. Of 5 it is 1: one or two are.

    With one below 0.2 at most, the old one is replaced if the new group is the smallest of five;
    with two, an old one comes into the test part unless the new group is one of the two smallest.
    """
    one_at_most = 0.8**5 + 5 * 0.2 * 0.8**4
    expected = one_at_most / 5 + (1 - one_at_most) * 3 / 5  # 0.305
    trials, moved = 400, 0
    for trial in range(trials):
        rows = [
            {"label": "a", "id": f"{trial}/{n}", "group": f"{trial}/{n // 3}"} for n in range(15)
        ]
        before, after = (divide(samples_of(rows[:n])).test.tolist() for n in (12, 15))
        moved += before != [index for index in after if index < 12]
    assert abs(moved / trials - expected) < 4 * (expected * (1 - expected) / trials) ** 0.5


def test_the_test_part_does_not_depend_on_validation():
    samples = samples_of(images("cat", 100) + images("dog", 9))
    with_val = divide(samples, val_fraction=0.3)
    assert with_val.test.tolist() == divide(samples).test.tolist()
    assert len(with_val.val)


@pytest.mark.parametrize("count", range(2, 13))
def test_guards_of_small_classes(count):
    for seed in range(30):
        samples = samples_of(images("many", 50) + images("few", count))
        parts = divide(samples, seed=seed)
        tested = np.bincount(samples.labels[parts.test], minlength=2)[samples.classes.index("few")]
        assert max(1, 0.05 * count) <= tested <= max(1, 0.4 * count)


def test_a_class_of_one_image_is_trained_on_and_named():
    samples = samples_of(images("cat", 20) + images("dodo", 1))
    parts = divide(samples)
    assert samples.ids.index("dodo/0") in parts.train
    assert "no test image: dodo" in parts.notes


def test_nothing_to_hold_out_is_an_error():
    with pytest.raises(DataError, match="no image can be held out"):
        divide(samples_of(images("cat", 1) + images("dog", 1)))


@pytest.mark.parametrize("seed", range(20))
def test_a_group_of_most_of_a_class_stays_in_training(seed):
    rows = [{"label": "a", "group": "large"} for _ in range(80)]
    rows += [{"label": "a", "group": f"small{i}"} for i in range(20)]
    rows += images("b", 20)
    samples = samples_of(rows)
    assert not set(divide(samples, seed=seed).test.tolist()) & set(range(80))


@pytest.mark.parametrize("seed", range(20))
def test_a_class_inside_groups_of_others_keeps_a_training_image(seed):
    rows = [{"label": "a", "group": f"p{i // 5}"} for i in range(100)]
    rows += [{"label": "rare", "group": "p3"}, {"label": "rare", "group": "p7"}]
    assert_sound(samples_of(rows), divide(samples_of(rows), 0.5, seed))


def test_copies_stay_together_and_are_counted():
    rows = [{"label": "a", "content": f"c{i % 50}"} for i in range(150)] + images("b", 50)
    samples = samples_of(rows)
    parts = divide(samples)
    assert_sound(samples, parts)
    (note,) = parts.notes
    assert note.startswith(
        "copies of other images, kept in one part with them: 100 images (a/50 of a/0, a/51 of a/1, "
    )
    assert note.endswith(", a/59 of a/9 and 90 more)")
    assert not parts.left_out


def test_clusters_are_chains_of_groups_and_copies():
    rows = [
        {"label": "a", "group": "g", "content": "1"},
        {"label": "a", "group": "g", "content": "2"},
        {"label": "a", "group": "h", "content": "2"},
        {"label": "a", "content": "3"},
        {"label": "a", "group": "h", "content": "4"},
        {"label": "a", "content": "1"},
    ]
    assert clusters_of(samples_of(rows)).tolist() == [0, 0, 0, 1, 0, 0]
    assert clusters_of(samples_of(images("a", 3))).tolist() == [0, 1, 2]


# --- the rules of a split -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_the_test_part_is_drawn_of_all_and_the_validation_part_of_the_rest(seed):
    chance = random.Random(seed)
    samples = samples_of([*random_samples(chance), *images("g", 9)])
    clusters = Clusters.of(samples)
    every = np.ones(len(samples), dtype=bool)
    tested = draw(samples, clusters, every, 0.25, f"test {seed}")
    rest = draw(samples, clusters, ~tested, 0.5, f"val {seed}")
    parts = divide(samples, 0.25, seed, val_fraction=0.5)
    assert parts.test.tolist() == np.flatnonzero(tested).tolist()
    assert parts.val.tolist() == np.flatnonzero(rest).tolist()
    assert parts.train.tolist() == np.flatnonzero(~tested & ~rest).tolist()
    assert len(divide(samples, 0.25, seed).val) == 0


@pytest.mark.parametrize("seed", range(60))
def test_of_copies_in_several_parts_those_in_the_highest_are_kept(seed):
    chance = random.Random(seed)
    rows = [
        {
            "label": "a",
            "id": f"{k}",
            "content": f"c{chance.randint(0, 4)}",
            "part": chance.choice(["train", "val", "test"]),
        }
        for k in range(chance.randint(3, 12))
    ]
    rows += [*images("a", 1, part="train"), *images("a", 1, 1, part="test")]
    parts = divide(samples_of(rows))
    reasons, places = {}, {"train": [], "val": [], "test": []}
    for k, row in enumerate(rows):
        same = [each for each in rows if each.get("content", each["id"]) == row.get("content")]
        for better in ("test", "val"):
            copies = [each["id"] for each in same if each["part"] == better]
            if row["part"] == better or copies:
                break
        if copies and row["part"] != better:
            reasons[k] = f"byte-identical to {copies[0]}, which is in the {better} part"
        else:
            places[row["part"]].append(k)
    assert parts.left_out == reasons
    assert list(parts.left_out) == sorted(reasons)
    assert (parts.train.tolist(), parts.val.tolist()) == (places["train"], places["val"])
    assert parts.test.tolist() == places["test"]
    assert bool(parts.notes) == bool(reasons)


def test_classes_without_images_in_a_part_are_named_in_the_order_of_the_classes():
    rows = [*images("d", 2, part="test"), *images("a", 2, part="train")]
    rows += [*images("c", 2, part="train"), *images("b", 1, part="test")]
    with pytest.raises(DataError, match=r"^2 classes have no training image: b, d\nhint: "):
        divide(samples_of(rows))
    rows += [*images("d", 1, 5, part="train"), *images("b", 1, 5, part="train")]
    assert divide(samples_of(rows)).notes == ("no test image: a, c",)
    assert divide(samples_of([*rows, *images("c", 1, 9, part="test")])).notes == (
        "no test image: a",
    )


def test_copies_by_hash_are_named_with_the_first_of_them():
    rows = [
        {"label": "a", "id": name, "content": content}
        for name, content in [("p", "1"), ("q", "2"), ("r", "1"), ("s", "3"), ("t", "1")]
    ]
    assert divide(samples_of(rows)).notes == (
        "copies of other images, kept in one part with them: 2 images (r of p, t of p)",
    )
    train_only = samples_of([{**row, "part": "train"} for row in rows])
    assert divide(train_only).notes == (
        "the data have a train part only: the test part is taken from it",
        "copies of other images, kept in one part with them: 2 images (r of p, t of p)",
    )


def test_the_settings_of_a_training_are_those_of_its_split(tmp_path):
    samples = samples_of([*images("a", 60), *images("b", 60)])
    config = TrainConfig(strategy="finetune", test_fraction=0.3, val_fraction=0.4, seed=5)
    dataset = split_by_config(samples, config)
    assert dataset.samples is samples
    expected = divide(samples, 0.3, 5, val_fraction=0.4)
    assert_same_parts(dataset.parts, expected)
    assert len(expected.val)
    probe = config.replace(strategy="probe")  # it chooses by folds and needs no validation part
    assert_same_parts(split_by_config(samples, probe).parts, divide(samples, 0.3, 5))
    write_split(tmp_path / "split.csv", dataset)
    other = TrainConfig(split=tmp_path / "split.csv", seed=6)
    assert_same_parts(split_by_config(samples, other).parts, expected)


def test_folds_are_not_made_of_data_with_any_part_of_their_own():
    samples = samples_of([*images("a", 6), *images("a", 1, 9, part="train")])
    with pytest.raises(ConfigError, match="folds tests every image, and these data have parts of"):
        split_by_config(samples, TrainConfig(folds=3))


def test_with_folds_all_images_are_for_training_at_first():
    samples = samples_of(images("a", 6))
    dataset = split_by_config(samples, TrainConfig(folds=3))
    assert dataset.samples is samples
    assert dataset.train.tolist() == [0, 1, 2, 3, 4, 5]
    for empty in (dataset.val, dataset.test):
        assert (empty.tolist(), empty.dtype) == ([], np.int64)
    assert dataset.parts.left_out == {}


# --- given parts ----------------------------------------------------------------------------------


def test_given_parts_are_kept():
    rows = images("a", 10, part="train") + images("b", 3, part="train")
    rows += images("a", 2, 50, part="test") + images("b", 1, 50, part="test")
    samples = samples_of(rows)
    parts = divide(samples)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (13, 0, 3)
    assert parts.notes == ()
    carved = divide(samples, val_fraction=0.3)
    assert carved.test.tolist() == parts.test.tolist()
    assert len(carved.val)
    assert_sound(samples, carved)


def test_val_is_the_test_part_where_there_is_no_other():
    samples = samples_of(images("a", 5, part="train") + images("a", 2, 9, part="val"))
    parts = divide(samples)
    assert parts.test.tolist() == [5, 6]
    assert parts.notes == ("val is used as the test part: the data have no other",)


def test_all_three_parts_are_kept():
    rows = images("a", 5, part="train") + images("a", 2, 9, part="val")
    samples = samples_of([*rows, *images("a", 1, 20, part="test")])
    parts = divide(samples, val_fraction=0.5)
    assert (parts.val.tolist(), parts.test.tolist()) == ([5, 6], [7])


def test_a_train_part_alone_is_split():
    samples = samples_of(images("a", 50, part="train"))
    parts = divide(samples)
    assert len(parts.test)
    assert parts.notes == ("the data have a train part only: the test part is taken from it",)


def test_parts_without_training_images_are_refused():
    with pytest.raises(DataError, match="photos has no training images, only val and test ones"):
        divide(samples_of(images("a", 5, part="test") + images("a", 2, 9, part="val")))


@pytest.mark.parametrize("seed", range(5))
def test_images_without_a_part_are_for_training_where_a_test_part_is_given(seed):
    rows = images("a", 5, part="train") + images("a", 3, 10, part="test") + images("a", 20, 50)
    rows += [
        {"label": "a", "id": "group of test", "group": "p1"},
        {"label": "a", "id": "copy of test", "content": "a/10"},
        {"label": "a", "id": "group of train", "group": "p2"},
    ]
    rows[6]["group"], rows[0]["group"] = "p1", "p2"
    samples = samples_of(rows)
    parts = divide(samples, 0.5, seed)
    tested = {"a/10", "a/11", "a/12", "group of test", "copy of test"}
    assert names(samples, parts.test) == tested
    assert names(samples, parts.train) == set(samples.ids) - tested
    assert parts.notes == (
        "without a part: 23 images; 21 to train, 2 to test (the data have a test part)",
    )


def test_val_is_tested_and_the_rest_trained_where_only_val_is_given():
    rows = images("a", 3, part="val") + images("a", 4, 10)
    parts = divide(samples_of(rows))
    assert (parts.train.tolist(), parts.test.tolist()) == ([3, 4, 5, 6], [0, 1, 2])
    assert parts.notes == (
        "val is used as the test part: the data have no other",
        "without a part: 4 images; 4 to train (the data have a test part)",
    )


def test_images_without_a_part_give_the_test_part_where_train_alone_is_given():
    rows = images("a", 50, part="train") + images("a", 100, 50)
    rows += [{"label": "a", "id": f"g{i}", "group": "p1"} for i in range(9)]
    rows[7]["group"] = "p1"  # the nine follow it
    samples = samples_of(rows)
    parts = divide(samples)
    alone = samples_of(images("a", 100, 50))  # the same draw as of these alone
    assert names(samples, parts.test) == names(alone, divide(alone).test)
    n = len(parts.test)
    assert parts.notes == (
        f"without a part: 109 images; {109 - n} to train, {n} to test (the data name no test part)",
    )


def test_copies_in_several_given_parts_leave_training():
    rows = [
        {"label": "a", "id": "train/1", "content": "same", "part": "train"},
        {"label": "a", "id": "train/2", "part": "train"},
        {"label": "a", "id": "val/1", "content": "same", "part": "val"},
        {"label": "a", "id": "val/2", "part": "val"},
        {"label": "a", "id": "test/1", "content": "same", "part": "test"},
        {"label": "a", "id": "test/2", "content": "same", "part": "test"},
    ]
    parts = divide(samples_of(rows))
    assert (parts.train.tolist(), parts.val.tolist(), parts.test.tolist()) == ([1], [3], [4, 5])
    reason = "byte-identical to test/1, which is in the test part"
    assert parts.left_out == {0: reason, 2: reason}
    assert parts.notes == (
        (
            "left out, as another part holds the same bytes: 2 images (train/1, val/1); a run's "
            "ledger.json names each with its copy"
        ),
    )


def test_groups_in_several_given_parts_are_said_and_not_moved():
    rows = images("a", 3, part="train", group="p1") + images("a", 2, 9, part="test", group="p1")
    parts = divide(samples_of(rows))
    assert (len(parts.train), len(parts.test)) == (3, 2)
    assert parts.notes[0].startswith("groups in several of the given parts")
    assert parts.notes[0].endswith(": p1")


def test_a_class_without_training_images_is_refused():
    rows = images("a", 3, part="train") + images("b", 2, part="test")
    with pytest.raises(DataError, match="1 class has no training image: b"):
        divide(samples_of(rows))


# --- split.csv ------------------------------------------------------------------------------------


def mixed_samples():
    return images("größe, 1", 30) + [
        {"label": "b", "id": f'b/"{i}"', "group": f"p{i // 3}"} for i in range(30)
    ]


def test_a_written_split_gives_the_same_parts(tmp_path):
    samples = samples_of(mixed_samples())
    parts = divide(samples, seed=3, val_fraction=0.2)
    write_split(tmp_path / "split.csv", Dataset(samples, parts))
    lines = (tmp_path / "split.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id,label,part,sha256,group"
    assert len(lines) == 61
    again = divide(samples, seed=99, split_file=tmp_path / "split.csv")
    assert divide(samples, seed=99, split_file=tmp_path).test.tolist() == again.test.tolist()
    for part in ("train", "val", "test"):
        assert getattr(parts, part).tolist() == getattr(again, part).tolist()
    assert again.notes == ()
    seen = {samples.hashes[index] for index in (*parts.train, *parts.val)}
    assert fitted_hashes(tmp_path / "split.csv") == seen


def test_images_that_were_left_out_stay_so(tmp_path):
    rows = images("a", 3, part="train") + images("a", 2, 9, part="test")
    rows[1]["content"] = rows[4]["content"] = "same"
    samples = samples_of(rows)
    parts = divide(samples)
    write_split(tmp_path / "split.csv", Dataset(samples, parts))
    again = divide(samples, split_file=tmp_path / "split.csv")
    assert (
        again.left_out == parts.left_out == {1: "byte-identical to a/10, which is in the test part"}
    )
    alone = samples_of(rows[:4])  # the copy in the test part is gone: the image replaces it
    assert divide(alone, split_file=tmp_path / "split.csv").test.tolist() == [1, 3]


def test_renamed_images_are_known_and_changed_ones_are_not(tmp_path):
    rows = images("a", 40)
    old = samples_of(rows)
    parts = divide(old)
    write_split(tmp_path / "split.csv", Dataset(old, parts))
    renamed = samples_of([{**row, "content": row["id"], "id": f"new/{row['id']}"} for row in rows])
    assert divide(renamed, split_file=tmp_path / "split.csv").test.tolist() == parts.test.tolist()
    moved = parts.test.tolist()[0]
    rows[moved]["content"] = "drawn again"
    changed = divide(samples_of(rows), split_file=tmp_path / "split.csv")
    assert changed.notes[0].endswith("split.csv, but not among the data: 1 image")
    assert "split.csv: 1 image; by group or by hash" in changed.notes[1]


def test_unknown_images_follow_their_group_or_the_hash(tmp_path):
    rows = images("a", 100) + [
        {"label": "b", "id": f"b{i}", "group": f"p{i // 5}"} for i in range(100)
    ]
    old = samples_of(rows)
    parts = divide(old)
    write_split(tmp_path / "split.csv", Dataset(old, parts))
    more = images("a", 100, 100) + [
        {"label": "b", "id": f"c{i}", "group": f"p{i}"} for i in range(20)
    ]
    new = samples_of(rows + more)
    again = divide(new, split_file=tmp_path / "split.csv")
    assert_sound(new, again)
    assert set(parts.test.tolist()) == {index for index in again.test.tolist() if index < 200}
    assert 8 < len([index for index in again.test.tolist() if 200 <= index < 300]) < 35
    assert len(again.notes) == 1
    assert "split.csv: 120 images; by group or by hash " in again.notes[0]
    fewer = divide(samples_of(rows[20:]), split_file=tmp_path / "split.csv")
    assert fewer.notes == (f"in {tmp_path / 'split.csv'}, but not among the data: 20 images",)


def split_file(tmp_path, *rows):
    """Write a split.csv of (id, part, group) with the contents that ``samples_of`` gives an id."""
    lines = [
        f"{name},a,{part},{hashlib.sha256(name.encode()).hexdigest()},{group}"
        for name, part, group in rows
    ]
    path = tmp_path / "split.csv"
    path.write_text("\n".join(["id,label,part,sha256,group", *lines, ""]), encoding="utf-8")
    return path


def grouped(**groups):
    """Return images by id with their groups; _ is none."""
    return [
        {"label": "a", "id": name, "group": None if group == "_" else group}
        for name, group in groups.items()
    ]


@pytest.mark.parametrize("seed", range(12))
def test_new_images_go_where_their_group_is_in_the_file(tmp_path, seed):
    """Whatever the hash says: the seed is not that of the file."""
    path = split_file(
        tmp_path, ("t", "test", "p1"), ("v", "val", "p2"), ("r", "train", "p3"), ("u", "train", ""),
        ("gone", "test", "p4"), ("also gone", "train", "p5"), ("left", "", "p3"),
    )  # fmt: skip
    rows = grouped(t="p1", v="p2", r="p3", u="_", t2="p1", t3="p1", v2="p2", r2="p3")
    rows += grouped(t4="p4", r5="p5")  # of their groups, only the file knows an image
    rows += [{"label": "a", "id": "t5", "content": "t"}, {"label": "a", "id": "r6", "content": "u"}]
    # A group that the file does not know shares an image with one that it knows.
    rows += [*grouped(t7="p9"), {"label": "a", "id": "t8", "content": "t3", "group": "p9"}]
    rows += [*grouped(t9="p10"), {"label": "a", "id": "t10", "content": "t4", "group": "p10"}]
    samples = samples_of(rows)
    parts = divide(samples, 0.5, seed, split_file=path)
    for part, letter in (("train", "ru"), ("val", "v"), ("test", "t")):
        assert names(samples, getattr(parts, part)) == {i for i in samples.ids if i[0] in letter}
    assert parts.notes[1] == (
        f"not in {path}: 10 images; by group or by hash 2 to train, 1 to val, 7 to test"
    )


def test_a_group_decides_before_the_groups_that_share_an_image_with_it(tmp_path):
    path = split_file(tmp_path, ("a", "train", "p1"), ("b", "test", "p2"), ("c", "test", "p2"))
    rows = [*grouped(a="p1", b="p2", c="p2", x="p1", y="p1"),
            {"label": "a", "id": "z", "content": "y", "group": "p2"}]  # fmt: skip
    samples = samples_of(rows)
    parts = divide(samples, split_file=path)
    assert names(samples, parts.train) == {"a", "x"}
    assert names(samples, parts.test) == {"b", "c", "z"}
    assert names(samples, parts.left_out) == {"y"}  # it is z, which is tested


def test_a_new_group_of_known_and_new_classes_goes_by_hash_as_a_whole(tmp_path):
    path = split_file(tmp_path, ("a", "train", ""), ("b", "test", ""))
    rows = [*grouped(a="_", b="_", x="p1"), {"label": "new", "id": "y", "group": "p1"}]
    samples = samples_of([*rows, *images("new", 3)])
    found = set()
    for seed in range(12):
        parts = divide(samples, 0.5, seed, split_file=path)
        assert_sound(samples, parts)
        found.add(tuple(names(samples, parts.test) & {"x", "y"} == {*each} for each in ("xy", "")))
    assert found == {(True, False), (False, True)}  # alone of its class, and tested all the same


@pytest.mark.parametrize("seed", range(4))
def test_a_group_in_several_parts_of_the_file_is_said(tmp_path, seed):
    path = split_file(tmp_path, ("a", "train", "p1"), ("b", "train", "p1"), ("c", "test", "p1"),
                      ("d", "train", "p2"), ("e", "test", "p2"), ("f", "train", ""))  # fmt: skip
    samples = samples_of(grouped(a="p1", b="p1", c="p1", d="p2", e="p2", f="_", x="p1", y="p2"))
    parts = divide(samples, 0.5, seed, split_file=path)
    assert names(samples, parts.train) == {"a", "b", "d", "f", "x"}
    assert names(samples, parts.test) == {"c", "e", "y"}  # as many are for training: the test part
    assert parts.notes[0] == (
        f"groups in several parts of {path}, which makes results look better than they are: p1, "
        "p2; new images of a group go where most of it is"
    )


def test_groups_that_only_the_file_has_are_said_where_there_are_new_images(tmp_path):
    path = split_file(tmp_path, ("a", "train", "p1"), ("b", "test", "p2"))
    assert divide(samples_of(grouped(a="_", b="_")), split_file=path).notes == ()
    notes = divide(samples_of(grouped(a="_", b="_", c="_")), split_file=path).notes
    assert notes[0].endswith("give `group_by` as before")


@pytest.mark.parametrize("seed", range(30))
def test_a_class_that_the_file_does_not_know_is_divided_like_any_data(tmp_path, seed):
    path = split_file(tmp_path, ("a", "train", ""), ("b", "test", ""))
    rows = grouped(a="_", b="_") + images("new", 1) + images("novel", 3)
    samples = samples_of(rows)
    parts = divide(samples, 0.5, seed, split_file=path)
    alone = samples_of(images("new", 1) + images("novel", 3))
    assert names(samples, parts.test) == {"b"} | names(alone, divide(alone, 0.5, seed).test)


def test_changed_labels_are_said(tmp_path):
    rows = images("a", 20) + images("b", 20)
    samples = samples_of(rows)
    write_split(tmp_path / "split.csv", Dataset(samples, divide(samples)))
    rows[0]["label"] = "b"
    notes = divide(samples_of(rows), split_file=tmp_path / "split.csv").notes
    assert notes == (f"with another label than in {tmp_path / 'split.csv'}: 1 image",)


def test_the_split_of_other_data_is_refused(tmp_path):
    samples = samples_of(images("a", 20))
    write_split(tmp_path / "split.csv", Dataset(samples, divide(samples)))
    with pytest.raises(DataError, match="has none of the 5 images"):
        divide(samples_of(images("z", 5)), split_file=tmp_path / "split.csv")


def test_large_data_take_seconds():
    n = 100_000
    rows = [{"label": str(i % 500), "id": str(i), "group": str(i // 3)} for i in range(n)]
    samples = samples_of(rows)
    start = time.perf_counter()
    parts = divide(samples)
    assign_folds(samples.labels, clusters_of(samples), 5, 0, samples.hashes)
    assert time.perf_counter() - start < 15  # 1.5 s where nothing else runs
    assert len(parts.test)
