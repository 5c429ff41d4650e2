"""The main path: one run, everything that it leaves, and that nothing of it depends on chance."""

import csv
import dataclasses
import json
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from conftest import CLASSES, make_photographs, texture
from image_trees import write_tar, write_zip
from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.bundle.predictor import Predictor
from regraft.commands.evaluate import evaluate
from regraft.commands.find_rate import find_rate
from regraft.commands.predict import predict
from regraft.commands.train import train
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import Reporter
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.errors import (
    ConfigError,
    DataError,
    DiskFullError,
    InputError,
    RegraftError,
    RunError,
    SmallSampleWarning,
    StoreWarning,
)
from regraft.features.compute import Compute, has_bfloat16
from regraft.features.extract import RowExtractor, extract
from regraft.features.features import Features
from regraft.features.store.store import FeatureStore
from regraft.probe.fit import ProbeSettings, fit_probe
from regraft.probe.score import calibrated_probabilities
from regraft.runs import write as artefacts
from regraft.splits.split import split

# Sixty images are too few for results of a class, and the runs say so.
pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

FILES = {
    *("config.yaml", "metrics.json", "history.csv", "split.csv", "predictions.csv", "ledger.json"),
    *("confusion.png", "curves.png", "decisions.png", "predictions.png", "mistakes.png", "bundle"),
}
SMALL = {"image_size": "64", "batch_size": 8, "test_fraction": 0.3}
# For tests of other things than the digits: a small network, whose weights do not matter there.
QUICK = SMALL | {"taps": "last", "model": "minivgg", "weights": "none", "image_size": "32"}


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    store = tmp_path_factory.mktemp("store")
    return train(photographs, TrainConfig(out=folder, cache_dir=store, **SMALL))


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def measured(metrics):
    """What must not differ between two runs that only differ in how they were computed."""
    return {key: metrics[key] for key in ("test", "baselines", "head", "backbone", "data")}


class Recorder(Reporter):
    def __init__(self):
        self.lines, self.tasks = [], []

    def say(self, line):
        self.lines.append(line)

    def track(self, label, total):
        self.tasks.append(label)
        return super().track(label, total)


def test_a_run_leaves_every_file_of_the_design(run):
    assert {path.name for path in run.folder.iterdir()} == FILES
    assert not list(run.folder.parent.glob(".*"))
    for name in ("confusion.png", "curves.png", "predictions.png", "mistakes.png"):
        with Image.open(run.folder / name) as picture:
            assert min(picture.size) > 40  # of no mistakes, a line that says so


def test_metrics_have_what_scripts_read(run):
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == run.metrics
    test = metrics["test"]
    assert test["accuracy"]["low"] <= test["accuracy"]["value"] <= test["accuracy"]["high"]
    assert {"value", "low", "high"} <= set(test["macro_f1"])
    assert test["n"] == metrics["data"]["n"]["test"] > 0
    assert {"log_loss", "ece", "brier", "per_class", "confusion"} <= set(test)
    assert {"majority", "knn"} <= set(metrics["baselines"]) <= {"majority", "knn", "last_stage"}
    assert {"scan", "extract", "fit", "evaluate", "total"} <= set(metrics["seconds"])
    assert metrics["schema_version"] == 1


def test_it_learns_something(run):
    """Textures that a pretrained network distinguishes: far above the third that guessing has."""
    assert run.metrics["test"]["accuracy"]["value"] > 0.7
    assert run.metrics["test"]["log_loss"]["value"] < 1.0


def test_predictions_and_metrics_agree(run):
    predictions = rows(run.folder / "predictions.csv")
    right = sum(row["true"] == row["predicted"] for row in predictions)
    assert right / len(predictions) == run.metrics["test"]["accuracy"]["value"]
    losses = [-np.log(max(float(row[f"p({row['true']})"]), 1e-6)) for row in predictions]
    assert abs(np.mean(losses) - run.metrics["test"]["log_loss"]["value"]) < 1e-3
    tested = {row["id"] for row in rows(run.folder / "split.csv") if row["part"] == "test"}
    assert tested == {row["id"] for row in predictions}


def test_the_bundle_answers_as_training_did(run, photographs):
    """Same machine, precision and bytes: labels equal, probabilities within 1e-4."""
    predictor = Predictor.load(run.folder)
    for row in rows(run.folder / "predictions.csv")[:12]:
        answer = predictor.predict(photographs / row["id"])
        assert answer.label == row["predicted"]
        assert abs(answer.probability - float(row["probability"])) < 1e-4


def test_a_second_run_and_one_without_the_store_give_the_same_digits(run, photographs, tmp_path):
    config = TrainConfig(cache_dir=tmp_path / "store", **SMALL)
    first = train(photographs, config.replace(out=tmp_path / "a"))
    second = train(photographs, config.replace(out=tmp_path / "b"))
    without = train(photographs, config.replace(out=tmp_path / "c", cache=False))
    assert first.metrics["features"] == without.metrics["features"]
    assert first.metrics["features"] == {"extracted": 60, "reused": 0}
    assert second.metrics["features"] == {"extracted": 0, "reused": 60}
    assert measured(first.metrics) == measured(second.metrics) == measured(without.metrics)
    assert measured(first.metrics) == measured(run.metrics)
    digits = [(tmp_path / name / "predictions.csv").read_bytes() for name in "abc"]
    assert len(set(digits)) == 1


def test_workers_change_nothing(run, photographs, tmp_path):
    more = train(photographs, TrainConfig(out=tmp_path / "run", workers=3, **SMALL))
    assert measured(more.metrics) == measured(run.metrics)


def test_evaluate_on_the_training_data_measures_the_test_part_again(run, photographs):
    again = evaluate(run.folder, photographs, batch_size=8)
    assert again["n"] == run.metrics["test"]["n"]
    assert again["accuracy"] == run.metrics["test"]["accuracy"]
    assert again["log_loss"] == run.metrics["test"]["log_loss"]
    trained = run.metrics["data"]["n"]["train"]
    left_out = f"left out, since the run was fitted on them: {trained} images"
    assert left_out in again["data"]["notes"]


def test_evaluate_matches_classes_by_name(run, tmp_path):
    other = make_photographs(tmp_path / "other", a_class=5, first=500)
    (other / "blobs").rename(tmp_path / "gone")
    result = evaluate(run.folder, other)
    assert result["n"] == 10
    assert [row["name"] for row in result["per_class"]] == list(CLASSES)
    (other / "checks").rename(other / "chequers")
    with pytest.raises(
        DataError,
        match="1 of the data's 2 classes are unknown to the run: chequers\nhint: classes are",
    ):
        evaluate(run.folder, other)


def test_one_class_is_enough_to_evaluate(run, tmp_path):
    (tmp_path / "data" / "stripes").mkdir(parents=True)
    for number in range(30, 36):
        picture = Image.fromarray(texture("stripes", number))
        picture.save(tmp_path / "data" / "stripes" / f"{number}.png")
    result = evaluate(run.folder, tmp_path / "data")
    assert result["n"] == 6
    assert [one["n"] for one in result["per_class"]] == [0, 0, 6]
    with pytest.raises(DataError, match="data holds images of one class only: stripes"):
        train(tmp_path / "data", TrainConfig(out=tmp_path / "out", **SMALL))


def test_the_order_in_an_archive_changes_no_digit(photographs, tmp_path):
    names = sorted(path.relative_to(photographs).as_posix() for path in photographs.rglob("*.png"))
    results = []
    for number, archive in enumerate(("a.zip", "b.zip", "c.tar", "d.tgz")):
        np.random.default_rng(number).shuffle(names)
        files = {name: (photographs / name).read_bytes() for name in names}
        write = write_zip if archive.endswith("zip") else write_tar
        options = {"mode": "w:gz"} if archive.endswith("tgz") else {}
        data = write(tmp_path / archive, files, **options)
        config = TrainConfig(out=tmp_path / str(number), cache=False, taps="all", **SMALL)
        metrics = measured(train(data, config).metrics)
        metrics["data"] = {k: v for k, v in metrics["data"].items() if k not in {"source", "kind"}}
        split = (tmp_path / str(number) / "split.csv").read_bytes()
        predictions = (tmp_path / str(number) / "predictions.csv").read_bytes()
        results.append((metrics, split, predictions))
    assert all(result == results[0] for result in results)


def test_evaluate_refuses_what_was_all_trained_on(run, photographs, tmp_path):
    trained = [row["id"] for row in rows(run.folder / "split.csv") if row["part"] == "train"]
    for name in trained:
        target = tmp_path / "trained" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((photographs / name).read_bytes())
    with pytest.raises(RunError, match="was fitted on every image of"):
        evaluate(run.folder, tmp_path / "trained")


def broken(file):
    """Break an image after its header, which a scan does not see."""
    content = file.read_bytes()
    file.write_bytes(content[:900] + bytes(300) + content[1200:])


def test_evaluation_loses_no_images_in_silence(run, tmp_path):
    """The rules of training: named, with --strict an error, and beyond 5 % an error always."""
    data = make_photographs(tmp_path / "data", a_class=8, first=500)
    broken(data / "blobs" / "503.png")
    recorded = Recorder()
    result = evaluate(run.folder, data, reporter=recorded)
    assert result["n"] == 23
    assert list(result["data"]["refused"]) == ["blobs/503.png"]
    assert "1 of 24 images refused (all are named among the figures):" in recorded.lines
    with pytest.raises(DataError, match=r"^blobs/503.png: [a-z]"):
        evaluate(run.folder, data, strict=True)
    broken(data / "checks" / "500.png")
    message = r"2 of 24 images are refused, more than 5%\n  blobs/503.png: .*\n  checks/500.png: "
    with pytest.raises(DataError, match=message):
        evaluate(run.folder, data)


def test_losses_are_counted_among_what_is_measured(run, photographs, tmp_path):
    """Thirteen images are measured; that forty more were trained on makes one lost no less."""
    for file in photographs.rglob("*.png"):
        target = tmp_path / "data" / file.relative_to(photographs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    test = [row["id"] for row in rows(run.folder / "split.csv") if row["part"] == "test"]
    broken(tmp_path / "data" / test[0])
    with pytest.raises(DataError, match=rf"1 of {len(test)} images is refused, more than 5%"):
        evaluate(run.folder, tmp_path / "data")


def test_a_wrong_device_is_reported_before_the_images_are_read(run, photographs, tmp_path):
    recorded = Recorder()
    for task in (
        lambda: train(photographs, TrainConfig(device="cuda:99", out=tmp_path / "a"), recorded),
        lambda: evaluate(run.folder, photographs, device="cuda:99", reporter=recorded),
    ):
        with pytest.raises(
            ConfigError, match="device cuda:99 is not there\nhint: this machine has"
        ):
            task()
    assert recorded.tasks == recorded.lines == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "none.pth"}, "cannot read the weights none.pth: there is no such file"),
        ({"model": "local-dir:none"}, "local-dir:none: there is no file none/config.json"),
        ({"split": "none.csv"}, "none.csv cannot be read"),
        ({"costs": "none.csv"}, "costs: none.csv cannot be read"),
    ],
)
def test_missing_files_are_reported_before_the_images_are_read(
    photographs, tmp_path, monkeypatch, settings, message
):
    monkeypatch.chdir(tmp_path)
    recorded = Recorder()
    for command in (train, find_rate):
        with pytest.raises(RegraftError, match=f"^{message}"):
            command(photographs, TrainConfig(**settings), recorded)
    assert recorded.tasks == recorded.lines == []


class Slow(Reporter):
    """Makes a scan of 4,800 images last a minute, and counts how far it gets."""

    n_advances = 0

    @contextmanager
    def track(self, label, total):  # noqa: ARG002
        def advance(*_):
            self.n_advances += 1
            time.sleep(0.1)

        yield advance


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"taps": "layer9"}, "layer9"),
        ({"weights": "IMAGENET1K_V9"}, "has no weights named IMAGENET1K_V9"),
        ({"strategy": "finetune", "unfreeze": "layer9"}, "layer9"),
    ],
)
def test_a_network_that_cannot_be_used_ends_the_scan(tmp_path, settings, message):
    reporter = Slow()
    data = ([np.full((8, 8), n % 256, np.uint8) for n in range(4800)], ["a", "b"] * 2400)
    with pytest.raises(RegraftError, match=message):
        train(data, TrainConfig(out=tmp_path / "run", **settings), reporter)
    assert 0 < reporter.n_advances < 600  # each is of eight images
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", ["hf:owner/name", "kaggle:owner/name"])
def test_a_network_that_cannot_be_used_is_reported_before_data_are_downloaded(tmp_path, data):
    """No server is there, and none is asked: that would be the error."""
    with pytest.raises(RegraftError, match="layer9"):
        train(data, TrainConfig(out=tmp_path / "run", taps="layer9"))


def test_larger_images_can_be_asked_for(run, tmp_path):
    data = make_photographs(tmp_path / "data", a_class=2, first=500)
    (answer,) = predict(run.folder, [str(data / "blobs" / "500.png")], max_pixels=1000)
    assert answer.error.kind == "too many pixels"
    with pytest.raises(DataError, match="are refused"):
        evaluate(run.folder, data, max_pixels=1000)


def test_predict_takes_what_a_person_types(run, photographs, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    Image.fromarray(texture("stripes", 900)).save(folder / "a photograph.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    answers = list(predict(run.folder, [str(folder)], topk=2))
    assert [answer.error is None for answer in answers] == [True, False]
    assert answers[0].label == "stripes"
    assert len(answers[0].top) == 2


def test_the_split_of_an_earlier_run_is_kept(run, photographs, tmp_path):
    config = TrainConfig(seed=5, split=run.folder / "split.csv", out=tmp_path / "run", **QUICK)
    again = train(photographs, config)
    assert (again.folder / "split.csv").read_bytes() == (run.folder / "split.csv").read_bytes()


def test_refused_images_stop_nothing_and_are_named(tmp_path):
    data = make_photographs(tmp_path / "data", a_class=22)
    broken(data / "blobs" / "003.png")
    (data / "checks" / "004.png").write_text("<html>not found</html>", encoding="utf-8")
    run = train(data, TrainConfig(out=tmp_path / "run", **QUICK))
    ledger = json.loads((run.folder / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["counts"] == {"used": 64, "refused": 2, "passed over": 0}
    refused = {row["path"]: row["kind"] for row in ledger["files"] if row["status"] == "refused"}
    assert set(refused) == {"blobs/003.png", "checks/004.png"}
    assert run.metrics["data"]["refused"] == 2
    named = {row["id"] for row in rows(run.folder / "split.csv")}
    assert "checks/004.png" not in named
    with pytest.raises(DataError, match=r"checks/004.png: not an image"):
        train(data, TrainConfig(out=tmp_path / "strict", strict=True, **QUICK))
    assert not (tmp_path / "strict").exists()


def test_too_many_losses_are_an_error_that_lists_them(tmp_path):
    data = make_photographs(tmp_path / "data", a_class=10)
    for number in range(2):
        broken(data / "blobs" / f"{number:03}.png")
    with pytest.raises(DataError, match=r"2 of 30 images are refused, more than 5%\n  blobs/000"):
        train(data, TrainConfig(out=tmp_path / "run", **QUICK))


def test_given_parts_are_respected_and_val_is_reported(tmp_path):
    data = tmp_path / "data"
    make_photographs(data / "train", a_class=12)
    make_photographs(data / "val", a_class=4, first=100)
    make_photographs(data / "test", a_class=4, first=200)
    for part in ("train", "test"):
        (data / part / "blobs").rename(data / part / "misc")
    run = train(data, TrainConfig(out=tmp_path / "run", exclude="val/blobs", **QUICK))
    assert run.metrics["data"]["n"] == {"train": 36, "val": 8, "test": 12}
    first, second = run.metrics["data"]["notes"]  # each once
    assert first == "left out by `exclude='val/blobs'`: 4 images"
    assert second.startswith("by name these may be no classes: misc (16 images)")
    assert run.metrics["val"]["n"] == 8
    with pytest.raises(DataError, match="1 of the data's 4 classes are unknown to the run: blobs"):
        evaluate(run.folder, data)
    recorded = Recorder()
    again = evaluate(run.folder, data, reporter=recorded, exclude="blobs")
    assert recorded.lines.count("left out by `exclude='blobs'`: 4 images") == 1
    assert again["n"] == 12
    assert again["accuracy"] == run.metrics["test"]["accuracy"]


def test_test_labels_influence_no_choice(photographs, tmp_path):
    """With other labels for the test part, the model that is fitted stays the same to the bit."""
    config = TrainConfig(**SMALL)
    samples = scan(photographs, config)
    parts = split(samples, test_fraction=0.3, seed=0)
    backbone = at_image_size(load_backbone("embedded"), 64, crop=False)
    store = FeatureStore(tmp_path)
    network = RowExtractor(samples, backbone, Compute("cpu", "float32", 8), 2)
    features = Features.of(extract(network, np.arange(len(samples)), store))
    settings = ProbeSettings.of(config)
    first = fit_probe(features, Dataset(samples, parts), (backbone,), settings).model
    labels = samples.labels.copy()
    labels[parts.test] = (labels[parts.test] + 1) % 3
    swapped = dataclasses.replace(samples, labels=labels)
    second = fit_probe(features, Dataset(swapped, parts), (backbone,), settings).model
    for name, tensor in first.head.tensors().items():
        assert tensor.equal(second.head.tensors()[name]), name
    assert first.temperature == second.temperature
    store.close()


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_the_probes_of_bfloat16_and_float32_disagree_on_few_test_images(tmp_path):
    """Fewer than 0.5 % of test images: 600 of them, so at most two."""
    data = make_photographs(tmp_path / "data", a_class=250)
    config = TrainConfig(test_fraction=0.8)
    samples = scan(data, config)
    parts = split(samples, test_fraction=0.8, seed=0)
    backbone = at_image_size(load_backbone("embedded"), 64, crop=False)
    answers = []
    for precision in ("bfloat16", "float32"):
        store = FeatureStore(tmp_path / precision)
        network = RowExtractor(samples, backbone, Compute("cpu", precision, 16), 2)
        features = Features.of(extract(network, np.arange(len(samples)), store))
        settings = ProbeSettings.of(config)
        model = fit_probe(features, Dataset(samples, parts), (backbone,), settings).model
        answers.append(calibrated_probabilities(model, features, parts.test).argmax(1))
        store.close()
    assert len(parts.test) > 550
    assert 0 <= (answers[0] != answers[1]).mean() < 0.005


@pytest.mark.parametrize("head", ["knn", "mean"])
def test_every_head_goes_through_the_bundle(photographs, tmp_path, head):
    run = train(photographs, TrainConfig(head=head, out=tmp_path / "run", **QUICK))
    predictor = Predictor.load(run.folder)
    row = rows(run.folder / "predictions.csv")[0]
    answer = predictor.predict(photographs / row["id"])
    assert answer.label == row["predicted"]
    assert abs(answer.probability - float(row["probability"])) < 1e-4


def test_leave_one_out_scores_no_class_that_the_fit_would_lack(tmp_path):
    """Else a few rare classes decide the penalty by answers that no fit can give."""
    data = make_photographs(tmp_path / "data", a_class=6)
    for number, name in enumerate(CLASSES):
        (data / f"rare {name}").mkdir()
        picture = Image.fromarray(texture(name, 100 + number))
        picture.save(data / f"rare {name}" / "only.png")
    run = train(data, TrainConfig(head="ridge", out=tmp_path / "run", **QUICK))
    assert run.metrics["head"]["out_of_fold"]["n"] == run.metrics["data"]["n"]["train"] - 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"memory": "-1"}, "memory is -1; it must be auto or a number of GiB, 0 or more"),
        ({"grids": "1,3"}, "grids is 1,3; it must be auto, or some of 1, 2, 4 with commas"),
        ({"views": 17}, "views is 17; it must be between 0 and 16"),
        ({"tta": True}, "tta is given, and views is 0"),
        (
            {"min_precision": 0.9, "costs": "costs.csv"},
            "min_precision is 0.9, and costs is given: one of the two",
        ),
        ({"views": 2, "head": "knn"}, "views is 2, and head knn is given: one of the two"),
    ],
)
def test_what_can_be_judged_without_data_is_refused_before_the_scan(setting, message, tmp_path):
    """Memory and grids were looked at when 70,000 images had been read."""
    recorded = Recorder()
    with pytest.raises(InputError) as caught:
        train(tmp_path / "no data", None, recorded, **setting)
    assert caught.value.message == message
    assert not recorded.tasks


@pytest.mark.parametrize("taps", ["all", "all@2"])
def test_every_stage_goes_through_the_bundle(photographs, tmp_path, taps):
    run = train(photographs, TrainConfig(taps=taps, out=tmp_path / "run", **SMALL))
    row = rows(run.folder / "predictions.csv")[0]
    assert Predictor.load(run.folder).predict(photographs / row["id"]).label == row["predicted"]


def test_arrays_in_python(tmp_path):
    images = np.stack([texture(CLASSES[n % 3], n) for n in range(45)])
    labels = [CLASSES[n % 3] for n in range(45)]
    config = TrainConfig(out=tmp_path / "run", **QUICK)
    run = regraft.train((images, labels), config)
    assert run.metrics["data"]["classes"] == list(CLASSES)
    answers = Predictor.load(run.folder).predict_many(images[:3])
    assert [answer.error for answer in answers] == [None] * 3


def test_small_test_parts_are_warned_about(photographs, tmp_path):
    with pytest.warns(SmallSampleWarning):
        train(photographs, TrainConfig(out=tmp_path / "run", **QUICK))


def test_an_unusable_store_costs_a_warning_and_no_digit(run, photographs, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    config = TrainConfig(cache_dir=tmp_path / "file", out=tmp_path / "run", **SMALL)
    with pytest.warns(StoreWarning, match="cannot be used: .*; features of this run are not kept"):
        other = train(photographs, config)
    assert measured(other.metrics) == measured(run.metrics)


# --- the run folder ---------------------------------------------------------------------------


def test_a_run_is_not_replaced_without_being_asked(run, photographs):
    with pytest.raises(RunError, match="already holds a run\nhint: `overwrite=True` replaces it"):
        train(photographs, TrainConfig(out=run.folder, **SMALL))


def test_a_folder_that_is_no_run_is_never_replaced(photographs, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="exists and is not a run; it is left alone"):
            train(photographs, TrainConfig(out=tmp_path, overwrite=overwrite, **SMALL))
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "precious"


def test_a_failing_run_leaves_the_old_one(photographs, tmp_path, monkeypatch):
    config = TrainConfig(out=tmp_path / "run", **QUICK)
    train(photographs, config)
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    monkeypatch.setattr("regraft.runs.write.write_bundle", _full)
    with pytest.raises(DiskFullError, match="no space left for"):
        train(photographs, config.replace(overwrite=True))
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def _full(*_):
    raise OSError(28, "No space left on device")


def test_data_that_are_gone_at_the_end_do_not_cost_the_run(tmp_path, monkeypatch):
    """Moved away, replaced and made unreadable between the evaluation and the pictures."""
    data = make_photographs(tmp_path / "data", a_class=10)
    write_bundle = artefacts.write_bundle
    changes = (Path.unlink, broken, lambda file: file.write_bytes(b""))

    def lose(*arguments):  # the last step before the pictures are drawn
        for name, change in zip(CLASSES, changes, strict=True):
            for file in (data / name).iterdir():
                change(file)
        return write_bundle(*arguments)

    monkeypatch.setattr(artefacts, "write_bundle", lose)
    run = train(data, TrainConfig(out=tmp_path / "run", **QUICK))
    assert {path.name for path in run.folder.iterdir()} == FILES


def test_an_archive_that_is_gone_at_the_end_does_not_cost_the_run(tmp_path, monkeypatch):
    folder = make_photographs(tmp_path / "data", a_class=10)
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", folder))
    write_bundle = artefacts.write_bundle

    def lose(*arguments):
        archive.unlink()
        return write_bundle(*arguments)

    monkeypatch.setattr(artefacts, "write_bundle", lose)
    run = train(archive, TrainConfig(out=tmp_path / "run", **QUICK))
    assert {path.name for path in run.folder.iterdir()} == FILES


def test_overwrite_replaces_the_whole_run(photographs, tmp_path):
    config = TrainConfig(out=tmp_path / "run", **QUICK)
    train(photographs, config)
    (tmp_path / "run" / "left-over.txt").write_text("", encoding="utf-8")
    train(photographs, config.replace(overwrite=True, seed=1))
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_out_runs_are_numbered(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [train(photographs, TrainConfig(**QUICK)).folder.as_posix() for _ in range(2)]
    assert names == ["regraft-runs/photographs", "regraft-runs/photographs-2"]


def test_the_summary_says_what_matters(run):
    text = run.summary()
    assert text.startswith(f"test accuracy {run.metrics['test']['accuracy']['value']:.3f} (95 %: ")
    assert f"next: regraft predict {run.folder} PHOTO.jpg" in text


def test_choices_are_reported_with_their_reasons(photographs, tmp_path):
    recorded = Recorder()
    train(photographs, TrainConfig(out=tmp_path / "run"), recorded)
    text = "\n".join(recorded.lines)
    assert "image size 192: the images have a median short side of 48 pixels" in text
    assert "weights ImageNet-1k" in text
    assert "sha256" in text
    assert "forward pass on " in text


def test_a_run_and_its_predictor_are_shown_in_one_line(run):
    accuracy = run.metrics["test"]["accuracy"]["value"]
    n = run.metrics["test"]["n"]
    assert repr(run) == f"Run({str(run.folder)!r}, test accuracy {accuracy:.3f}, n = {n})"
    shown = repr(Predictor.load(run.folder))
    assert shown == "Predictor(3 classes: blobs, checks, stripes; embedded at 64 pixels)"
