"""What holds for every kind of source, and how a kind is chosen."""

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

from image_trees import FLOWERS, encoded, pixels, write_tar, write_tree, write_zip
from regraft.config.train_config import TrainConfig
from regraft.data.samples import Entry, Source
from regraft.data.scan import scan
from regraft.data.sources.registry import SOURCES, SourceKind, SourceOptions, open_source
from regraft.data.sources.stream import read_each
from regraft.errors import DataError
from stand_ins import Repository, serve_hub, serve_kaggle, table, use_hub, use_kaggle


def make_table(root):
    write_tree(root, FLOWERS)
    rows = "".join(f"{name},{name.split('/')[0]}\n" for name in FLOWERS)
    (root / "flowers.csv").write_text(f"path,label\n{rows}", "utf-8")
    return root / "flowers.csv"


MAKERS = {
    "folder": lambda root: write_tree(root / "flowers", FLOWERS),
    "zip": lambda root: write_zip(root / "flowers.zip", FLOWERS),
    "tar": lambda root: write_tar(root / "flowers.tgz", FLOWERS, "w:gz"),
    "table": make_table,
    "named": lambda _: "digits",
    "kaggle": lambda _: "kaggle:owner/flowers",
    "hf": lambda _: "hf:owner/flowers",
    "arrays": lambda _: ([pixels(n, height=4 + n) for n in range(4)], ["a", "b", "a", "b"]),
}


def test_every_kind_is_tested_here():
    assert list(MAKERS) == list(SOURCES)


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


@pytest.fixture
def data(kind, tmp_path, monkeypatch):
    """Data of this kind; where they come from a server, there is one."""
    with ExitStack() as stack:
        if kind == "kaggle":
            address, _ = stack.enter_context(serve_kaggle(tmp_path))
            use_kaggle(monkeypatch, address, tmp_path)
        if kind == "hf":
            images = table(list(FLOWERS.values()), ["rose", "rose", "tulip", "tulip"], rows=3)
            repository = Repository({"main": {"train.parquet": images}})
            address = stack.enter_context(serve_hub({"owner/flowers": repository}))
            use_hub(monkeypatch, address, tmp_path)
            monkeypatch.setattr("regraft.data.sources.hub.default_data_root", lambda: tmp_path)
        yield MAKERS[kind](tmp_path)


def test_it_is_known_by_its_kind(data, kind):
    source = open_source(data)
    assert source.kind == kind
    assert isinstance(source.location, str)


def test_ids_are_unique_and_normal(data):
    names = [entry.id for entry in open_source(data).entries]
    assert len(set(names)) == len(names) > 0
    assert all(unicodedata.is_normalized("NFC", name) and "\\" not in name for name in names)


def test_some_classes_and_some_images_can_be_used_alone(data):
    """The bytes are those of the images that are used, wherever they stand in the source."""
    source = open_source(data)
    label = source.entries[-1].label
    some = open_source(data, SourceOptions(exclude=(label,), at_most="2/class"))
    assert [entry.label for entry in some.entries].count(label) == 0
    assert 2 <= len(some.entries) < len(source.entries)
    everything = {source.entries[index].id: load() for index, load in
                  source.stream(range(len(source.entries)))}  # fmt: skip
    for index, load in some.stream(range(len(some.entries))):
        np.testing.assert_array_equal(load(), everything[some.entries[index].id])


def test_it_is_the_same_each_time(data):
    first, second = open_source(data), open_source(data)
    assert first.entries == second.entries
    assert list(first.refused) == list(second.refused)


def test_loads_may_be_called_later_and_in_any_thread(data):
    source = open_source(data)
    wanted = list(range(0, len(source.entries), 2))
    stream = list(source.stream(wanted))
    assert [index for index, _ in stream] == wanted
    stream.reverse()
    with ThreadPoolExecutor(4) as pool:
        payloads = dict(pool.map(lambda pair: (pair[0], pair[1]()), stream))
    for index, load in source.stream(wanted):
        again = load()
        assert type(again) is type(payloads[index])
        assert np.array_equal(again, payloads[index])


def test_samples_stream_what_was_hashed(data):
    samples = scan(data, TrainConfig(workers=2))
    assert len(samples) == len(samples.source.entries)
    indices = range(1, len(samples), 3)
    assert [index for index, _ in samples.stream(indices)] == list(indices)
    assert samples.classes == tuple(sorted(samples.classes))


def test_path_objects_and_text_are_the_same(tmp_path):
    folder = write_tree(tmp_path, FLOWERS)
    assert open_source(folder).entries == open_source(str(folder)).entries


def test_containers_give_the_same_ids(tmp_path):
    wrapped = {f"flowers/{name}": content for name, content in FLOWERS.items()}
    ids = [
        sorted(entry.id for entry in open_source(data).entries)
        for data in (
            write_tree(tmp_path / "tree", wrapped),
            tmp_path / "tree" / "flowers",
            write_zip(tmp_path / "a.zip", wrapped),
            write_tar(tmp_path / "a.tar", wrapped),
        )
    ]
    assert ids == [sorted(FLOWERS)] * 4


# --- which kind it is ------------------------------------------------------------------------


def test_a_path_wins_over_a_name_and_it_is_noted(tmp_path, monkeypatch):
    write_tree(tmp_path / "mnist", FLOWERS)
    monkeypatch.chdir(tmp_path)
    source = open_source("mnist")
    assert source.kind == "folder"
    assert source.notes == ("mnist is read as a path here, not as the dataset of that name",)


def test_an_unknown_name_lists_its_nearest_matches():
    with pytest.raises(DataError) as caught:
        open_source("cifar-10")
    assert caught.value.message == (
        "cifar-10 does not exist, and no dataset has that name; did you mean cifar10 or cifar100?"
    )
    assert caught.value.hint == (
        "give a folder of class folders, a .zip of class folders, a .tar(.gz, .bz2, .xz) of class "
        "folders, a .csv or .parquet table with the columns path and label, the name of a dataset "
        "(regraft datasets lists them), kaggle:OWNER/NAME, hf:OWNER/NAME or in Python (images, "
        "labels)"
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "what"),
    [("photo.JPG", "is one image"), ("photo", "is one image"), ("no.jpeg", "does not exist")],
)
def test_one_image_is_no_labelled_data(name, what, tmp_path):
    if what == "is one image":
        (tmp_path / name).write_bytes(encoded(1))
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / name)
    assert str(caught.value) == (
        f"{tmp_path / name} {what}; labelled images are a folder with one folder of images for "
        "each class\nhint: Predictor.predict in Python, and regraft predict RUN PHOTO, take one "
        "image"
    )


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("notes", "utf-8")
    with pytest.raises(DataError, match=r"notes\.txt is not a kind of data that can be used"):
        open_source(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "an empty path does not exist"),
        ("a\0b", r"'a\\x00b' cannot be opened|a\\x00b does not exist"),
        ("x" * 5000, "'x{200}' cannot be opened: |^x{200} does not exist"),
        (["images", "labels"], "data of type list cannot be used"),
        (None, "data of type NoneType cannot be used"),
    ],
)
def test_what_is_no_path_is_an_error_like_others(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(write_tree(tmp_path, FLOWERS))  # "" must not mean the working directory
    with pytest.raises(DataError, match=message):
        open_source(data)


def test_options_may_be_left_out():
    assert open_source("digits").entries == open_source("digits", SourceOptions()).entries


def test_a_new_source_is_one_function_and_one_entry(monkeypatch):
    def open_noise(data, options):
        if isinstance(data, tuple) or not str(data).startswith("noise:"):
            return None
        seeds = range(int(data.removeprefix("noise:")))
        entries = [Entry(f"seed/{seed}", "even" if seed % 2 == 0 else "odd") for seed in seeds]
        return Source("noise", data, entries, partial(read_each, pixels, seeds))

    monkeypatch.setitem(SOURCES, "noise", SourceKind(open_noise, "noise:COUNT"))
    samples = scan("noise:6", TrainConfig(workers=1))
    assert samples.classes == ("even", "odd")
    assert all(np.array_equal(load(), pixels(n)) for n, load in samples.stream(range(6)))
    with pytest.raises(DataError) as caught:
        open_source("sound:6")
    assert caught.value.hint.endswith(" or noise:COUNT")
