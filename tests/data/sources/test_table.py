"""Tables of paths and labels: every way in which a row can be wrong is named with its number."""

import csv
import sys

import pytest

from image_trees import FLOWERS, encoded, left_out, read_all, write_tree
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.data.sources.table import open_table
from regraft.errors import ConfigError, ImageError, MissingExtraError, TableError
from regraft.splits.split import split_by_config

OPTIONS = SourceOptions()
HEAD = "path,label\n"
ROWS = "rose/1.png,rose\ntulip/1.png,tulip\n"


@pytest.fixture
def table(tmp_path):
    """Write a table beside the flowers and open it."""
    write_tree(tmp_path / "data", FLOWERS)
    write_tree(tmp_path, {"secret.png": encoded(9)})

    def write(content, name="flowers.csv"):
        path = tmp_path / "data" / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return open_table(path, OPTIONS)

    return write


def test_paths_are_relative_to_the_table(table):
    source = table("path,label,split,group\nrose/1.png,R,train,p1\ntulip/1.png,T,Test,\n")
    assert read_all(source) == {name: FLOWERS[name] for name in ("rose/1.png", "tulip/1.png")}
    assert [(e.label, e.part, e.group) for e in source.entries] == [
        ("R", "train", "p1"),
        ("T", "test", None),
    ]


@pytest.mark.parametrize(
    "header", ["path,label", "File,Class", "filename,TARGET", "Image , Category", '"img",label']
)
def test_headers_have_synonyms(table, header):
    assert len(table(f"{header}\n{ROWS}").entries) == 2


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_dialects(table, end, mark, separator):
    content = mark + (HEAD + ROWS).replace(",", separator).replace("\n", end)
    assert [entry.label for entry in table(content).entries] == ["rose", "tulip"]


def test_quoted_fields_and_blanks(table):
    source = table('path, label\n"rose/1.png", "a, b"\n\ntulip/1.png, b \n')
    assert [entry.label for entry in source.entries] == ["a, b", "b"]


def test_a_canonical_name_wins_over_its_synonyms(table):
    source = table("path,label,class\nrose/1.png,a,x\ntulip/1.png,b,x\n")
    assert [entry.label for entry in source.entries] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "has no usable row"),
        (
            HEAD + ROWS + "./rose//1.png,tulip\n",
            "row 4: rose/1.png has the label tulip, and rose in row 2",
        ),
        (
            HEAD + ROWS + "../secret.png,rose\n",
            r"row 4: \.\./secret\.png is outside of the table's folder",
        ),
        (
            HEAD + ROWS + "C:/secret.png,rose\n",
            "row 4: C:/secret.png is outside of the table's folder",
        ),
        (
            HEAD + ROWS + "rose/2\0.png,rose\n",
            r"row 4: the path rose/2\\x00\.png holds control characters",
        ),
        (HEAD + ROWS + '"a\nb.png",rose\n', r"row 5: the path a\\nb\.png holds control characters"),
        (HEAD + ROWS + "rose/2.png,ro\x1b[1mse\n", r"row 4: the label ro\\x1b\[1mse holds control"),
        (HEAD + ROWS + f"rose/2.png,{'x' * 5000}\n", "row 4: the label has 5,000 characters"),
        (HEAD + ROWS + f"rose/2.png,{'x' * 200_000}\n", "row 4: field larger than field limit"),
        ("path,label,group\nrose/1.png,rose,a\x07\n", r"row 2: the group a\\x07 holds control"),
        ("path,colour\n" + ROWS, "has no column label; its columns are: 'path', 'colour'"),
        ("a,b\n" + ROWS, "has no column path and no column label"),
        ("file,filename,label\n", "has 2 columns that could be the path: file, filename"),
        (HEAD + ROWS + "rose/2.png\n", "row 4: 1 fields, and the header has 2"),
        (HEAD + ROWS + "rose/2.png,a,b\n", "row 4: 3 fields, and the header has 2"),
        (HEAD + ROWS + "rose/2.png, \n", "row 4: the label is empty"),
        (HEAD + ",rose\n", "row 2: the path is empty"),
        (
            "path,label,split\nrose/1.png,rose,\nrose/2.png,rose,trian\n",
            "row 3: the split is 'trian'",
        ),
        (
            "path,label,Phase\nrose/1.png,a,train\ntulip/1.png,b,moon\n",
            "row 3: the Phase is 'moon'",
        ),
        ("path,label,is_valid\nrose/1.png,rose,2\n", "row 2: '2' in the column of val images is"),
        (
            "path,label,is_valid,is_test\nrose/1.png,rose,1,True\n",
            "row 2: it is said to be in the val and in the test part",
        ),
        (
            "path,label,is_train,is_valid,is_test\nrose/1.png,rose,0,0,0\n",
            "row 2: it is said to be in no part",
        ),
        (
            HEAD + "roses/1.png,rose\ntulips/1.png,tulip\n",
            r"row 2: roses/1\.png is no file below .*data, and neither is any other of 2",
        ),
        (f"path,label,split\nrose/1.png,rose,{'x' * 5000}\n", "row 2: the split has 5,000 "),
        (HEAD + '"rose/1.png,rose\n', "row 2: unexpected end of data"),
        (HEAD.encode() + b"rose/\xff.png,rose\n", "is not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_named(table, content, message):
    with pytest.raises(TableError, match=message) as caught:
        table(content)
    assert "flowers.csv" in caught.value.message


@pytest.mark.parametrize(
    ("column", "cells", "parts", "note"),
    [
        ("split", "train,,test", ["train", None, "test"], None),
        ("split", ",,", [None] * 3, None),
        ("set", "training,NaN,valid", ["train", None, "val"], None),
        ("partition", "train,dev,holdout", ["train", "val", "test"],
         "the column partition is read as parts: dev as val, holdout as test"),
        ("split", "train,eval,test", ["train", "val", "test"],
         "the column split is read as parts: eval as val"),
        ("split", "train,eval,dev", ["train", "test", "val"],
         "the column split is read as parts: eval as test, dev as val"),
        ("Usage", "Training,PublicTest,PrivateTest", ["train", "val", "test"],
         "the column Usage is read as parts: PublicTest as val, PrivateTest as test"),
        ("data set", "train,test,valid", ["train", "test", "val"],
         "the column data set is read as parts"),
        ("phase", "new,full,new", [None] * 3, None),  # of the moon
        ("fold", "0,1,2", [None] * 3,
         "the column fold is not read: its numbers do not say which images are tested"),
        ("is_valid", "False,True,", ["train", "val", None],
         "read as parts: yes in is_valid as val"),
        ("IS_VAL", "0,1,no", ["train", "val", "train"], "read as parts: yes in IS_VAL as val"),
        ("is_test", "0,yes,1.0", ["train", "test", "test"],
         "read as parts: yes in is_test as test"),
        ("is_train", "1,0,", ["train", "test", None], "read as parts: yes in is_train as train"),
        ("is_train,is_test", '"1,0","0,1","0,0"', ["train", "test", "val"],
         "read as parts: yes in is_train as train, is_test as test"),
        ("is_train,is_valid", '"1,0","0,1","0,0"', ["train", "val", "test"],
         "read as parts: yes in is_train as train, is_valid as val"),
        ("split,is_valid", '"train,1","test,1","val,0"', ["train", "test", "val"], None),
    ],
)  # fmt: skip
def test_columns_of_parts_have_many_names_and_words(table, column, cells, parts, note):
    """Three rows; what is not one of the usual words is said, and so is a column left unread."""
    names = ("rose/1.png", "rose/2.png", "tulip/1.png")
    rows = zip(names, next(csv.reader([cells])), strict=True)
    source = table(f"path,label,{column}\n" + "".join(f"{n},{n[:4]},{cell}\n" for n, cell in rows))
    assert [entry.part for entry in source.entries] == parts
    assert source.notes == (() if note is None else (note,))


def test_is_valid_names_the_test_part_where_there_is_no_other(table):
    """As fastai writes it: the images that are not for training, here tested once at the end."""
    source = table(
        "path,label,is_valid\nrose/1.png,a,False\nrose/2.png,a,True\ntulip/1.png,b,False\n"
    )
    dataset = split_by_config(scan(source, TrainConfig()), TrainConfig())
    assert dataset.names(dataset.test) == ["rose/2.png"]
    assert "val is used as the test part: the data have no other" in dataset.parts.notes


def test_paths_begin_at_the_image_root(tmp_path):
    write_tree(tmp_path / "photos" / "all", FLOWERS)
    write_tree(tmp_path, {"secret.png": encoded(9)})
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "flowers.csv"
    root = tmp_path / "photos"
    absolute = (root / "all" / "rose" / "2.png").as_posix()
    path.write_text(f"{HEAD}all/rose/1.png,rose\n{absolute},rose\nall/tulip/1.png,tulip\n", "utf-8")
    source = open_source(path, SourceOptions(image_root=root))
    assert read_all(source) == {
        f"all/{name}": FLOWERS[name] for name in ("rose/1.png", "rose/2.png", "tulip/1.png")
    }
    with pytest.raises(TableError) as caught:
        open_source(path)
    assert "row 3" in caught.value.message
    assert "`image_root` names another folder" in caught.value.hint
    for outside in ("../secret.png", (tmp_path / "secret.png").as_posix()):
        path.write_text(f"{HEAD}all/rose/1.png,rose\n{outside},rose\n", "utf-8")
        with pytest.raises(TableError) as caught:
            open_source(path, SourceOptions(image_root=root))
        assert caught.value.message.endswith(f"row 3: {outside} is outside of {root.resolve()}")
        assert caught.value.hint == "paths must lead to files below `image_root`"
    with pytest.raises(ConfigError, match=r"^image_root is .*none, which is not a folder$"):
        open_source(path, SourceOptions(image_root=tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"^image_root is .*photos is no table"):
        open_source(root, SourceOptions(image_root=root))


def test_paths_that_all_lead_nowhere_name_the_image_root(table):
    with pytest.raises(TableError) as caught:
        table(f"{HEAD}all/rose/1.png,rose\nall/tulip/1.png,tulip\n")
    assert caught.value.hint == "`image_root` names the folder where they begin"


def test_paths_that_lead_out_are_an_error_unless_they_come_back(table, tmp_path):
    inside = (tmp_path / "data" / "rose" / "2.png").as_posix()
    source = table(f"{HEAD}{ROWS}{inside},rose\n../data/tulip/deep/../deep/er/2.png,tulip\n")
    assert [entry.id for entry in source.entries] == [
        "rose/1.png", "rose/2.png", "tulip/1.png", "tulip/deep/er/2.png",
    ]  # fmt: skip
    outside = f"{tmp_path.as_posix()}/secret.png"
    with pytest.raises(TableError, match=f"row 4: {outside} is outside of the table's folder"):
        table(f"{HEAD}{ROWS}{outside},rose\n")


def test_a_link_out_of_the_folder_is_refused_when_it_is_read(table, tmp_path):
    try:
        (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    except OSError:
        pytest.skip("links cannot be made here")
    (_, load), *_ = table(f"{HEAD}link.png,a\n{ROWS}").stream([0])
    with pytest.raises(ImageError, match="link out of the tree"):
        load()


def test_a_missing_file_is_refused_when_it_is_read(table):
    source = table(f"{HEAD}{ROWS}rose/none.png,rose\n")
    (_, load), *_ = source.stream([1])
    with pytest.raises(ImageError, match="missing: there is no such file"):
        load()


def test_a_path_that_is_too_long_for_the_system_is_one_missing_image(table):
    source = table(f"{HEAD}{'a' * 300}.png,rose\n{ROWS}")
    (_, load), *_ = source.stream([0])
    with pytest.raises(ImageError, match="File name too long"):
        load()


def test_a_path_that_comes_twice_is_refused(table):
    source = table(f"{HEAD}{ROWS}./rose//1.png,rose\n")
    assert left_out(source) == {"rose/1.png": ("refused", "duplicate name")}
    assert source.refused[0].reason == "row 4: row 2 has it already"


def test_backslashes_are_separators_and_said(table):
    source = table(f"{HEAD}rose\\1.png,rose\ntulip/1.png,tulip\n")
    assert read_all(source)["rose/1.png"] == FLOWERS["rose/1.png"]
    assert source.notes == ("1 path is written with backslashes, which are read as separators",)


def test_other_files_are_no_tables(tmp_path):
    (tmp_path / "notes.txt").write_text("path,label\n", "utf-8")
    assert open_table(tmp_path / "notes.txt", OPTIONS) is None
    assert open_table(tmp_path / "none.csv", OPTIONS) is None


# --- Parquet ---------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
    """Write a Parquet table beside the flowers and open it."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    write_tree(tmp_path, FLOWERS)

    def write(**columns):
        pq.write_table(pa.table(columns), tmp_path / "flowers.parquet", row_group_size=2)
        return open_table(tmp_path / "flowers.parquet", OPTIONS)

    return write


def test_parquet_tables(parquet):
    paths = sorted(FLOWERS)
    source = parquet(path=paths, label=[0, 10, 0, 10], split=["train", "val", "test", "test"],
                     group=["a", None, "", "b"], other=[1.0] * 4)  # fmt: skip
    assert list(read_all(source).values()) == [FLOWERS[name] for name in paths]
    assert [(e.label, e.part, e.group) for e in source.entries] == [
        ("0", "train", "a"), ("10", "val", None), ("0", "test", None), ("10", "test", "b"),
    ]  # fmt: skip


def test_dictionary_columns_are_read(parquet):
    pa = pytest.importorskip("pyarrow")

    source = parquet(path=["rose/1.png", "tulip/1.png"],
                     label=pa.array(["r", "t"]).dictionary_encode())  # fmt: skip
    assert [entry.label for entry in source.entries] == ["r", "t"]


@pytest.mark.parametrize(
    ("values", "labels"), [([1.5, 2.0], ["1.5", "2.0"]), ([True, False], ["True", "False"])]
)
def test_labels_of_other_types_are_their_text(parquet, values, labels):
    source = parquet(path=["rose/1.png", "tulip/1.png"], label=values)
    assert [entry.label for entry in source.entries] == labels


def test_a_label_that_is_no_text_and_no_number_is_named_with_what_to_do(parquet):
    with pytest.raises(TableError) as caught:
        parquet(path=["a"], label=[["x"]])
    assert caught.value.hint == "one image has one class here: a label is a text or a number"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a", "b", "c"], "label": ["x", "y", None]}, "row 3: the label is empty"),
        ({"path": ["a", "b"], "label": [1.0, float("nan")]}, "row 2: the label is empty"),
        ({"path": [1, 2], "label": ["x", "y"]}, "row 1: the path is of type int, not text"),
        ({"path": ["a"], "label": [["x"]]}, "row 1: the label is of type list"),
        ({"path": ["a"], "labels": ["x"]}, "has no column label"),
    ],
)
def test_what_is_wrong_in_parquet_is_named(parquet, columns, message):
    with pytest.raises(TableError, match=message):
        parquet(**columns)


def test_what_is_no_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(TableError, match=r"a\.parquet cannot be read as Parquet"):
        open_table(tmp_path / "a.parquet", OPTIONS)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"pip install 'regraft\[parquet\]'"):
        open_table(tmp_path / "a.parquet", OPTIONS)
