"""``regraft drift``: what it counts, says, writes and refuses."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from pictures import read
from regraft.bundle.predictor import Predictor
from regraft.cli.main import main
from regraft.commands.drift import drift
from regraft.decision.answers import Answers
from regraft.decision.drift import compare_shares, compare_typicality
from regraft.errors import ConfigError, DataError, RunError
from regraft.plots import grid
from tiny_bundles import CLASSES, some_decisions, tiny_model, write_tiny


def encoded(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (36, 36, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [encoded(seed) for seed in range(8)]


def with_scores(scores):
    """Decisions whose training had these scores."""
    decisions = some_decisions()
    typicality = dataclasses.replace(
        decisions.typicality, scores=np.sort(np.asarray(scores, np.float32))
    )
    return dataclasses.replace(decisions, typicality=typicality)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """To the bank of random numbers, which all these images are far from, all are unknown."""
    return write_tiny(tmp_path_factory.mktemp("bundle") / "b", decisions=some_decisions())


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A bundle whose training had images as strange as these: none is unknown."""
    folder = tmp_path_factory.mktemp("usual") / "b"
    return write_tiny(folder, decisions=with_scores(np.full(120, 1e30)))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    for number, data in enumerate(IMAGES):
        (folder / "a" / f"{number}.png").write_bytes(data)
    return folder


def test_images_that_are_unlike_are_told_and_fail_where_asked(bundle, photos, capsys):
    words = ["drift", str(bundle), str(photos)]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:4] == [
        "8 images, 8 of them counted: copies, and images of a group, count once",
        "typicality: p 0.0001 (small: less typical than the training images)",
        "called unknown: 1.000 (95 %: 0.676 to 1.000), 0.01 aimed at",
        "shares of the predicted classes: not compared: 0 units with a p-value above 0.01",
    ]
    assert [line.split()[0] for line in out[4:]] == ["predicted", *CLASSES]
    assert main([*words, "--fail-on", "0.001"]) == 1


def test_images_of_the_trainings_kind_do_not_fail(usual, photos, capsys):
    assert main(["drift", str(usual), str(photos), "--fail-on", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert found["typicality"]["p_value"] > 0.99
    assert found["typicality"]["unknown"]["share"]["value"] == 0
    assert found["shares"]["n"] == 8


def test_figures_are_those_of_the_predictions(usual, photos):
    found = drift(usual, str(photos))
    predictor = Predictor.load(usual)
    answers = predictor.predict_many(IMAGES)
    p_values = np.array([answer.typicality for answer in answers])
    assert found["typicality"]["p_value"] == compare_typicality(p_values, 120)
    new = np.array([CLASSES.index(answer.label) for answer in answers])
    known = predictor.decisions.answers.answered
    assert found["shares"]["classes"] == [
        {"class": name, "training": (known == k).mean(), "found": (new == k).mean(),
         "n": (new == k).sum()}
        for k, name in enumerate(CLASSES)
    ]  # fmt: skip
    assert found["shares"]["p_value"] == compare_shares(new, known, 3).p_value


def test_copies_and_groups_count_once(usual, photos):
    (photos / "b").mkdir()
    for copy in range(9):
        (photos / "b" / f"burst7_{copy}.png").write_bytes(encoded(100 + copy))
        (photos / "b" / f"copy{copy}.png").write_bytes(IMAGES[0])
    assert drift(usual, str(photos))["data"] == {
        "source": str(photos), "images": 26, "units": 17, "refused": [],
    }  # fmt: skip
    assert drift(usual, str(photos), group_by=r"(burst\d+)_")["data"]["units"] == 9


def test_which_image_stands_for_a_group_does_not_depend_on_names(usual, tmp_path):
    figures = []
    for first, last in (IMAGES[:2], IMAGES[1::-1]):
        folder = tmp_path / str(len(figures))
        folder.mkdir()
        named = {"pair_1": first, "pair_2": last, **dict(zip("abcdef", IMAGES[2:], strict=True))}
        for name, data in named.items():
            (folder / f"{name}.png").write_bytes(data)
        found = drift(usual, str(folder), group_by="(pair)_")
        assert found["data"]["units"] == 7
        figures.append((found["typicality"], found["shares"]))
    assert figures[0] == figures[1]


def test_a_table_and_a_picture_are_written(bundle, photos, tmp_path):
    (photos / "a" / "broken.png").write_bytes(IMAGES[0][:50])
    (photos / "a" / "copy.png").write_bytes(IMAGES[3])
    out = tmp_path / "new" / "out"
    found = drift(bundle, [str(photos)], out=out, max_refused=0.1)
    assert {path.name for path in out.iterdir()} == {"drift.csv", "drift.png"}
    with (out / "drift.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"].rpartition("/")[2]: row for row in csv.DictReader(file)}
    assert len(rows) == 10
    assert rows["broken.png"]["error"] == found["data"]["refused"][0]["error"]
    assert rows["broken.png"]["typicality"] == ""
    assert rows["copy.png"]["unit"] == rows["3.png"]["unit"]
    assert len({row["unit"] for row in rows.values()} - {""}) == 8
    answer = Predictor.load(bundle).predict(IMAGES[5])
    five = rows["5.png"]
    assert float(five["typicality"]) == answer.typicality
    assert (five["unknown"], five["predicted"], five["error"]) == ("true", answer.label, "")
    assert read(out / "drift.png").shape[1] > 900
    first = found.summary().splitlines()[0]
    assert first.startswith(f"not read: 1 of 10 images: {photos}/a/broken.png (")


def test_too_many_images_that_cannot_be_read_are_an_error(usual, photos, tmp_path, capsys):
    """A camera that writes broken files must not look like one that is as before."""
    for number in range(4):
        (photos / "a" / f"broken{number}.png").write_bytes(IMAGES[0][:50])
    words = ["drift", str(usual), str(photos), "--fail-on", "0.01"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: 4 of 12 images are refused, more than 5%\n" in err
    assert f"  {photos}/a/broken0.png: " in err
    assert err.endswith(
        "hint: repair or remove these files; --max-refused 0.34 goes on without them\n"
    )
    assert main([*words, "--max-refused", "0.34"]) == 0
    assert capsys.readouterr().out.startswith(f"not read: 4 of 12 images: {photos}/a/broken0.png (")
    with pytest.raises(DataError, match=r"^1 of 1 images is refused, more than 99%"):
        drift(usual, str(photos / "a" / "broken1.png"), max_refused=0.99)


@pytest.mark.parametrize(("n", "title"), [
    (40, "25 of 40 images, the least typical first; 40 are called unknown"),
    (8, "8 images, the least typical first; 8 are called unknown"),
])  # fmt: skip
def test_the_picture_says_how_many_it_shows_and_which_are_unknown(
    n, title, bundle, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(grid, "draw_grid", lambda _, items, title: drawn.append((items, title)))
    (tmp_path / "in").mkdir()
    for number in range(n):
        (tmp_path / "in" / f"{number}.png").write_bytes(encoded(number))
    drift(bundle, str(tmp_path / "in"), out=tmp_path / "out")
    ((items, written),) = drawn
    assert written == title
    assert all(item.true.startswith("unknown, p 0.0") for item in items)
    assert len(items) == min(n, 25)


def test_table_and_picture_of_an_earlier_day_are_replaced_where_that_is_asked_for(
    bundle, photos, tmp_path, capsys
):
    words = ["drift", str(bundle), str(photos), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    (tmp_path / "out" / "drift.csv").write_text("earlier", encoding="utf-8")
    assert main([*words, "--overwrite"]) == 0
    assert (tmp_path / "out" / "drift.csv").read_text(encoding="utf-8").startswith("id,unit,")


def test_files_that_are_there_are_left_alone(bundle, photos, tmp_path, capsys):
    (tmp_path / "drift.png").write_text("mine", encoding="utf-8")
    assert main(["drift", str(bundle), str(photos / "a"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'drift.png'} exists; it is left alone\n"
        "hint: --out names another folder; --overwrite replaces table and picture\n"
    )
    with pytest.raises(RunError, match="would be in"):
        drift(bundle, str(photos), out=photos / "out")


def test_a_level_of_its_own(usual, photos):
    found = drift(usual, str(photos), unknown_level=0.2)
    assert found["typicality"]["unknown"]["level"] == 0.2
    with pytest.raises(ConfigError, match=r"unknown_level is 0\.001: of images"):
        drift(usual, str(photos), unknown_level=0.001)


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, photos, bundle, capsys):
    (tmp_path / "empty").mkdir()
    old = write_tiny(tmp_path / "old")
    without = write_tiny(tmp_path / "without", decisions=some_decisions(""))
    few = write_tiny(tmp_path / "few", decisions=with_scores(np.arange(18)))
    cannot = "drift needs a bundle that tells how unlike an image is, and this does not"
    for run, data, message in (
        (old, photos, cannot),
        (without, photos, cannot),
        (
            few,
            photos,
            "drift needs 19 images of the training that do not depend on each other, there are 18",
        ),
        (
            bundle,
            photos / "a" / "0.png",
            "drift needs 5 images that do not depend on each other, there is 1",
        ),
        (bundle, tmp_path / "empty", f"there are no images in {tmp_path / 'empty'}"),
    ):
        assert main(["drift", str(run), str(data)]) == 2
        assert f"error: {message}\n" in capsys.readouterr().err
    assert main(["drift", str(bundle)]) == 2
    assert capsys.readouterr().err == (
        "error: regraft drift needs PATHS\nhint: regraft drift --help\n"
    )
    assert main(["drift", str(bundle), str(photos), "--fail-on", "0"]) == 2


def test_few_images_of_the_training_bear_no_level_and_are_still_compared(tmp_path, photos):
    bundle = write_tiny(tmp_path / "b", decisions=with_scores(np.arange(30)))
    found = drift(bundle, str(photos))
    assert found["typicality"]["unknown"] is None
    assert found["typicality"]["p_value"] < 0.01
    assert "called unknown" not in found.summary()


def test_a_notebook_shows_the_figures(usual, photos):
    html = drift(usual, str(photos))._repr_html_()
    assert "typicality" in html
    assert "8 images, 8 of them counted" in html


def test_without_answers_shares_are_not_compared(tmp_path, photos):
    decisions = with_scores(np.full(120, 1e30))
    none = Answers.of(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    bundle = write_tiny(tmp_path / "b", tiny_model(), dataclasses.replace(decisions, answers=none))
    found = drift(bundle, str(photos))
    assert found["shares"]["p_value"] is None
    assert "shares of the predicted classes: not compared: 8 units" in found.summary()
