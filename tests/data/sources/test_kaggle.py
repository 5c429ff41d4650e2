"""Kaggle's datasets, through Kaggle's own client, from a local server."""

import json
import sys

import pytest

from conftest import make_photographs
from image_trees import FLOWERS
from regraft.cli.main import main
from regraft.commands.train import train
from regraft.data.sources.registry import open_source
from regraft.errors import DataError, MissingExtraError
from stand_ins import TOKEN, serve_kaggle, use_kaggle

pytest.importorskip("kagglehub")

NESTED = {f"flowers/flowers/{name}": content for name, content in FLOWERS.items()}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    with serve_kaggle(tmp_path, NESTED) as (address, asked):
        use_kaggle(monkeypatch, address, tmp_path)
        yield asked


def test_class_folders_are_found_and_the_version_is_known(asked, tmp_path):
    source = open_source("kaggle:owner/flowers")
    assert [entry.id for entry in source.entries] == sorted(FLOWERS)
    assert {entry.label for entry in source.entries} == {"rose", "tulip"}
    assert (source.kind, source.location, source.revision) == (
        "kaggle",
        "kaggle:owner/flowers",
        "3",
    )
    folder = tmp_path / "kagglehub" / "datasets" / "owner" / "flowers" / "versions" / "3"
    assert source.notes == (f"kaggle:owner/flowers, version 3, is in {folder}",)
    assert [load() for _, load in source.stream([0])] == [FLOWERS["rose/1.png"]]


def test_what_was_downloaded_is_not_downloaded_again(asked):
    open_source("kaggle:owner/flowers")
    open_source("kaggle:owner/flowers")
    assert asked == ["GetDataset", "DownloadDataset", "GetDataset"]
    open_source("kaggle:owner/flowers/versions/3")
    assert len(asked) == 3


def test_a_version_that_was_downloaded_needs_no_network(tmp_path, monkeypatch):
    with serve_kaggle(tmp_path) as (address, _):
        use_kaggle(monkeypatch, address, tmp_path)
        first = open_source("kaggle:owner/flowers")
    assert open_source("kaggle:owner/flowers/versions/3").entries == first.entries
    with pytest.raises(DataError) as caught:
        open_source("kaggle:owner/flowers")
    start = "kaggle:owner/flowers cannot be downloaded: Kaggle cannot be reached: "
    assert caught.value.message.startswith(start)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < len(start) + 120
    assert caught.value.hint == (
        "a version that was downloaded before needs no network: kaggle:owner/flowers/versions/N"
    )


# --- credentials ------------------------------------------------------------------------------


def test_without_credentials_the_hint_says_where_to_put_them(asked, capsys):
    assert main(["show", "kaggle:owner/private"]) == 2
    assert capsys.readouterr().err == (
        "error: kaggle:owner/private: Kaggle refuses it (403): it is private or asks for consent, "
        "or the credentials are missing or wrong\n"
        "hint: put a token of https://www.kaggle.com/settings into KAGGLE_API_TOKEN or "
        "~/.kaggle/access_token; accept the dataset's terms on its page\n"
    )


@pytest.mark.parametrize("where", ["variable", "file", "older file"])
def test_credentials_are_found_where_kaggle_says(where, asked, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    if where == "variable":
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    elif where == "file":
        (home / ".kaggle" / "access_token").write_text(TOKEN, encoding="utf-8")
    else:
        known = json.dumps({"username": "someone", "key": TOKEN})
        (home / "kaggle.json").write_text(known, encoding="utf-8")  # of KAGGLE_CONFIG_DIR
    assert len(open_source("kaggle:owner/private").entries) == len(FLOWERS)


@pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")
def test_a_run_records_the_version_and_not_the_token(tmp_path, monkeypatch, capfd):
    images = make_photographs(tmp_path / "images", a_class=8)
    files = {
        path.relative_to(images).as_posix(): path.read_bytes() for path in images.rglob("*.png")
    }
    with serve_kaggle(tmp_path, files) as (address, _):
        use_kaggle(monkeypatch, address, tmp_path)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        run = train(
            "kaggle:owner/private", out=tmp_path / "run", model="timm/test_resnet", weights="none",
            image_size=32, taps="last", test_fraction=0.4, workers=1,
        )  # fmt: skip
    recorded = run.metrics["data"]
    assert (recorded["source"], recorded["revision"]) == ("kaggle:owner/private", "3")
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 8
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in "".join(capfd.readouterr())


# --- what cannot be used ----------------------------------------------------------------------


def test_a_dataset_that_kaggle_does_not_have_is_an_error(asked):
    with pytest.raises(DataError) as caught:
        open_source("kaggle:owner/nothing")
    assert str(caught.value) == (
        "kaggle:owner/nothing: Kaggle has no such dataset or version\n"
        "hint: kaggle:OWNER/NAME, as in https://www.kaggle.com/datasets/OWNER/NAME"
    )


@pytest.mark.parametrize("name", ["flowers", "", "../flowers", "a/b/c", "a/b/versions/x", "a/../b"])
def test_what_is_not_a_name_is_an_error_before_any_request(name, asked):
    with pytest.raises(DataError, match="is not the name of a dataset of Kaggle"):
        open_source(f"kaggle:{name}")
    assert asked == []


def test_a_damaged_archive_is_an_error(tmp_path, monkeypatch):
    with serve_kaggle(tmp_path, damaged=True) as (address, _):
        use_kaggle(monkeypatch, address, tmp_path)
        with pytest.raises(DataError) as caught:
            open_source("kaggle:owner/flowers")
    assert caught.value.message == (
        "kaggle:owner/flowers cannot be downloaded: Unsupported archive type."
    )
    assert caught.value.hint == "download it from its page, and give the folder or the zip"


def test_without_the_extra_its_name_is_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MissingExtraError) as caught:
        open_source("kaggle:owner/flowers")
    assert str(caught.value) == (
        "reading kaggle:owner/flowers needs kagglehub\nhint: pip install 'regraft[kaggle]'"
    )


def test_results_alone_go_to_stdout(asked, tmp_path, monkeypatch, capsys):
    """Kaggle's client logs to stdout."""
    monkeypatch.chdir(tmp_path)
    assert main(["show", "kaggle:owner/flowers", "--out", str(tmp_path / "a.png")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("kaggle:owner/flowers: 4 images of 2 classes" + "\n")
