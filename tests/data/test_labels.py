"""Names of classes are looked at in the same way, whatever the data come from."""

import csv
import io

import numpy as np
import pytest

from image_trees import encoded, pixels, write_tree
from regraft.data.labels import label_notes, merged_note
from regraft.data.samples import Entry, Source
from regraft.data.sources.hub_tables import choose_tables, open_tables
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import DataError
from stand_ins import table


def from_folder(root, labels):
    names = [f"{label}/{n}.png" for n, label in enumerate(labels)]
    return open_source(write_tree(root / "data", dict.fromkeys(names, encoded(1))))


def from_table(root, labels):
    write_tree(root, {f"{n}.png": encoded(1) for n in range(len(labels))})
    text = io.StringIO()
    csv.writer(text).writerows([("path", "label"), *((f"{n}.png", label) for n, label in
                                                     enumerate(labels))])  # fmt: skip
    (root / "a.csv").write_text(text.getvalue(), "utf-8")
    return open_source(root / "a.csv")


def from_arrays(root, labels):
    return open_source(([pixels(n) for n in range(len(labels))], labels))


def from_hub(root, labels):
    root.mkdir(exist_ok=True)
    (root / "train.parquet").write_bytes(table([encoded(1)] * len(labels), labels))
    tables = choose_tables("hf:a/b", ["train.parquet"], None)
    return open_source(open_tables("hf:a/b", root, tables, None))


def from_hub_numbers(root, labels):
    root.mkdir(exist_ok=True)
    names = list(dict.fromkeys(labels))
    numbers = [names.index(label) for label in labels]
    (root / "train.parquet").write_bytes(table([encoded(1)] * len(labels), numbers, names))
    return open_source(
        open_tables("hf:a/b", root, choose_tables("hf:a/b", ["train.parquet"], None), None)
    )


ALL = [from_folder, from_table, from_arrays, from_hub, from_hub_numbers]
TEXT = [from_table, from_arrays, from_hub]


def notes(source):
    return [note for note in source.notes if "only split" not in note]


@pytest.mark.parametrize("opened", ALL)
def test_names_that_differ_in_case_are_two_classes_and_told(tmp_path, opened):
    source = opened(tmp_path, ["rose", "Rose", "tulip"])
    assert {entry.label for entry in source.entries} == {"rose", "Rose", "tulip"}
    (note,) = notes(source)
    assert note.startswith("the classes Rose and rose differ in case or form only: if they are ")


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["rose", "rose "], "rose and 'rose '"),
        (["rose", " rose"], "' rose' and rose"),
        (["ice cream", "ice  cream"], "'ice  cream' and ice cream"),
        (["ice cream", "ice\u00a0cream"], r"ice cream and 'ice\xa0cream'"),
        (["rose", "ro\u00adse"], r"rose and 'ro\xadse'"),
        (["rose", "\ufeffrose"], r"rose and '\ufeffrose'"),
        (["stra\u00dfe", "STRASSE"], "STRASSE and stra\u00dfe"),
        (["1", "\uff11"], "1 and \uff11"),
    ],
)
def test_what_looks_the_same_is_told_with_what_cannot_be_seen(labels, shown):
    first, *_ = from_arrays(None, [*labels, "tulip"]).notes
    assert first.startswith(f"the classes {shown} differ in case or form only")


@pytest.mark.parametrize("opened", TEXT)
def test_two_forms_of_an_accent_are_one_class_and_told(tmp_path, opened):
    source = opened(tmp_path, ["caf\u00e9", "cafe\u0301", "tulip"])
    assert {entry.label for entry in source.entries} == {"caf\u00e9", "tulip"}
    assert notes(source) == [
        (
            "labels that differ in blanks or the form of accents are one class: "
            "'cafe\\u0301' and caf\u00e9"
        )
    ]


@pytest.mark.parametrize("opened", [from_table, from_hub])
def test_blanks_around_a_label_are_left_out_and_told_where_classes_meet(tmp_path, opened):
    (note,) = notes(opened(tmp_path, ["rose", "rose ", "tulip "]))
    assert note.endswith("are one class: rose and 'rose '")


def test_spellings_are_named_for_each_class():
    pairs = [("a", "a"), ("a ", "a"), ("b", "b"), ("b ", "b"), (" b", "b"), ("c", "c")]
    (note,) = merged_note(pairs)
    assert note.endswith(": a and 'a '; ' b' and b and 'b '")
    assert merged_note([("a", "a"), ("a", "a"), ("b ", "b")]) == ()


@pytest.mark.parametrize("label", [" ", "\u00a0\u3000", "\u200b", "\u2060\ufeff"])
def test_a_name_that_cannot_be_seen_is_refused(label):
    with pytest.raises(DataError) as caught:
        from_arrays(None, ["a", "b", label])
    assert caught.value.message == "arrays: the class of 2 has no name that can be seen"
    assert (caught.value.hint, caught.value.exit_code) == ("give the class a plain name", 2)


def test_folders_of_blanks_and_empty_names_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"the class of   /0\.png has no name that can be seen"):
        from_folder(tmp_path, ["  ", "rose"])
    source = Source("new", "data", [Entry("1", ""), Entry("2", "a")], lambda _: iter(()))
    with pytest.raises(DataError, match="data: the class of 1 has no name\n"):
        open_source(source)
    for opened in (from_hub_numbers, from_table):
        with pytest.raises(DataError, match=r"has no name|the label is empty"):
            opened(tmp_path / opened.__name__, ["a", " ", "b"])


def test_invisible_characters_are_told_and_those_of_words_are_not():
    told = from_arrays(None, ["rose\u200b", "tulip", "\u0645\u06cc\u200c\u062e"]).notes
    assert told == (r"invisible characters are part of the names of classes: 'rose\u200b'",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, "1", 2], "labels 0 and 1 are 1 and '1', which would be one class"),
        (["a", True, "True"], "labels 1 and 2 are True and 'True', which would be one class"),
        ([np.int64(3), "4", "3"], "labels 0 and 2 are 3 and '3', which would be one class"),
    ],
)
def test_a_number_and_its_text_are_not_one_class(labels, message):
    with pytest.raises(DataError) as caught:
        from_arrays(None, labels)
    assert caught.value.message.replace("np.int64(3)", "3") == message
    assert "str(label)" in caught.value.hint


def test_one_kind_of_number_may_be_written_in_two_types():
    assert {e.label for e in from_arrays(None, [1, np.int64(1), np.str_("a"), "a"]).entries} == {
        "1", "a",
    }  # fmt: skip


# --- several labels in one ---------------------------------------------------------------------


def several(*labels):
    """Return the error's message, or the first note, or None."""
    entries = [Entry(str(n), label) for n, label in enumerate(labels)]
    source = Source("new", "data", entries, lambda _: iter(()))
    try:
        told = label_notes(source, settled=False)
    except DataError as error:
        return f"{error.message}; {error.hint}"
    return told[0] if told else None


STOPPED = [
    (["rose", "red", "rose|red"], ("1 of 3 labels name several classes (joined by '|'), such as "
                                  "rose|red")),
    (["rose", "tulip", "rose;red", "tulip;red", "rose;red"], ("3 of 5 labels name several classes "
                                                             "(joined by ';'), such as rose;red")),
    (["cat, dog", "cat", "dog", "bird"], ("1 of 4 labels name several classes (joined by ','), "
                                          "such as cat, dog")),
    (["rose|red", "red|rose", "tulip"], ("2 of 3 labels name several classes (joined by '|'), such "
                                        "as red|rose")),
    (['["rose", "red"]', "tulip"], ("1 of 2 labels name several classes (a list), such as "
                                   '["rose", "red"]')),
    (["['rose', 'red']", "['tulip']"], "1 of 2 labels name several classes (a list)"),
    (["{rose,red}", "tulip", "tulip"], "1 of 3 labels name several classes (a list)"),
    (["Edema|Mass", "Mass", "Edema", "Mass|Nodule", "Edema|Nodule|Mass", "Hernia"],
     "3 of 6 labels name several classes (joined by '|')"),
]  # fmt: skip


@pytest.mark.parametrize(("labels", "message"), STOPPED)
def test_several_labels_in_one_are_a_stop_with_their_number(labels, message):
    told = several(*labels)
    assert told.startswith(f"data: {message}")
    assert "; one image has one class here: keep one label of each image; " in told


NOTED = [
    (["rose|red", "rose", "tulip"], ("1 of 3 labels seem to name several classes (joined by '|'), "
                                    "such as rose|red: one image has one class here")),
    (["shoes, men", "shoes, women", "bags, men", "bags, women"],
     "4 of 4 labels seem to name several classes (joined by ','), such as bags, men: one image"),
    (["Animalia|Aves", "Animalia|Pisces"], "2 of 2 labels seem to name several classes"),
]  # fmt: skip


@pytest.mark.parametrize(("labels", "note"), NOTED)
def test_what_may_be_several_labels_is_a_note(labels, note):
    assert several(*labels).startswith(note)


@pytest.mark.parametrize(
    "labels",
    [
        ["tench, Tinca tinca", "goldfish, Carassius auratus", "kite", "crane"],
        ["corn", "ear, spike, capitulum", "missile", "projectile, missile"],  # of ImageNet
        ["skunk, polecat, wood pussy", "ferret, polecat, weasel", "hen", "great auk, auk"],
        ["salad, fruit", "salad", "soup"],
        ["vase|pot", "bowl", "cup"],
        ["rose;", "|", "a,", ",", "[x]", "[]", "{}", "(a, b)", "x"],
        ["T-shirt/top", "ice cream", "rock & roll"],
    ],
)
def test_commas_and_bars_in_names_are_no_several_labels(labels):
    assert several(*labels) is None


@pytest.mark.parametrize("opened", TEXT)
def test_every_source_of_text_stops_and_named_classes_are_used(tmp_path, opened):
    labels = ["rose", "red", "rose|red"]
    with pytest.raises(DataError, match=r"1 of 3 labels name several classes \(joined by '\|'\)"):
        opened(tmp_path, labels)


def test_who_names_the_classes_or_leaves_these_out_means_it():
    labels = ["rose", "red", "rose|red", "rose"]
    images = [pixels(n) for n in range(4)]
    for options in (SourceOptions(classes=("rose", "rose|red")), SourceOptions(exclude=("*|*",))):
        kept = {entry.label for entry in open_source((images, labels), options).entries}
        assert kept == {"rose", "rose|red"} if options.classes else kept == {"rose", "red"}


def test_a_row_of_the_hub_with_a_list_of_classes(tmp_path):
    one = from_hub(tmp_path / "one", [["rose"], ["tulip"], ["rose"]])
    assert [entry.label for entry in one.entries] == ["rose", "tulip", "rose"]
    with pytest.raises(DataError, match="2 of 3 rows of train have several classes, such as rose, "
                       "red\nhint: one image has one class here"):  # fmt: skip
        from_hub(tmp_path / "several", [["rose", "red"], ["tulip"], ["rose", "tulip", "red"]])
