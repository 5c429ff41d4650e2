"""Which images of some data a run can be measured on."""

import hashlib

import numpy as np
import pytest

from listed_samples import images, samples_of
from regraft.errors import DataError, RunError, TableError
from regraft.splits.matching import choose_unseen, match_classes, missing_classes

RUN_CLASSES = ("daisy", "rose", "tulip")


def write_rows(folder, **parts):
    """Write the split.csv of a run: each image by its content with its part."""
    lines = [
        f"{name},rose,{part},{hashlib.sha256(name.encode()).hexdigest()},"
        for name, part in parts.items()
    ]
    folder.mkdir(exist_ok=True)
    text = "\n".join(["id,label,part,sha256,group", *lines, ""])
    (folder / "split.csv").write_text(text, encoding="utf-8")
    return folder


# --- classes --------------------------------------------------------------------------------------


def test_labels_are_matched_by_name_and_not_by_number():
    samples = samples_of([*images("tulip", 2), *images("daisy", 1), *images("tulip", 1, 5)])
    found = match_classes(samples, RUN_CLASSES)
    assert found.tolist() == [2, 2, 0, 2]
    assert found.dtype == np.int64
    assert match_classes(samples, ("tulip", "elm", "daisy")).tolist() == [0, 0, 2, 0]


def test_classes_that_the_run_does_not_know_are_named_with_the_nearest():
    samples = samples_of([*images("Tullip", 1), *images("oak", 1), *images("rose", 1)])
    with pytest.raises(DataError) as raised:
        match_classes(samples, RUN_CLASSES)
    assert raised.value.message == (
        "2 of the data's 3 classes are unknown to the run: Tullip (tulip?), oak"
    )
    assert raised.value.hint == (
        "classes are matched by name; the run knows daisy, rose, tulip; "
        "`exclude='Tullip'` leaves one out"
    )


def test_of_many_unknown_classes_the_first_hundred_are_named():
    samples = samples_of([{"label": f"{number:03}"} for number in range(103)])
    with pytest.raises(DataError) as raised:
        match_classes(samples, tuple(f"class of {number:03}" for number in range(102)))
    assert "103 of the data's 103 classes are unknown" in raised.value.message
    assert raised.value.message.endswith(", 098, 099 and 3 more")
    assert ", class of 099 and 2 more; " in raised.value.hint


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (("tulip", "tulips"), "Tulip (tulip?), toplip, tullp (tulip?)"),  # toplip is too far off
        ((*(f"{number:05}" for number in range(99)), "tulip"), "Tulip (tulip?), toplip, tull"),
        ((*(f"{number:05}" for number in range(100)), "tulip"), "Tulip, toplip, tullp"),
    ],
)
def test_one_name_is_suggested_of_those_that_are_shown(known, words):
    samples = samples_of([{"label": "Tulip"}, {"label": "tullp"}, {"label": "toplip"}])
    with pytest.raises(DataError) as raised:
        match_classes(samples, known)
    assert f"unknown to the run: {words}" in raised.value.message


def test_classes_of_the_run_without_an_image_are_named():
    assert missing_classes(np.array([0, 1, 2, 2]), RUN_CLASSES) == []
    assert missing_classes(np.array([1]), RUN_CLASSES) == [
        "no image of 2 of the run's 3 classes: daisy, tulip; macro figures are of the others"
    ]
    many = tuple(f"{number:04}" for number in range(1201))
    (note,) = missing_classes(np.array([1200]), many)
    assert note.startswith("no image of 1,200 of the run's 1,201 classes: 0000, 0001, ")
    assert note.endswith(", 0099 and 1,100 more; macro figures are of the others")


# --- images ---------------------------------------------------------------------------------------


def test_images_that_the_run_was_fitted_on_are_left_out(tmp_path):
    """Those of training and validation, by content: a new name makes no new image."""
    run = write_rows(tmp_path / "run", a="train", b="val", c="test", d="", e="train")
    samples = samples_of(
        [
            {"label": "rose", "id": f"new {name}", "content": name}
            for name in ("a", "b", "c", "d", "new", "a")
        ]
    )
    chosen, notes = choose_unseen(samples, run)
    assert chosen.tolist() == [2, 3, 4]
    assert chosen.dtype == np.int64
    assert notes == ["left out, since the run was fitted on them: 3 images"]


def test_of_data_with_parts_the_test_part_is_measured(tmp_path):
    run = write_rows(tmp_path / "run", a="train", b="train")
    rows = [
        {"label": "rose", "id": name, "part": part}
        for name, part in zip("abcdef", ("test", "train", "test", "val", "test", None), strict=True)
    ]
    chosen, notes = choose_unseen(samples_of(rows), run)
    assert chosen.tolist() == [2, 4]
    assert notes == [
        "measured on the test part of the data: 3 images",
        "left out, since the run was fitted on them: 1 image",
    ]
    no_test = samples_of([row for row in rows if row["part"] != "test"])
    chosen, notes = choose_unseen(no_test, run)
    assert chosen.tolist() == [1, 2]
    assert notes == ["left out, since the run was fitted on them: 1 image"]


def test_a_run_that_saw_none_of_the_images_has_nothing_to_say(tmp_path):
    run = write_rows(tmp_path / "run", a="train", b="test")
    assert choose_unseen(samples_of(images("rose", 2)), run)[1] == []


def test_a_bundle_is_looked_up_in_the_run_that_it_is_in(tmp_path):
    run = write_rows(tmp_path / "run", a="train")
    bundle = run / "bundle"
    bundle.mkdir()
    samples = samples_of([{"label": "rose", "id": name} for name in "ab"])
    assert choose_unseen(samples, bundle)[0].tolist() == [0, 1]  # no manifest: no bundle
    (bundle / "manifest.json").write_text("{}", encoding="utf-8")
    assert choose_unseen(samples, bundle)[0].tolist() == [1]


def test_a_run_without_split_csv_may_have_seen_them_all(tmp_path):
    samples = samples_of(images("rose", 3))
    chosen, notes = choose_unseen(samples, tmp_path)
    assert chosen.tolist() == [0, 1, 2]
    assert notes == [f"{tmp_path} has no split.csv: some of these images may have been trained on"]


def test_a_damaged_split_csv_is_not_taken_for_a_missing_one(tmp_path):
    (tmp_path / "split.csv").write_text("id\n", encoding="utf-8")
    with pytest.raises(TableError, match="has no column label, part, sha256, group"):
        choose_unseen(samples_of(images("rose", 3)), tmp_path)


def test_a_run_that_saw_every_image_is_not_measured(tmp_path):
    run = write_rows(tmp_path / "run", a="train", b="val")
    samples = samples_of([{"label": "rose", "id": name} for name in "ab"])
    with pytest.raises(RunError, match="was fitted on every image of photos") as raised:
        choose_unseen(samples, run)
    assert raised.value.hint == "the run's test result is in its metrics.json"
