"""``predict --keep-unknown``: which images are copied, under which names, beside what is there."""

import csv
import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import read
from regraft.cli.main import main
from regraft.commands import keep_unknown
from regraft.commands.predict import predict
from regraft.core.reporter import Reporter
from regraft.errors import RunError
from regraft.plots import alike
from tiny_bundles import some_decisions, tiny_model, write_tiny


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


NOISE = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8))
    for seed in range(3)
]
#: To the tiny network, whose bank is of random numbers, every picture is unknown.
PICTURES = {
    "a/one.png": encoded(NOISE[0]),
    "a/copy.dat.png": encoded(NOISE[0]),
    "b/two.jpg": encoded(NOISE[1], "JPEG"),
    "b/named wrongly.jpg": encoded(NOISE[2], "BMP"),
}

FEW = "of images that do not depend on each other, a level of 0.01 needs 99, there are 20"


class Heard(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("bundle") / "b", decisions=some_decisions())


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as target:
        for name, data in PICTURES.items():
            target.writestr(name, data)
        target.writestr("a/broken.png", PICTURES["a/one.png"][:40])
    return str(tmp_path / "new.zip")


def named(data, suffix, letters=16):
    return hashlib.sha256(data).hexdigest()[:letters] + suffix


def rows_of(folder):
    with (folder / "unknown.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def keep(bundle, paths, folder, **given):
    heard = Heard()
    found = list(predict(bundle, paths, keep_unknown=folder, reporter=heard, **given))
    return found, heard.lines


def test_unknown_images_are_copied_once_by_their_bytes(bundle, archive, tmp_path):
    folder = tmp_path / "kept" / "here"
    found, lines = keep(bundle, [archive], folder)
    assert {answer.id for answer in found if answer.unknown} == {
        f"{archive}/{name}" for name in PICTURES
    }
    assert {answer.pooled is None for answer in found} == {True}
    one, two = named(PICTURES["a/one.png"], ".png"), named(PICTURES["b/two.jpg"], ".jpg")
    three = named(PICTURES["b/named wrongly.jpg"], ".bmp")
    copies = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert copies.keys() == {one, two, three, "unknown.csv", "unknown.png"}
    assert copies[one] == PICTURES["a/one.png"]
    assert copies[three] == PICTURES["b/named wrongly.jpg"]
    rows = rows_of(folder)
    assert {row["id"]: row["name"] for row in rows} == {
        f"{archive}/a/one.png": one,
        f"{archive}/a/copy.dat.png": one,
        f"{archive}/b/two.jpg": two,
        f"{archive}/b/named wrongly.jpg": three,
    }
    answers = {answer.id: answer for answer in found}
    assert all(float(row["typicality"]) == answers[row["id"]].typicality for row in rows)
    assert all(row["predicted"] == answers[row["id"]].label for row in rows)
    numbers = [row["cluster"] for row in rows]
    assert numbers == sorted(numbers, key=lambda number: number or "~")  # like no other: last
    of = {row["id"]: row["cluster"] for row in rows}
    assert of[f"{archive}/a/one.png"] == of[f"{archive}/a/copy.dat.png"]
    assert lines[-1].endswith(f": {folder / 'unknown.png'}, {folder / 'unknown.csv'}")
    assert lines[-1].startswith("4 unknown images, 4 of them in 1 cluster: ")
    assert read(folder / "unknown.png").shape[1] > 1000


def test_an_image_that_is_not_unknown_is_not_copied(tmp_path):
    everything = some_decisions()
    scores = np.full_like(everything.typicality.scores, 1e30)  # no image is as far as this
    typicality = dataclasses.replace(everything.typicality, scores=scores)
    decisions = dataclasses.replace(everything, typicality=typicality)
    bundle = write_tiny(tmp_path / "b", decisions=decisions)
    (tmp_path / "a.png").write_bytes(PICTURES["a/one.png"])
    found, lines = keep(bundle, [str(tmp_path / "a.png")], tmp_path / "kept")
    assert found[0].unknown is False
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["unknown.csv"]
    assert rows_of(tmp_path / "kept") == []
    assert lines[-1] == f"no image is unknown; {tmp_path / 'kept' / 'unknown.csv'} has no row"


def test_other_files_stay_and_equal_ones_are_kept(bundle, archive, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    one, two = PICTURES["a/one.png"], PICTURES["b/two.jpg"]
    (folder / named(one, ".png")).write_bytes(one)
    before = (folder / named(one, ".png")).stat()
    (folder / named(two, ".jpg")).write_bytes(b"something else")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    keep(bundle, [archive], folder)
    after = (folder / named(one, ".png")).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (folder / named(two, ".jpg")).read_bytes() == b"something else"
    assert (folder / named(two, ".jpg", 64)).read_bytes() == two
    assert named(two, ".jpg", 64) in {row["name"] for row in rows_of(folder)}
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_table_that_is_there_is_replaced_only_when_that_is_asked_for(
    bundle, archive, tmp_path, capsys
):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "unknown.csv").write_text("mine", encoding="utf-8")
    words = ["predict", str(bundle), archive, "--keep-unknown", str(folder)]
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"error: {folder / 'unknown.csv'} exists; it is left alone\n"
        "hint: --keep-unknown names another folder; --overwrite replaces table and picture\n"
    )
    assert (folder / "unknown.csv").read_text(encoding="utf-8") == "mine"
    assert main([*words, "--overwrite"]) == 1  # one image is broken
    assert len(rows_of(folder)) == 4


def test_a_folder_within_the_data_is_refused(bundle, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(PICTURES["a/one.png"])
    folder = tmp_path / "kept"
    assert main(["predict", str(bundle), str(tmp_path), "--keep-unknown", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"error: {folder} would be in {tmp_path}: what is kept there would be asked about again\n"
        "hint: --keep-unknown names another folder\n"
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    ("decisions", "level", "message", "hint"),
    [
        (
            None,
            None,
            "keep_unknown needs a bundle that tells how unlike an image is, and this does not",
            "train again: bundles of this version do",
        ),
        (
            some_decisions(""),
            None,
            "keep_unknown needs a bundle that tells how unlike an image is, and this does not",
            "train again: bundles of this version do",
        ),
        (
            some_decisions(),
            20,
            f"keep_unknown needs a level: no image is called unknown: {FEW}",
            "--unknown-level names a higher one",
        ),
    ],
)
def test_a_bundle_that_calls_nothing_unknown_is_refused(
    decisions, level, message, hint, tmp_path, capsys
):
    if level is not None:
        few = dataclasses.replace(decisions.typicality, scores=decisions.typicality.scores[:level])
        decisions = dataclasses.replace(decisions, typicality=few)
    bundle = write_tiny(tmp_path / "b", tiny_model(), decisions)
    (tmp_path / "a.png").write_bytes(PICTURES["a/one.png"])
    words = ["predict", str(bundle), str(tmp_path / "a.png")]
    assert main([*words, "--keep-unknown", str(tmp_path / "kept")]) == 2
    assert f"error: {message}\nhint: {hint}\n" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_of_two_calls_into_one_folder_one_writes_the_table(bundle, tmp_path):
    folder, heard = tmp_path / "kept", Heard()
    for name in ("one", "two"):
        (tmp_path / f"{name}.png").write_bytes(PICTURES["a/one.png"])
    slow = predict(bundle, [str(tmp_path / "one.png")] * 40, keep_unknown=folder, reporter=heard)
    next(slow)
    keep(bundle, [str(tmp_path / "two.png")], folder)
    before = (folder / "unknown.csv").read_bytes()
    with pytest.raises(RunError) as refused:
        list(slow)
    assert refused.value.message == f"{folder / 'unknown.csv'} exists; it is left alone"
    assert (folder / "unknown.csv").read_bytes() == before
    assert b"two.png" in before
    assert not [line for line in heard.lines if "cluster" in line]
    keep(bundle, [str(tmp_path / "one.png")], folder, overwrite=True)
    assert [row["id"] for row in rows_of(folder)] == [str(tmp_path / "one.png")]


@pytest.mark.parametrize("pattern", ["**/*.png", "ph*"])
def test_what_is_kept_is_not_asked_about_by_a_pattern(bundle, tmp_path, monkeypatch, pattern):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(PICTURES["a/one.png"])
    monkeypatch.chdir(tmp_path)
    folder = Path("photos", "kept")
    for overwrite in (False, True):
        found, lines = keep(bundle, [pattern], folder, overwrite=overwrite)
        assert [answer.id for answer in found] == ["photos/a.png"]
        assert len(rows_of(folder)) == 1
    assert f"2 files left out: they are in {folder}" in lines


def test_a_picture_of_an_earlier_call_does_not_stay_beside_another_table(bundle, tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURES["a/one.png"])
    (tmp_path / "broken.png").write_bytes(PICTURES["a/one.png"][:40])
    folder = tmp_path / "kept"
    keep(bundle, [str(tmp_path / "a.png")], folder)
    assert (folder / "unknown.png").exists()
    _, lines = keep(bundle, [str(tmp_path / "broken.png")], folder, overwrite=True)
    assert lines[-1] == f"no image is unknown; {folder / 'unknown.csv'} has no row"
    assert {path.name for path in folder.iterdir()} == {
        "unknown.csv", named(PICTURES["a/one.png"], ".png"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ([0] * 9 + [1, 1, 2], "12 unknown images, 11 of them in 2 clusters"),
        ([0, 1, 2], "3 unknown images, none of them like another"),
        ([0], "1 unknown image, none of them like another"),
    ],
)
def test_sentence_table_and_picture_count_the_same_clusters(
    groups, found, bundle, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(keep_unknown, "group_alike", lambda *_: np.array(groups))
    monkeypatch.setattr(alike, "draw_rows", lambda _, rows, title: drawn.append((rows, title)))
    (tmp_path / "in").mkdir()
    for k in range(len(groups)):
        pixels = np.random.default_rng(k).integers(0, 256, (36, 36, 3), np.uint8)
        (tmp_path / "in" / f"{k:02}.png").write_bytes(encoded(Image.fromarray(pixels)))
    _, lines = keep(bundle, [str(tmp_path / "in")], tmp_path / "kept")
    assert lines[-1].startswith(f"{found}: ")
    in_table = [row["cluster"] for row in rows_of(tmp_path / "kept")]
    sizes = np.bincount(groups)
    assert in_table == [str(k + 1) if sizes[k] > 1 else "" for k in groups]
    ((rows, title),) = drawn
    assert title.startswith(f"{len(groups)} image")
    assert len(rows) == (sizes > 1).sum() + (1 in sizes)
    if len(groups) == 12:
        assert rows[0].line.startswith("cluster 1: 9 images (8 shown), ")
        assert rows[2].line == "like no other: 1 image"
        assert rows[2].names == ["11.png"]
        assert len(rows[0].images) == len(rows[0].names) == 8


@pytest.mark.parametrize("name", ["unknown.csv", "unknown.png"])
def test_a_folder_that_has_the_name_of_a_file_is_refused_before_the_work(name, tmp_path, capsys):
    folder = tmp_path / "kept"
    (folder / name).mkdir(parents=True)
    words = ["predict", str(tmp_path / "no-run"), "a.png", "--keep-unknown", str(folder)]
    for overwrite in ([], ["--overwrite"]):
        assert main([*words, *overwrite]) == 2
        assert capsys.readouterr().err == (
            f"error: {folder / name} exists; it is left alone\n"
            "hint: --keep-unknown names another folder\n"
        )


@pytest.mark.parametrize(("command", "flag"), [("predict", "--keep-unknown"), ("drift", "--out")])
def test_the_path_of_a_folder_is_neither_empty_nor_a_file(command, flag, tmp_path, capsys):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for given, message in (
        ("", "the path of a folder is empty"),
        (str(tmp_path / "file"), f"{tmp_path / 'file'} is no folder"),
    ):
        assert main([command, str(tmp_path / "no-run"), "a.png", flag, given]) == 2
        hint = f"hint: {flag} names another folder\n"
        assert capsys.readouterr().err == f"error: {message}\n{hint}"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["predict", "no-run", "a.png", "--keep-unknown", "x/y"], "no-run"),
        (["predict", "bundle", "none.png", "--keep-unknown", "x/y"], "none.png"),
        (["predict", "bundle", "a.png", "--keep-unknown", "x/y", "--unknown-level", "0.001"],
         "needs 999"),
        (["predict", "no-run", "a.png", "--csv", "x/y/z.csv"], "no-run"),
        (["predict", "bundle", "none.png", "--csv", "x/y/z.csv"], "none.png"),
        (["drift", "no-run", "a.png", "--out", "x/y"], "no-run"),
        (["drift", "bundle", "none.png", "--out", "x/y"], "none.png"),
        (["drift", "bundle", "a.png", "--out", "x/y"], "drift needs 5 images"),
    ],
)  # fmt: skip
def test_no_empty_folder_is_left_where_the_work_cannot_be_done(
    bundle, tmp_path, monkeypatch, capsys, words, what
):
    (tmp_path / "a.png").write_bytes(PICTURES["a/one.png"])
    monkeypatch.chdir(tmp_path)
    assert main([str(bundle) if word == "bundle" else word for word in words]) == 2
    assert what in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    (tmp_path / "x").mkdir()
    assert main([str(bundle) if word == "bundle" else word for word in words]) == 2
    assert [path.name for path in (tmp_path / "x").iterdir()] == []  # what was there stays
