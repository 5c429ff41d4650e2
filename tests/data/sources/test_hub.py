"""Datasets of the Hugging Face hub, by the hub's own client, from a local server."""

import sys
import zipfile
from io import BytesIO

import pyarrow as pa
import pytest

from image_trees import FLOWERS
from regraft.cli.main import main
from regraft.data.ledger import LedgerEntry
from regraft.data.sources import hub
from regraft.data.sources.registry import SourceOptions, open_source
from regraft.errors import DataError, MissingExtraError
from stand_ins import STRUCT, TOKEN, Repository, parquet, serve_hub, structs, table, use_hub

IMAGES = list(FLOWERS.values())
CLASSES = ["rose", "tulip"]
TRAIN = table(IMAGES, [0, 0, 1, 1], CLASSES)
TEST = table(IMAGES[:2], [0, 1], CLASSES)
NAME = "hf:owner/flowers"
CONVERTED = "refs/convert/parquet"


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Open a repository of these files, at the only revision or at several."""

    def open_it(files, name=NAME, refusal=None, trees=9):
        revisions = files if "main" in files else {"main": files}
        repository = Repository(revisions, refusal, trees)
        with serve_hub({"owner/flowers": repository}) as address:
            use_hub(monkeypatch, address, tmp_path)
            return open_source(name, SourceOptions(tmp_path))

    return open_it


def zipped():
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in FLOWERS.items():
            archive.writestr(name, content)
    return target.getvalue()


def refused(opened, *arguments, **more):
    with pytest.raises(DataError) as caught:
        opened(*arguments, **more)
    return caught.value


# --- Parquet ----------------------------------------------------------------------------------


def test_bytes_classes_and_parts_are_those_of_the_files(opened, tmp_path):
    files = {
        "README.md": b"",
        "data/train-00000-of-00001.parquet": TRAIN,
        "data/test-00000-of-00001-5ab.parquet": TEST,
    }
    source = opened(files)
    assert [(entry.id, entry.label, entry.part) for entry in source.entries] == [
        ("test/0", "rose", "test"), ("test/1", "tulip", "test"),
        ("train/0", "rose", "train"), ("train/1", "rose", "train"),
        ("train/2", "tulip", "train"), ("train/3", "tulip", "train"),
    ]  # fmt: skip
    assert [load() for _, load in source.stream(range(6))] == [*IMAGES[:2], *IMAGES]
    commit = Repository({"main": files}).commit()
    assert (source.kind, source.location, source.revision) == ("hf", NAME, commit)
    folder = tmp_path / "hf" / "owner" / "flowers" / commit
    assert source.notes == (f"{NAME}, commit {commit}, is in {folder}",)
    assert not (folder / "README.md").exists()  # nothing but images is downloaded


def test_shards_of_a_split_are_numbered_through(opened):
    shards = {f"data/train-0000{n}-of-00002.parquet": table(IMAGES[:3], [0, 1, 0], CLASSES)
              for n in range(2)}  # fmt: skip
    source = opened(shards)
    assert [entry.id for entry in source.entries] == [f"train/{n}" for n in range(6)]
    assert {entry.part for entry in source.entries} == {None}
    assert source.notes[1] == "train is the only split, so it is split like any other data"
    wanted = [1, 2, 4]
    assert [load() for _, load in source.stream(wanted)] == [IMAGES[n % 3] for n in wanted]


def test_a_row_without_a_class_is_in_the_ledger(opened):
    source = opened({"train.parquet": table(IMAGES, [0, -1, 1, None], CLASSES)})
    assert [entry.id for entry in source.entries] == ["train/0", "train/2"]
    assert list(source.refused) == [
        LedgerEntry(f"train/{n}", "refused", "no label", "its row has no class") for n in (1, 3)
    ]


def test_a_split_without_any_class_is_left_out_and_noted(opened):
    """Competitions keep the classes of their test images: the others are split."""
    unknown = table(IMAGES, [-1] * 4, CLASSES)
    source = opened({"train.parquet": TRAIN, "test.parquet": unknown})
    assert not source.refused
    assert {entry.part for entry in source.entries} == {None}
    assert "test is left out: none of its 4 rows has a class" in source.notes
    three = {"train.parquet": TRAIN, "validation.parquet": TRAIN, "test.parquet": unknown}
    assert {entry.part for entry in opened({"main": three}).entries} == {"train", "val"}


def test_splits_that_are_no_parts_are_left_out_and_noted(opened):
    files = {f"{name}.parquet": TRAIN for name in ("train", "validation", "extra")}
    source = opened(files)
    assert {entry.part for entry in source.entries} == {"train", "val"}
    assert source.notes[1] == "extra: left out, since not called like a part"
    error = refused(opened, {"main": {"one.parquet": TRAIN, "two.parquet": TRAIN}}, f"{NAME}@main")
    assert error.message == f"{NAME}@main has the splits one, two, none of them called like a part"


SUBSETS = {"small/train-00000-of-00001.parquet": TEST, "large/train/0000.parquet": TRAIN}


def downloaded(folder):
    return sorted(path.parent.relative_to(folder).parts[4] for path in folder.rglob("*.parquet"))


def test_of_several_subsets_one_is_chosen_before_any_is_downloaded(opened, tmp_path):
    error = refused(opened, SUBSETS)
    assert error.message == f"{NAME} has several subsets: large, small"
    assert error.hint == "hf:OWNER/NAME/SUBSET chooses one"
    error = refused(opened, SUBSETS, f"{NAME}/huge")
    assert error.message == f"{NAME}/huge has no subset huge: large, small"
    assert not downloaded(tmp_path)
    assert len(opened(SUBSETS, f"{NAME}/large").entries) == 4
    assert downloaded(tmp_path) == ["large"]
    assert len(opened(SUBSETS, f"{NAME}/small").entries) == 2
    assert downloaded(tmp_path) == ["large", "small"]


def test_another_subset_of_a_commit_that_is_there_is_downloaded(opened, tmp_path):
    commit = opened(SUBSETS, f"{NAME}/large").revision
    options = SourceOptions(tmp_path)
    assert len(open_source(f"{NAME}/large@{commit}", options).entries) == 4  # without the server
    with pytest.raises(DataError, match="has several subsets: large, small"):
        open_source(f"{NAME}@{commit}", options)
    with pytest.raises(DataError, match="cannot be downloaded: ") as caught:
        open_source(f"{NAME}/small@{commit}", options)
    assert caught.value.hint == "check the network, or download it elsewhere and give the folder"
    with pytest.raises(DataError, match="cannot be downloaded: ") as caught:
        open_source(f"{NAME}/large", options)
    hint = f"what was downloaded before needs no network: {NAME}/large@{commit}"
    assert caught.value.hint == hint
    assert len(opened(SUBSETS, f"{NAME}/small@{commit}").entries) == 2
    assert len(open_source(f"{NAME}/small@{commit}", options).entries) == 2
    assert len(open_source(f"{NAME}/large@{commit}", options).entries) == 4


def test_files_of_another_subset_are_not_taken_for_a_download(opened, tmp_path):
    """The client accepts a folder that is there, if the server fails in between."""
    commit = Repository({"main": SUBSETS}).commit()
    large = tmp_path / "hf" / "owner" / "flowers" / commit / "large" / "train" / "0000.parquet"
    large.parent.mkdir(parents=True)
    large.write_bytes(TRAIN)
    error = refused(opened, SUBSETS, f"{NAME}/small", trees=1)
    shard = "small/train-00000-of-00001.parquet"
    assert error.message == f"{NAME}/small cannot be downloaded: {shard} did not arrive"


def test_the_subset_called_default_is_taken_where_none_is_given(opened, tmp_path):
    source = opened({"data/train.parquet": TRAIN, "en/fr/train.parquet": TEST})
    assert len(source.entries) == 4
    assert source.notes[1] == "subset default; hf:OWNER/NAME/SUBSET chooses another: en/fr"
    assert downloaded(tmp_path) == ["data"]
    files = {"data/train.parquet": TRAIN, "en/fr/train.parquet": TEST}
    assert len(opened(files, f"{NAME}/en/fr").entries) == 2


def test_splits_that_are_left_out_are_not_downloaded(opened, tmp_path):
    opened({"train/0000.parquet": TRAIN, "test/0000.parquet": TEST, "extra/0000.parquet": TRAIN})
    assert downloaded(tmp_path) == ["test", "train"]
    two = {"one/0000.parquet": TRAIN, "two/0000.parquet": TRAIN}
    assert "has the splits one, two" in refused(opened, {"main": two}, f"{NAME}@main").message
    assert downloaded(tmp_path) == ["test", "train"]


def test_only_tables_have_subsets(opened, tmp_path):
    error = refused(opened, FLOWERS, f"{NAME}/small")
    first = min(FLOWERS)
    assert error.message == (
        f"{NAME}/small: only Parquet files have subsets and columns, and it holds {first}"
    )
    assert not list(tmp_path.rglob("*.png"))


def test_of_a_conversion_only_the_chosen_subset_must_be_whole(opened):
    converted = {"one/partial-train/0000.parquet": TRAIN, "two/train/0000.parquet": TRAIN}
    files = {"main": {}, CONVERTED: converted}
    assert len(opened(files, f"{NAME}/two").entries) == 4
    error = refused(opened, files, f"{NAME}/one")
    assert error.message == f"{NAME}/one: the hub has converted only the first gigabytes of it"


def test_of_several_columns_one_is_chosen(opened):
    named = {"_type": "ClassLabel", "names": CLASSES}
    columns = {"image": structs(IMAGES), "fine": [0, 0, 1, 1], "coarse": [0, 0, 0, 1]}
    made = parquet(columns, {"image": {"_type": "Image"}, "fine": named, "coarse": named})
    files = {"train.parquet": made}
    error = refused(opened, files)
    assert error.message == f"{NAME} has 2 columns that may be the label: fine, coarse"
    assert error.hint == "hf:OWNER/NAME#COLUMN chooses one"
    labels = [entry.label for entry in opened(files, f"{NAME}#coarse").entries]
    assert labels == ["rose", "rose", "rose", "tulip"]
    assert "no column other: fine, coarse" in refused(opened, files, f"{NAME}#other").message


def test_numbers_and_text_are_classes_too(opened):
    numbers = opened({"main": {"train.parquet": table(IMAGES, [7, 7, 9, 9])}})
    assert [entry.label for entry in numbers.entries] == ["7", "7", "9", "9"]


def test_yes_and_no_are_classes_too(opened):
    source = opened({"main": {"train.parquet": table(IMAGES, [True, False, True, None])}})
    assert [entry.label for entry in source.entries] == ["true", "false", "true"]


def test_text_is_a_class(opened):
    words = opened({"train.parquet": table(IMAGES, ["a", " b ", "", None])})
    assert [entry.label for entry in words.entries] == ["a", "b"]


def test_a_damaged_table_is_an_error(opened):
    error = refused(opened, {"train.parquet": TRAIN[:-9]})
    assert error.message.startswith(f"{NAME}: ")
    assert "train.parquet cannot be read: " in error.message


def test_a_table_without_images_is_an_error(opened):
    error = refused(opened, {"train.parquet": parquet({"text": ["a"], "label": [0]}, {})})
    assert error.message == f"{NAME} has 0 columns of images, and one is needed: text, label"


def test_a_path_instead_of_bytes_is_not_followed(opened, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(IMAGES[0])
    rows = [{"bytes": None, "path": str(secret)}, {"bytes": IMAGES[1], "path": None}]
    made = parquet({"image": pa.array(rows, STRUCT), "label": ["a", "b"]}, {})
    source = opened({"train.parquet": made})
    loads = dict(source.stream([0, 1]))
    assert loads[1]() == IMAGES[1]
    with pytest.raises(Exception, match="missing: its row holds no bytes"):
        loads[0]()


# --- other files ------------------------------------------------------------------------------


def test_image_files_are_opened_as_a_folder(opened):
    files = {f"train/{name}": content for name, content in FLOWERS.items()}
    files |= {"test/rose/9.png": IMAGES[0], "notes.txt": b"", ".hidden/1.png": b""}
    source = opened(files)
    assert {entry.part for entry in source.entries} == {"train", "test"}
    assert len(source.entries) == 5
    assert (source.kind, source.location) == ("hf", NAME)


def test_a_single_archive_is_opened_as_it_is(opened):
    source = opened({"data/flowers.zip": zipped()})
    assert [entry.id for entry in source.entries] == sorted(FLOWERS)


@pytest.mark.parametrize("name", ["logo.png", "samples/rose/1.png"])
def test_a_picture_beside_an_archive_does_not_hide_it(name, opened):
    source = opened({name: IMAGES[0], "flowers.zip": zipped()})
    assert [entry.id for entry in source.entries] == sorted(FLOWERS)
    note = f"{name}: left out, since flowers.zip has more bytes"
    assert note in source.notes
    again = opened({}, f"{NAME}@{source.revision}")  # no request to the server
    assert again.notes == (source.notes[0].replace(NAME, f"{NAME}@{source.revision}"), note)


def test_a_small_archive_beside_images_does_not_hide_them(opened):
    source = opened({**FLOWERS, "scripts.zip": b"PK"})
    assert [entry.id for entry in source.entries] == sorted(FLOWERS)
    assert "scripts.zip: left out, since the images have more bytes" in source.notes


def test_a_picture_beside_several_archives_is_not_the_data(opened):
    """The purpose of each is not known; the hub's own conversion has the images."""
    files = {"README.png": IMAGES[0], "train.zip": zipped(), "test.zip": zipped()}
    assert (
        len(opened({"main": files, CONVERTED: {"default/train/0000.parquet": TRAIN}}).entries) == 4
    )
    error = refused(opened, files)
    assert error.message == (
        f"{NAME} holds several archives, and it is not known what each is for: test.zip, train.zip"
    )
    assert error.hint == "download it from its page, and give a folder of class folders"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["1.png", "train/2.png", "test/3.png"],
            "holds 1 image and no class folders, so the labels are unknown",
        ),
        (["images/1.png", "images/2.png"], "holds one folder of images only: images"),
    ],
)
def test_images_without_class_folders_are_not_downloaded(names, message, opened, tmp_path):
    """The hub's conversion has the classes that a table beside the images names."""
    images = dict(zip(names, IMAGES, strict=False))
    converted = {"default/train/0000.parquet": TRAIN}
    assert len(opened({"main": images, CONVERTED: converted}).entries) == 4
    assert message in refused(opened, images).message
    assert not list(tmp_path.rglob("*.png"))


def test_of_other_formats_the_hubs_own_conversion_is_read(opened):
    converted = {"default/train/0000.parquet": TRAIN, "default/test/0000.parquet": TEST}
    files = {"main": {"images.jsonl": b"{}"}, CONVERTED: converted}
    source = opened(files)
    assert source.revision == Repository(files).commit(CONVERTED)
    assert len(source.entries) == 6
    partial = {"default/partial-train/0000.parquet": TRAIN}
    error = refused(opened, {"main": {}, CONVERTED: partial})
    assert error.message == f"{NAME}: the hub has converted only the first gigabytes of it"


def test_a_repository_without_images_is_an_error(opened):
    error = refused(opened, {"README.md": b"", "a.csv": b""})
    assert error.message == (
        f"{NAME} holds no Parquet files, no images and no archive, and the hub has not converted it"
    )


def test_names_that_lead_out_are_passed_over(opened, tmp_path):
    opened({"train.parquet": TRAIN, "../../../../evil.parquet": TRAIN, "/evil.parquet": TRAIN})
    assert not list(tmp_path.rglob("evil.parquet"))


# --- the network ------------------------------------------------------------------------------


def test_a_commit_that_was_downloaded_needs_no_network(opened, tmp_path):
    first = opened({"train.parquet": TRAIN})
    again = open_source(f"{NAME}@{first.revision}", SourceOptions(tmp_path))
    assert again.entries == first.entries
    with pytest.raises(DataError) as caught:
        open_source(NAME, SourceOptions(tmp_path))
    assert caught.value.message.startswith(f"{NAME} cannot be downloaded: ")
    assert caught.value.hint == (
        f"what was downloaded before needs no network: {NAME}@{first.revision}"
    )


def test_without_network_and_download_there_is_an_error(opened, tmp_path):
    opened({"train.parquet": TRAIN})  # so that the client asks a server that has stopped
    with pytest.raises(DataError) as caught:
        open_source("hf:owner/other", SourceOptions(tmp_path))
    assert caught.value.message.startswith("hf:owner/other cannot be downloaded: ")
    assert caught.value.hint == "check the network, or download it elsewhere and give the folder"


def test_half_a_download_is_not_taken_for_a_whole(opened):
    files = {"train.parquet": TRAIN, "test.parquet": None}
    assert "cannot be downloaded: " in refused(opened, files).message
    assert len(opened({**files, "test.parquet": TEST}).entries) == 6


@pytest.mark.parametrize("name", ["choose_files", "_asked_files", "patterns"])
def test_a_mistake_of_our_own_is_not_called_a_failed_download(opened, monkeypatch, name):
    def mistaken(*_):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(hub, name, mistaken)
    with pytest.raises(RuntimeError, match="a mistake"):
        opened({"train.parquet": TRAIN})


def test_an_answer_that_is_not_the_hubs_is_a_failed_download(opened, monkeypatch):
    monkeypatch.setattr("stand_ins.json.dumps", lambda *_, **__: "<html>log in first</html>")
    error = refused(opened, {"train.parquet": TRAIN})
    assert error.message.startswith(f"{NAME} cannot be downloaded: ")


@pytest.mark.parametrize(
    ("refusal", "message", "hint"),
    [
        (
            "GatedRepo",
            f"{NAME} is only for those who have agreed to its terms",
            (
                "agree on https://huggingface.co/datasets/owner/flowers, and log in with "
                "`hf auth login`, or put a token into HF_TOKEN"
            ),
        ),
        (
            "RepoNotFound",
            f"{NAME}: the hub has no such dataset, or it is private",
            (
                "hf:OWNER/NAME, as in https://huggingface.co/datasets/owner/flowers; if it is "
                "private, log in with `hf auth login`, or put a token into HF_TOKEN"
            ),
        ),
    ],
)
def test_without_a_token_the_hint_says_where_to_put_one(refusal, message, hint, opened):
    error = refused(opened, {"train.parquet": TRAIN}, refusal=refusal)
    assert (error.message, error.hint) == (message, hint)


def test_a_token_is_found_where_the_hub_says(tmp_path, monkeypatch, capfd):
    repository = Repository({"main": {"train.parquet": TRAIN}}, "RepoNotFound")
    with serve_hub({"owner/flowers": repository}) as address:
        use_hub(monkeypatch, address, tmp_path)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        out = tmp_path / "a.png"
        assert main(["show", NAME, "--data-root", str(tmp_path / "data"), "--out", str(out)]) == 0
    assert TOKEN not in "".join(capfd.readouterr())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_a_revision_that_is_not_there_is_named(opened):
    error = refused(opened, {"train.parquet": TRAIN}, f"{NAME}@v2")
    assert error.message == f"{NAME}@v2: there is no revision v2"


@pytest.mark.parametrize("name", ["flowers", "", "../flowers", "a/b/", "/a/b", "a/../b"])
def test_what_is_not_a_name_is_an_error(name, tmp_path):
    with pytest.raises(DataError, match="is not the name of a dataset of the hub"):
        open_source(f"hf:{name}", SourceOptions(tmp_path))


def test_without_the_extra_its_name_is_shown(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError) as caught:
        open_source(NAME, SourceOptions(tmp_path))
    assert str(caught.value) == f"reading {NAME} needs pyarrow\nhint: pip install 'regraft[hf]'"
