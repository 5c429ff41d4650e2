"""Decisions through the commands: fitted by a training, told by predict, measured by evaluate."""

import csv
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from regraft.bundle.predictor import Predictor
from regraft.cli.main import main
from regraft.commands.train import train
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import Reporter
from regraft.decision.costs import names_note
from regraft.plots import decisions as plotted
from regraft.runs.summary import describe_decisions

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

#: Of each class; eights and sevens are rare.
COUNTS = {"1": 80, "3": 80, "7": 30, "8": 30}
TINY = {
    "model": "timm/test_resnet", "weights": "none", "image_size": "32", "taps": "last",
    "precision": "float32", "workers": 1, "cache": False, "test_fraction": 0.3,
}  # fmt: skip
#: A mistake about an eight is dear, and no answer costs something.
COSTS = {
    "1": [0, 1, 1, 1, 0.4],
    "3": [1, 0, 1, 1, 0.4],
    "7": [1, 1, 0, 1, 0.4],
    "8": [5, 5, 5, 0, 0.4],
}
PRIVACY = "who has it can ask whether an image was in the training"


class Lines(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def enlarged(image):
    return Image.fromarray(np.kron(image * 15, np.ones((3, 3))).astype(np.uint8))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root, digits = tmp_path_factory.mktemp("data") / "photos", load_digits()
    for name, n in COUNTS.items():
        (root / name).mkdir(parents=True)
        for k in np.flatnonzero(digits.target == int(name))[:n]:
            enlarged(digits.images[k]).save(root / name / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def printed():
    return Lines()


@pytest.fixture(scope="module")
def run(images, printed, tmp_path_factory):
    config = TrainConfig(coverage=0.98, min_precision=0.95, **TINY)
    return train(images, config, printed, out=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def costly(images, tmp_path_factory):
    """A run without a bank, on classes of equal weight, with costs; and what it printed."""
    lines, folder = Lines(), tmp_path_factory.mktemp("costly")
    rows = [["true", *COUNTS, "abstain"], *([name, *row] for name, row in COSTS.items())]
    text = "\n".join(",".join(map(str, row)) for row in rows)
    (folder / "costs.csv").write_text(text, encoding="utf-8")
    config = TrainConfig(bank=False, class_weight="balanced", costs=folder / "costs.csv", **TINY)
    return train(images, config, lines, out=folder / "run"), lines.lines


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def of_class(folder, part):
    """Count the images of each class in a part."""
    split = rows_of(folder / "split.csv")
    return Counter(row["id"].split("/")[0] for row in split if row["part"] == part)


def predicted(folder, run, images, *words):
    """Return the table of predictions of the test images, and their true classes."""
    split = rows_of(run.folder / "split.csv")
    tested = [images / row["id"] for row in split if row["part"] == "test"]
    code = main(["predict", str(run.folder), *map(str, tested), "--csv", str(folder / "p.csv"),
                 "--workers", "1", *words])  # fmt: skip
    assert code == 0
    return rows_of(folder / "p.csv"), [path.parent.name for path in tested]


def shares(rows, truths):
    """Count by hand what a run measures."""
    sets = [json.loads(row["set"]) for row in rows]
    given = [(row, truth) for row, truth in zip(rows, truths, strict=True)
             if row["unknown"] == "false" and row["abstained"] == "false"]  # fmt: skip
    return {
        "coverage": np.mean([truth in found for found, truth in zip(sets, truths, strict=True)]),
        "size": np.mean([len(found) for found in sets]),
        "unknown": np.mean([row["unknown"] == "true" for row in rows]),
        "answered": len(given) / len(rows),
        "precision": np.mean([row["decision"] == truth for row, truth in given]),
    }


def measured_shares(decisions):
    sets, answers = decisions["sets"], decisions["answers"]
    return {
        "coverage": sets["coverage"]["value"],
        "size": sets["size"]["value"],
        "unknown": decisions["unknown"]["share"]["value"],
        "answered": answers["answered"]["value"],
        "precision": answers["precision"]["value"],
    }


# --- what a training writes -------------------------------------------------------------------


def test_what_training_measured_is_what_the_bundle_decides(run, images, tmp_path):
    rows, truths = predicted(tmp_path, run, images)
    found = shares(rows, truths)
    assert measured_shares(run.metrics["decisions"]) == pytest.approx(found)
    assert found["size"] > 1
    assert found["answered"] < 1


def test_a_training_prints_what_it_measured_beside_what_was_aimed_at(run):
    text, sets = run.summary(), run.metrics["decisions"]["sets"]
    covered = sets["coverage"]["value"]
    assert f"sets of classes that hold the true one: {covered:.3f} (95 %: " in text
    assert "), 0.98 aimed at; classes in a set: " in text
    assert "called unknown: " in text
    assert ", 0.01 aimed at" in text
    assert ", 0.95 aimed at" in text


def test_the_picture_has_the_figures_of_the_run(images, tmp_path, monkeypatch):
    """Its curve begins with the surest answers, by the shares that the classes have in the data."""
    drawn = []
    monkeypatch.setattr(plotted, "write_figure", lambda figure, _: drawn.extend(figure.axes))
    config = TrainConfig(class_weight="balanced", min_precision=0.95, **TINY)
    run = train(images, config, out=tmp_path / "run")
    n = of_class(run.folder, "train")
    tested = rows_of(run.folder / "predictions.csv")
    p = np.array([[float(row[f"p({name})"]) for name in COUNTS] for row in tested])
    best, shares = p.argmax(1), p * [n[name] for name in COUNTS]
    sure = (shares / shares.sum(1, keepdims=True))[np.arange(len(p)), best]
    wrong = np.array([row["true"] != row["predicted"] for row in tested])[np.argsort(-sure)]
    curve, _, point = drawn[0].lines[1:]  # after that of the training images; _: what is aimed at
    errors = np.cumsum(wrong) / np.arange(1, len(p) + 1)
    at = np.rint(curve.get_xdata() * len(p)).astype(int) - 1  # all but equally sure answers
    assert len(at) > len(p) / 2
    assert curve.get_ydata() == pytest.approx(errors[at])
    answers = run.metrics["decisions"]["answers"]
    assert point.get_xdata() == pytest.approx([answers["answered"]["value"]])
    assert point.get_ydata() == pytest.approx([1 - answers["precision"]["value"]])


@pytest.mark.usefixtures("run")
def test_where_a_bank_is_written_one_line_says_what_that_allows(printed, costly):
    (line,) = [line for line in printed.lines if PRIVACY in line]
    assert "`bank=False` keeps a roughly rounded mean instead" in line
    assert not [line for line in costly[1] if PRIVACY in line]


def test_without_a_bank_no_row_of_a_training_image_is_in_the_bundle(run, costly):
    """Both runs have the same training images and network: the rows of the one are looked for."""
    name = "bundle/decisions.safetensors"
    rows = load_file(run.folder / name)["rows"]
    assert len(rows) == run.metrics["data"]["n"]["train"]
    with_bank, without = ((each.folder / name).read_bytes() for each in (run, costly[0]))
    assert all(row.tobytes() in with_bank for row in rows)
    assert not any(row.tobytes() in without for row in rows)
    files = (costly[0].folder / "bundle").rglob("*")
    for file in (file for file in files if file.is_file()):
        assert rows[0].tobytes() not in file.read_bytes()


def test_few_images_are_told_by_sentences_and_not_by_errors(tmp_path):
    lines, rng = Lines(), np.random.default_rng(0)
    pixels = [rng.integers(0, 100, (8, 8), np.uint8) + 100 * (k % 2) for k in range(24)]
    data = ([image.astype(np.uint8) for image in pixels], ["dark", "light"] * 12)
    few = train(data, TrainConfig(min_precision=0.99, **TINY), lines, out=tmp_path / "run")
    n = few.metrics["data"]["n"]["train"]
    (level,) = [line for line in lines.lines if "level" in line]
    assert level == (
        "no image is called unknown: of images that do not depend on each other, a level of 0.01 "
        f"needs 99, there are {n}"
    )
    (promise,) = [line for line in lines.lines if "promised" in line]
    reason = "no precision is promised, so nothing is answered: 0.99 needs 299 right answers and "
    assert promise.startswith(reason)
    assert few.metrics["decisions"]["answers"]["answered"]["value"] == 0
    answer = Predictor.load(few.folder).predict(data[0][0])
    assert (answer.unknown, answer.abstained, answer.decision) == (None, True, "abstain")


def test_four_images_make_a_run_that_says_what_they_are_too_few_for(tmp_path):
    """Of three or fewer to train, no fold can answer for any."""
    lines, images = Lines(), [np.full((8, 8), 60 * k, np.uint8) for k in range(4)]
    run = train((images, list("abab")), TrainConfig(**TINY), lines, out=tmp_path / "run")
    n = run.metrics["data"]["n"]["train"]
    nothing = "no image is called unknown: nothing tells how unlike an image is here"
    assert {line for line in lines.lines if "answers" in line or "unlike" in line} == {
        "a coverage of 0.95 cannot be aimed at with 0 answers: each set has all classes",
        f"{nothing}: that needs 12 images, there are {n}",
    }
    answer = Predictor.load(run.folder).predict(images[0])
    assert (answer.typicality, answer.unknown, set(answer.set)) == (None, None, {"a", "b"})
    with Image.open(run.folder / "decisions.png") as picture:
        assert min(picture.size) > 200


# --- costs ------------------------------------------------------------------------------------


def test_costs_are_weighed_with_the_shares_of_the_data_and_not_of_equal_classes(
    costly, images, tmp_path
):
    """Where classes count the same in the fit, a probability p(k) stands for p(k) n(k) there."""
    run, _ = costly
    parts, table = of_class(run.folder, "train"), np.array(list(COSTS.values()))
    n = np.array([parts[name] for name in COUNTS])
    rows, truths = predicted(tmp_path, run, images)
    answers, naive, paid = [*COUNTS, "abstain"], 0, []
    probabilities = {
        row["id"]: np.array([float(row[f"p({name})"]) for name in COUNTS])
        for row in rows_of(run.folder / "predictions.csv")
    }
    for row, truth in zip(rows, truths, strict=True):
        p = probabilities[f"{truth}/{Path(row['id']).name}"]
        costs = p * n @ table
        near = np.sort(costs)
        if near[1] - near[0] > 1e-4 * n.sum() and row["unknown"] == "false":
            assert row["decision"] == answers[costs.argmin()]
            naive += answers[(p @ table).argmin()] != row["decision"]
        decision = "abstain" if row["unknown"] == "true" else row["decision"]
        paid.append(table[[*COUNTS].index(truth), answers.index(decision)])
    assert naive > 0
    measured = run.metrics["decisions"]["costs"]
    assert measured["expected"]["value"] == pytest.approx(np.mean(paid))


def test_a_table_of_other_classes_ends_a_training_after_the_scan(images, tmp_path, capsys):
    path = tmp_path / "costs.csv"
    path.write_text("true,1,3,7,nine\n", encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{name},0,1,1,1\n" for name in COUNTS)
    out = tmp_path / "run"
    assert main(["train", str(images), "--out", str(out), "--costs", str(path), "--no-cache"]) == 2
    printed = capsys.readouterr().err
    assert f"error: costs: {path} has a column for 'nine', which is no class\n" in printed
    assert "extract" not in printed
    assert not out.exists()


def test_what_replaces_a_promise_or_costs_of_the_training_is_said(
    run, costly, images, tmp_path, capsys
):
    path = tmp_path / "costs.csv"
    rows = [["true", *COUNTS, "abstain"], *([name, *row] for name, row in COSTS.items())]
    path.write_text("\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")
    image = str(next((images / "1").iterdir()))
    ended = "costs decide: the precision of 0.95 that the training promised is not used\n"
    assert main(["predict", str(run.folder), image, "--costs", str(path)]) == 0
    assert capsys.readouterr().err == ended
    assert main(["evaluate", str(run.folder), str(images), "--costs", str(path)]) == 0
    assert ended in capsys.readouterr().err
    assert main(["predict", str(costly[0].folder), image, "--min-precision", "0.6"]) == 0
    assert capsys.readouterr().err == (
        "a promised precision decides: the costs of the training are not used\n"
    )


def test_a_class_with_the_name_of_a_decision_is_said_by_the_training(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    for name in ("abstain", "rose", "unknown"):
        (folder / name).mkdir(parents=True)
        for k in range(8):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    lines = Lines()
    train(folder, TrainConfig(**TINY), lines, out=tmp_path / "run")
    assert names_note(["abstain", "unknown"])[0] in lines.lines


# --- levels that cannot be had ----------------------------------------------------------------


def test_a_level_that_the_images_cannot_bear_ends_a_training_before_features_are_read(
    images, tmp_path, capsys
):
    words = ["--out", str(tmp_path / "run"), "--no-cache", "--test-fraction", "0.3"]
    assert main(["train", str(images), *words, "--unknown-level", "0.001"]) == 2
    printed = capsys.readouterr().err
    assert printed.endswith(
        "error: unknown_level is 0.001: that needs 999 images of the training part that do not "
        "depend on each other, there are 145\nhint: 0.007 or more can be had\n"
    )
    assert "extract" not in printed


def test_with_rounds_the_images_of_the_smallest_one_must_bear_the_level(images, tmp_path, capsys):
    """All 220 images can: a level of 0.005 needs 199."""
    words = ["--out", str(tmp_path / "run"), "--no-cache", "--folds", "5"]
    assert main(["train", str(images), *words, "--unknown-level", "0.005"]) == 2
    printed = capsys.readouterr().err
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: unknown_level is 0.005: that needs 199 images of the training part of each round "
        "that do not depend on each other, there are 176"
    )
    assert printed.endswith("\nhint: 0.006 or more can be had\n")
    assert "extract" not in printed


def test_a_level_that_is_not_borne_once_copies_are_found_is_none_and_a_note_says_so(tmp_path):
    """Near copies: 50 pictures, 40 of them twice, of which one is two grey levels brighter."""
    random, lines = np.random.default_rng(0), Lines()
    blocks = random.integers(0, 250, (50, 8, 8, 3))
    pictures = blocks.repeat(9, 1).repeat(9, 2).astype(np.uint8)
    data = [*pictures, *(pictures[:40] + 2)], [*"ab" * 25, *"ab" * 20]
    config = TrainConfig(unknown_level=0.016, **TINY | {"test_fraction": 0.2})
    run = train(data, config, lines, out=tmp_path / "run")
    n = run.metrics["decisions"]["fitted_on"]["units"]
    assert n < 61
    assert [line for line in lines.lines if "unknown" in line] == [
        (
            "no image is called unknown: of images that do not depend on each other, a level of "
            f"0.016 needs 62, there are {n}"
        )
    ]
    assert "unknown" not in run.metrics["decisions"]
    assert "\ncalled unknown: no image, as there is no level\n" in run.summary()
    answer = Predictor.load(run.folder).predict(random.integers(0, 255, (72, 72, 3), np.uint8))
    assert (answer.unknown, answer.decision) == (None, answer.label)


def test_a_level_that_a_bundle_cannot_bear_is_an_error_of_predict(run, images, capsys):
    image = next((images / "1").iterdir())
    assert main(["predict", str(run.folder), str(image), "--unknown-level", "0.001"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(
        "error: unknown_level is 0.001: of images that do not depend on each other, a level of "
        "0.001 needs 999, there are 145\nhint: 0.007 or more can be had\n"
    )
    assert main(["predict", str(run.folder), str(image), "--unknown-level", "0.007"]) == 0


# --- predict and evaluate ---------------------------------------------------------------------


def test_an_image_unlike_all_others_fits_no_class(run, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    words = ["predict", str(run.folder), str(tmp_path / "noise.png")]
    assert main(words) == 0
    line = capsys.readouterr().out
    assert "; fits no class: unlike the training images, p 0.00" in line
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema_version"] == 1
    assert (told["unknown"], told["decision"]) == (True, "unknown")
    assert told["typicality"] == pytest.approx(1 / 146)  # no image of 145 is as unlike
    assert told["label"] in told["set"]


def test_evaluate_measures_and_prints_what_the_training_did(run, images, capsys):
    assert main(["evaluate", str(run.folder), str(images), "--no-cache"]) == 0
    out, err = capsys.readouterr()
    found, own = json.loads(out)["decisions"], dict(run.metrics["decisions"])
    del own["fitted_on"]  # what the training had, and not what is measured here
    assert found == own
    lines = describe_decisions(found)
    assert len(lines) == 3
    assert set(lines) <= set(err.splitlines())
    assert set(lines) <= set(run.summary().splitlines())


def test_evaluate_measures_other_levels_where_they_are_given(run, images, capsys):
    words = ["evaluate", str(run.folder), str(images), "--no-cache", "--coverage", "0.6"]
    assert main([*words, "--unknown-level", "0.2", "--coverage-by", "class"]) == 0
    found, own = json.loads(capsys.readouterr().out)["decisions"], run.metrics["decisions"]
    assert (found["sets"]["aimed_at"], found["sets"]["by"]) == (0.6, "class")
    assert found["sets"]["size"]["value"] < own["sets"]["size"]["value"]
    assert found["unknown"]["level"] == 0.2
    assert found["unknown"]["share"]["value"] > own["unknown"]["share"]["value"]


@pytest.mark.parametrize("name", ["predict", "evaluate"])
def test_none_switches_the_promise_of_the_training_off(run, images, name, capsys):
    what = images if name == "evaluate" else next((images / "1").iterdir())
    words = [name, str(run.folder), str(what), "--min-precision"]
    words += ["none", "--no-cache"] if name == "evaluate" else ["none", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert ("answers" not in told["decisions"]) if name == "evaluate" else told["abstained"] is None


# --- earlier bundles, rounds, fine-tuning -----------------------------------------------------


@pytest.fixture
def earlier(tmp_path):
    """A bundle of version 2, by commit 900496f: it keeps nothing to decide by."""
    with zipfile.ZipFile(Path(__file__).parents[1] / "bundle/written-by-900496f.zip") as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


def test_an_earlier_bundle_answers_with_empty_fields(earlier, tmp_path, capsys):
    words = ["predict", str(earlier), str(earlier / "golden" / "wide.jpg")]
    assert main([*words, "--json", "--csv", str(tmp_path / "p.csv")]) == 0
    told = json.loads(capsys.readouterr().out)
    (row,) = rows_of(tmp_path / "p.csv")
    for name in ("typicality", "unknown", "set", "abstained"):
        assert told[name] is None
        assert row[name] == ""
    assert told["decision"] == row["decision"] == told["label"] == "cat"
    assert main(words) == 0
    assert ";" not in capsys.readouterr().out


def test_an_earlier_bundle_refuses_a_level(earlier, capsys):
    words = ["predict", str(earlier), str(earlier / "golden" / "wide.jpg"), "--coverage", "0.9"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "error: coverage needs a bundle that keeps decisions, and this has none\n"
        "hint: train again: bundles of this version keep them\n"
    )


def test_after_fine_tuning_images_that_nothing_was_fitted_on_give_the_levels(images, tmp_path):
    config = TrainConfig(strategy="finetune", epochs=1, val_fraction=0.3, batch_size=32, **TINY)
    tuned = train(images, config, out=tmp_path / "run")
    decisions = Predictor.load(tuned.folder).decisions
    validated = of_class(tuned.folder, "val")
    n = sum(validated.values())
    assert 30 < n < 60
    assert decisions.held_out
    assert len(decisions.typicality.scores) == n
    assert np.bincount(decisions.answers.labels).tolist() == [validated[name] for name in COUNTS]
