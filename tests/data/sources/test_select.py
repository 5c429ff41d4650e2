"""Which images are used: what is left out is in the ledger with its reason, and said."""

from collections import Counter

import pytest

from image_trees import encoded, read_all, tree, write_tree, write_zip
from regraft.config.train_config import TrainConfig
from regraft.data.samples import Entry, Source
from regraft.data.scan import scan
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import ConfigError, DataError

PETS = tree(
    "cat/1.png", "cat/1_mask.png", "cat/_rejected/2.png", "cat/b/_rejected/3.png", "dog/1.png",
    "dog/deep/trash/2.png", "trash/1.png", "trash/cat/2.png", "Smith, John/1.png",
)  # fmt: skip


def listing(*names, **parts):
    """Return a source of names whose first folder is the class; nothing can be read of it."""
    entries = [Entry(name, name.split("/")[0], parts.get(name.split("/")[1])) for name in names]

    def stream(indices):
        yield from ((index, names[index].encode) for index in indices)

    return Source("folder", "photos", entries, stream)


def ids(source):
    return [entry.id for entry in source.entries]


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("trash", {"trash/1.png", "trash/cat/2.png"}),  # a class, and not the folder in dog
        ("tras?", {"trash/1.png", "trash/cat/2.png"}),
        ("_rejected", {"cat/_rejected/2.png", "cat/b/_rejected/3.png"}),
        ("cat/_rejected/", {"cat/_rejected/2.png"}),
        ("cat/*/_rejected", {"cat/b/_rejected/3.png"}),
        ("dog/deep", {"dog/deep/trash/2.png"}),
        ("*_mask.png", {"cat/1_mask.png"}),
        ("*/1.png", {"cat/1.png", "dog/1.png", "trash/1.png", "Smith, John/1.png"}),
        ("Smith, John", {"Smith, John/1.png"}),
    ],
)
def test_patterns_leave_out_classes_or_else_folders_and_files(tmp_path, pattern, gone):
    source = open_source(write_zip(tmp_path / "a.zip", PETS), SourceOptions(exclude=(pattern,)))
    assert set(ids(source)) == set(PETS) - gone
    assert read_all(source) == {name: PETS[name] for name in ids(source)}
    entries = {entry.path: (entry.status, entry.kind, entry.reason) for entry in source.refused}
    assert entries == dict.fromkeys(gone, ("passed over", "excluded", f"exclude is {pattern!r}"))
    count = f"{len(gone)} image{'s' * (len(gone) > 1)}"
    assert f"left out by `exclude={pattern!r}`: {count}" in source.notes


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (("cat,dog",), {"cat", "dog"}),
        (("dog", " cat ,"), {"cat", "dog"}),
        (("Smith, John", "dog"), {"Smith, John", "dog"}),
    ],
)
def test_classes_are_used_alone_in_their_usual_order(tmp_path, given, kept):
    data = write_tree(tmp_path, {**PETS, "trash/text.jpg": b"text", "cat/text.jpg": b"text"})
    config = TrainConfig(classes=given, exclude="text.jpg")
    samples = scan(data, config)
    assert samples.classes == tuple(sorted(kept))
    assert {name.split("/")[0] for name in samples.ids} == kept
    reasons = Counter((e.status, e.kind) for e in samples.ledger.entries)
    n = sum(name.split("/")[0] not in kept for name in PETS)
    assert reasons["passed over", "another class"] == n
    assert reasons["passed over", "excluded"] == 2
    assert f"left out by `classes`: {n + ('cat' not in kept) + 1} images of 2 classes" in (
        samples.notes
    )


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"exclude": ("trsh",)},
            "exclude is 'trsh', which is nothing in photos",
            "did you mean trash?; the classes are cat, dog, trash",
        ),
        (
            {"exclude": ("_rejectd",)},
            "exclude is '_rejectd', which is nothing in photos",
            "did you mean _rejected or cat/_rejected?; the classes are cat, dog, trash",
        ),
        (
            {"classes": ("cat,dgo",)},
            "classes is 'dgo', which is nothing in photos",
            "did you mean dog?; the classes are cat, dog, trash",
        ),
        (
            {"exclude": ("*.tif",)},
            "exclude is '*.tif', which is nothing in photos",
            "no name is similar; the classes are cat, dog, trash",
        ),
        (
            {"exclude": ("*",)},
            "exclude and classes leave none of the 4 images of photos",
            "give fewer patterns",
        ),
        (
            {"at_most": "3"},
            "at_most is 3; these data need 4 images at least",
            "two of each class, or one of each class in each part, are always kept",
        ),
    ],
)
def test_what_matches_nothing_is_an_error_with_the_nearest_names(options, message, hint):
    source = listing("cat/1", "cat/_rejected/2", "dog/1", "trash/1")
    with pytest.raises(ConfigError) as caught:
        open_source(source, SourceOptions(**options))
    assert (caught.value.message, caught.value.hint or "") == (message, hint)


def test_one_class_that_is_left_is_too_few(tmp_path):
    with pytest.raises(DataError, match="holds images of one class only: dog"):
        scan(write_tree(tmp_path, PETS), TrainConfig(classes="dog"))


def test_files_that_cannot_be_images_are_left_out_with_their_class_too(tmp_path):
    """They are lost only where they belong to what is asked for."""
    files = {**PETS, **{f"trash/{n}.png": b"" for n in range(9)}}
    data = write_tree(tmp_path, files)
    (tmp_path / "trash" / "link.png").symlink_to("/nowhere.png")
    with pytest.raises(DataError, match="10 of 18 images are refused, more than 5%"):
        scan(data, TrainConfig())
    for config in (TrainConfig(exclude="trash"), TrainConfig(classes="cat,dog")):
        assert scan(data, config).ledger.counts()["refused"] == 0
    (tmp_path / "cat" / "trash").mkdir()  # a folder of the class cat
    (tmp_path / "cat" / "trash" / "link.png").symlink_to("/nowhere.png")
    config = TrainConfig(classes="cat,dog", max_refused=0.2)
    assert scan(data, config).ledger.counts()["refused"] == 1


# --- at most ----------------------------------------------------------------------------------


def counts(source):
    return Counter((entry.label, entry.part) for entry in source.entries)


def test_each_class_keeps_its_share():
    names = [f"a/{n}" for n in range(600)] + [f"b/{n}" for n in range(300)]
    names += [f"c/{n}" for n in range(90)] + [f"d/{n}" for n in range(10)]
    found = open_source(listing(*names), SourceOptions(at_most="100"))
    assert counts(found) == {("a", None): 60, ("b", None): 30, ("c", None): 8, ("d", None): 2}
    assert found.notes == (
        "`at_most='100'`: 100 of 1,000 images are used, chosen by a hash of their paths",
    )
    assert Counter((e.status, e.kind, e.reason) for e in found.refused) == {
        ("passed over", "not needed", "at_most is 100"): 900
    }
    some = open_source(
        listing(*names[:50], *names[600:627], *names[900:923]), SourceOptions(at_most="10")
    )
    assert [*counts(some).values()] == [5, 3, 2]  # of 5, 2.7 and 2.3
    of_each = open_source(listing(*names), SourceOptions(at_most="20/class"))
    assert set(counts(of_each).values()) == {20, 10}
    assert ids(open_source(listing(*names), SourceOptions(at_most="5000"))) == names


def test_each_part_keeps_its_share():
    names = [f"{label}/{part}/{n}" for label in "ab"
             for part, size in (("train", 80), ("test", 20)) for n in range(size)]  # fmt: skip
    source = listing(*names, train="train", test="test")
    for at_most in ("40", "20/class"):
        assert counts(open_source(source, SourceOptions(at_most=at_most))) == {
            (label, part): count for label in "ab" for part, count in (("train", 16), ("test", 4))
        }


def test_the_choice_is_by_chance_and_changes_little_with_the_data():
    names = [f"{label}/{n:04}" for label in "ab" for n in range(1000)]
    chosen = set(ids(open_source(listing(*names), SourceOptions(at_most="200"))))
    numbers = [int(name[2:]) for name in chosen]
    assert 440 < sum(numbers) / len(numbers) < 560  # not the first ones: expected 500 +- 20
    again = open_source(listing(*reversed(names)), SourceOptions(at_most="200"))
    assert set(ids(again)) == chosen
    more = listing(*names, *(f"{label}/new{n}" for label in "ab" for n in range(100)))
    kept = set(ids(open_source(more, SourceOptions(at_most="220")))) & set(names)
    assert len(chosen - kept) < 40


def test_what_is_not_chosen_is_not_read(tmp_path):
    files = {f"{label}/{n}.png": encoded(n) for label in "ab" for n in range(30)}
    samples = scan(write_tree(tmp_path, {**files, "a/31.png": b"text"}), TrainConfig(at_most=20))
    read = [entry for entry in samples.ledger.entries if entry.status != "passed over"]
    assert len(read) == 20
    assert samples.ledger.counts()["passed over"] == 41
    assert len(samples) + samples.ledger.counts()["refused"] == 20


# --- names that are no classes ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["unlabelled", "Unlabeled_images", "unknown", "misc", "TODO", "_rejected", "lost+found",
     "New folder", "new folder (2)", "other", "Trash", "to-sort", "n/a", "nan"],
)  # fmt: skip
def test_classes_that_may_be_none_are_said(name):
    source = Source("arrays", "x", [Entry(str(n), label) for n, label in
                                    enumerate(["cat", "dog", name, name])], iter)  # fmt: skip
    (note,) = open_source(source).notes
    assert note == (
        f"by name these may be no classes: {name} (2 images); they are trained like the others, "
        f"and `exclude={name!r}` leaves one out"
    )
    assert ids(open_source(source, SourceOptions(exclude=(name,)))) == ["0", "1"]


@pytest.mark.parametrize(
    "labels",
    [["accepted", "rejected"], ["cat", "dog", "oldsmobile", "binder", "tempura", "nantes"],
     ["one", "other", "unknown"]],
)  # fmt: skip
def test_classes_that_are_some_are_not_said(labels):
    source = Source("arrays", "x", [Entry(str(n), label) for n, label in enumerate(labels)], iter)
    assert open_source(source).notes == ()


def test_folders_inside_classes_that_hold_no_examples_are_said():
    source = listing("cat/1", "cat/_rejected/2", "cat/_rejected/x/3", "dog/old/trash/4", "dog/un/5",
                     "dog/unknown/6")  # fmt: skip
    (note,) = open_source(source).notes
    assert note == (
        "by name these folders may hold no examples of their class: cat/_rejected (2 images), "
        "dog/old/trash (1 image); they count as examples, and `exclude='cat/_rejected'` leaves one "
        "out"
    )
    left = open_source(source, SourceOptions(exclude=("cat/_rejected", "dog/old/trash")))
    assert ids(left) == ["cat/1", "dog/un/5", "dog/unknown/6"]


def test_a_class_without_an_image_that_is_read_can_be_left_out(tmp_path):
    data = write_tree(tmp_path, {**PETS, "raw/1.ppm": b"P6 1 1 255 abc"})
    (tmp_path / "soon").mkdir()
    with pytest.raises(DataError, match="2 classes have no image that is read") as caught:
        scan(data, TrainConfig())
    assert caught.value.hint.endswith("`exclude='raw'` leaves a class out")
    for config in (TrainConfig(exclude=["raw", "so?n"]), TrainConfig(classes=["cat,dog"])):
        assert {"cat", "dog"} <= {*scan(data, config).classes}
    for config in (TrainConfig(exclude="raw"), TrainConfig(classes=["cat,dog,soon"])):
        with pytest.raises(DataError, match="1 class has no image that is read: soon"):
            scan(data, config)
