"""split.csv: written and read again to the byte; what is no such table is refused by row."""

import csv
import hashlib
import random

import numpy as np
import pytest

from listed_samples import samples_of
from regraft.data.dataset import Dataset
from regraft.data.samples import Parts
from regraft.errors import InputError, TableError
from regraft.splits.split_csv import SplitRow, fitted_hashes, read_split, write_split

HEADER = "id,label,part,sha256,group\n"
SHA = "ab" * 32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column id, label, part, sha256, group"),
        ("id,label\n", "no column part, sha256, group"),
        (HEADER, "no rows"),
        (HEADER + f"x,a,train,{SHA},\ny,a,trian,{SHA},\n", "row 3: the part is 'trian'"),
        (HEADER + "x,a,train,abc,\n", "row 2: 'abc' is not a sha256"),
        (HEADER + f"x,a,train,{'g' * 64},\n", "row 2: 'gggg"),
        (HEADER + "x,a\n", "row 2: 2 fields"),
        (HEADER + f'"x,a,train,{SHA},\n', "row 2: "),
        (HEADER + f"{'x' * 200_000},a,train,{SHA},\n", "row 2: field larger"),
    ],
)
def test_bad_split_files_are_refused_by_row(tmp_path, text, words):
    path = tmp_path / "split.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TableError) as caught:
        read_split(path)
    assert words in caught.value.message
    with pytest.raises(TableError):
        fitted_hashes(path)


def test_missing_and_binary_split_files(tmp_path):
    assert fitted_hashes(tmp_path / "none.csv") is None
    with pytest.raises(InputError, match="cannot be read"):
        read_split(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"id\xff\xfe")
    with pytest.raises(TableError, match="not UTF-8 text: byte 2"):
        read_split(tmp_path / "binary.csv")


def awkward(chance):
    """Return a name of what a table may stumble over."""
    return "".join(chance.choice(["x", ",", '"', "\n", "\r", " ", "é", "'"]) for _ in range(6))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_is_read_again(tmp_path, seed):
    chance = random.Random(seed)
    rows = [
        {
            "label": f"{awkward(chance)}{k % 3}",
            "id": f"{awkward(chance)}{k}",
            "group": chance.choice([None, awkward(chance)]),
        }
        for k in range(12)
    ]
    samples = samples_of(rows)
    part_of = [chance.choice(["train", "val", "test", None]) for _ in rows]
    train, val, test = (
        np.array([k for k, part in enumerate(part_of) if part == name], dtype=np.int64)
        for name in ("train", "val", "test")
    )
    left_out = {k: "a copy" for k, part in enumerate(part_of) if part is None}
    path = tmp_path / "split.csv"
    write_split(path, Dataset(samples, Parts(train, val, test, left_out)))
    expected = [
        SplitRow(row["id"], row["label"], part, digest, row["group"])
        for row, part, digest in zip(rows, part_of, samples.hashes, strict=True)
    ]
    assert read_split(path) == expected
    fitted = {row.sha256 for row in expected if row.part in {"train", "val"}}
    assert fitted_hashes(path) == fitted
    with path.open(newline="", encoding="utf-8") as file:  # any other reader finds the same
        found = list(csv.DictReader(file))
    assert [(row["id"], row["sha256"]) for row in found] == [
        (row.id, row.sha256.hex()) for row in expected
    ]


def test_columns_may_have_another_order_and_others_beside_them(tmp_path):
    path = tmp_path / "split.csv"
    sha = hashlib.sha256(b"x").hexdigest()
    text = f"\ufeffpart,note,group,sha256,label,id\nval,,p1,{sha.upper()},rose,a\n\n,n,,{sha},b,c\n"
    path.write_text(text, encoding="utf-8")  # with the mark that spreadsheets write first
    digest = bytes.fromhex(sha)
    assert read_split(path) == [
        SplitRow("a", "rose", "val", digest, "p1"),
        SplitRow("c", "b", None, digest, None),
    ]


def test_a_row_that_is_too_short_is_named_by_its_line(tmp_path):
    """Also after a name with a line break; one that lacks only a column of others is read."""
    path = tmp_path / "split.csv"
    path.write_text(HEADER.strip() + f',more\n"x\ny",a,test,{SHA},\nx,a,val,{SHA}\n', "utf-8")
    with pytest.raises(TableError, match="row 4: 4 fields, fewer than the header"):
        read_split(path)
    path.write_text(HEADER.strip() + f',more\n"x\ny",a,test,{SHA},\nx,a,val,{SHA},\n', "utf-8")
    assert [row.part for row in read_split(path)] == ["test", "val"]


def test_hashes_of_another_length_are_refused(tmp_path):
    path = tmp_path / "split.csv"
    for sha in ("ab" * 31, "ab" * 33, ""):
        path.write_text(f"{HEADER}x,a,test,{SHA},\nx,a,test,{sha},\n", "utf-8")
        with pytest.raises(TableError) as raised:
            read_split(path)
        assert raised.value.message == (
            f"{path}, row 3: {sha[:80]!r} is not a sha256 of 64 hex digits"
        )


def test_a_text_that_only_begins_like_csv_is_refused(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text(f'{HEADER}"x"y,a,test,{SHA},\n', "utf-8")
    with pytest.raises(TableError, match="row 2: "):
        read_split(path)


def test_only_a_file_that_is_not_there_is_none(tmp_path):
    assert fitted_hashes(tmp_path / "none.csv") is None
    assert fitted_hashes(tmp_path) is None  # a run's folder without it
    (tmp_path / "folder.csv" / "split.csv").mkdir(parents=True)
    with pytest.raises(InputError):
        fitted_hashes(tmp_path / "folder.csv")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(tmp_path, end):
    path = tmp_path / "split.csv"
    path.write_bytes((HEADER + f"x,a,test,{SHA},\ny,a,val,{SHA},\n").replace("\n", end).encode())
    assert [(row.id, row.part) for row in read_split(path)] == [("x", "test"), ("y", "val")]
