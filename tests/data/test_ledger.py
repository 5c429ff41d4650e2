"""The ledger's file says what became of every file, and is distrusted when it is read."""

import json

import pytest

from image_trees import encoded, write_tree
from regraft.config.train_config import TrainConfig
from regraft.data.ledger import Ledger, LedgerEntry
from regraft.data.scan import scan
from regraft.errors import ImageError, InputError, RunError
from regraft.splits.split import split_by_config

LEDGER = Ledger(
    [
        LedgerEntry("rose/ä.jpg", "used"),
        LedgerEntry("rose/2.jpg", "refused", "truncated", "it ends after 10 bytes"),
        LedgerEntry("readme.txt", "passed over", "not an image", "text"),
    ]
)


def test_a_ledger_comes_back_as_it_was(tmp_path):
    LEDGER.write(tmp_path / "ledger.json")
    assert list(Ledger.read(tmp_path / "ledger.json").entries) == list(LEDGER.entries)


def test_the_file_has_a_version_counts_and_no_empty_fields(tmp_path):
    LEDGER.write(tmp_path / "ledger.json")
    content = json.loads((tmp_path / "ledger.json").read_text("utf-8"))
    assert content["schema_version"] == 1
    assert content["counts"] == {"used": 1, "refused": 1, "passed over": 1}
    assert content["files"][0] == {"path": "rose/ä.jpg", "status": "used"}


def test_refusing_changes_used_files_only():
    errors = {name: ImageError("corrupt", "why") for name in ("rose/ä.jpg", "readme.txt")}
    entries = LEDGER.with_refused(errors).entries
    assert entries[0] == LedgerEntry("rose/ä.jpg", "refused", "corrupt", "why")
    assert list(entries[1:]) == list(LEDGER.entries[1:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a ledger"),
        (b"[]", "is not a ledger"),
        (b"\xff\xfe", "is not a ledger"),
        (b'{"schema_version": 1}', "is not a ledger.*counts"),
        (b'{"schema_version": 2}', "has schema version 2; this regraft reads 1"),
        (b'{"schema_version": 1, "counts": {}, "files": [{"path": "a", "status": "lost"}]}',
         r"is not a ledger.*lost"),
        (b"[" * 100_000, "is not a ledger"),
    ],
)  # fmt: skip
def test_another_file_is_no_ledger(tmp_path, content, message):
    (tmp_path / "ledger.json").write_bytes(content)
    with pytest.raises(RunError, match=message):
        Ledger.read(tmp_path / "ledger.json")


def test_a_missing_ledger_is_named(tmp_path):
    with pytest.raises(InputError, match=r"ledger.json cannot be read"):
        Ledger.read(tmp_path / "ledger.json")


def test_a_copy_that_is_left_out_is_named_with_its_original(tmp_path):
    """The sentence about each was printed, and kept nowhere."""
    same, *others = (encoded(number) for number in range(5))
    names = ("train/a/1", "train/b/2", "train/a/3", "test/a/4", "test/b/5")
    images = (same, others[0], others[1], same, others[2])
    files = {f"{name}.png": image for name, image in zip(names, images, strict=True)}
    samples = scan(write_tree(tmp_path, files), TrainConfig())
    entries = {
        entry.path: entry for entry in split_by_config(samples, TrainConfig()).ledger().entries
    }
    assert entries["train/a/1.png"] == LedgerEntry(
        "train/a/1.png",
        "used",
        "copy",
        "left out: byte-identical to test/a/4.png, which is in the test part",
    )
    assert {entries[f"{name}.png"].kind for name in names[1:]} == {""}
