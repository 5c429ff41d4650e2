"""Fine-tuning through the main path: the same run folder, bundle and evaluation as the probe."""

import csv

import pytest
from PIL import Image

from conftest import make_photographs
from regraft.bundle.predictor import Predictor
from regraft.commands.evaluate import evaluate
from regraft.commands.train import train
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import Reporter
from regraft.errors import ConfigError, RunError

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

SMALL = {
    "image_size": "64", "batch_size": 8, "test_fraction": 0.3, "strategy": "finetune",
    "unfreeze": "1", "epochs": 2, "val_fraction": 0.3, "taps": "last", "lr": 2e-3, "workers": 2,
}  # fmt: skip


class Stop:
    """Ends a training in its second step, as Ctrl-C does."""

    def on_batch_end(self, loop):
        if loop.state.progress.step == 2:
            raise KeyboardInterrupt


class Lines(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_photographs(tmp_path_factory.mktemp("data") / "photographs", a_class=20)


@pytest.fixture(scope="module")
def printed():
    return Lines()


@pytest.fixture(scope="module")
def run(data, printed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    store = tmp_path_factory.mktemp("store")
    return train(data, TrainConfig(out=folder, cache_dir=store, **SMALL), printed)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_folder_is_the_probes(run):
    assert {path.name for path in run.folder.iterdir()} == {
        *("config.yaml", "metrics.json", "history.csv", "split.csv", "predictions.csv"),
        *("ledger.json", "confusion.png", "curves.png", "predictions.png", "mistakes.png"),
        *("decisions.png", "bundle"),
    }
    assert [path.name for path in run.folder.parent.iterdir()] == ["run"]  # no checkpoints left
    with Image.open(run.folder / "curves.png") as picture:
        assert min(picture.size) > 200


def test_history_has_a_row_for_each_epoch_and_one_is_chosen(run):
    history = rows(run.folder / "history.csv")
    assert [row["epoch"] for row in history] == ["0", "1", "2"]
    assert list(history[0]) == [
        *("epoch", "step", "learning_rate", "train_loss", "train_accuracy", "val_loss"),
        *("val_accuracy", "seconds", "images_per_second", "chosen"),
    ]
    assert history[0]["train_loss"] == ""
    (chosen,) = [row for row in history if row["chosen"] == "True"]
    assert int(chosen["epoch"]) == run.metrics["head"]["best_epoch"]
    best = max(float(row["val_accuracy"]) for row in history)
    assert float(chosen["val_accuracy"]) == best == run.metrics["val"]["accuracy"]["value"]


def test_metrics_record_what_was_trained_and_the_baselines(run):
    head = run.metrics["head"]
    assert head["name"] == "finetune"
    assert head["n"] == run.metrics["data"]["n"]["train"]
    assert "rows" not in head
    assert head["trained_stages"] == ["blocks.6"]
    assert head["validation"]["n"] == run.metrics["data"]["n"]["val"] > 0
    assert run.metrics["backbone"]["frozen"] is False
    assert {"majority", "knn", "probe"} <= set(run.metrics["baselines"])
    assert run.metrics["baselines"]["probe"]["n"] == run.metrics["test"]["n"]
    assert {"train", "extract again"} <= set(run.metrics["seconds"])
    n = run.metrics["data"]["n"]
    sizes = f"{n['train']} images to train, {n['val']} to validate, {n['test']} to test: "
    assert sizes in run.summary()


def test_epoch_0_is_the_probe_that_the_baseline_measures(run, printed, data, tmp_path):
    """Fine-tuning of the head alone at a rate of nearly nothing: its test result is the probe's."""
    config = {**SMALL, "unfreeze": "0", "lr": 1e-12, "epochs": 1, "augment": "none"}
    other = train(data, TrainConfig(out=tmp_path / "run", **config))
    test, probe = other.metrics["test"], other.metrics["baselines"]["probe"]
    assert test["accuracy"] == probe["accuracy"]
    assert test["log_loss"]["value"] == pytest.approx(probe["log_loss"]["value"], abs=0.05)
    first = rows(run.folder / "history.csv")[0]
    assert {k: first[k] for k in ("val_loss", "val_accuracy")} == {
        k: rows(other.folder / "history.csv")[0][k] for k in ("val_loss", "val_accuracy")
    }
    assert any(line.startswith("epoch 0/2; val loss") for line in printed.lines)


def test_the_bundle_answers_as_training_did(run, data):
    predictor = Predictor.load(run.folder)
    for row in rows(run.folder / "predictions.csv")[:6]:
        answer = predictor.predict(data / row["id"])
        assert answer.label == row["predicted"]
        assert abs(answer.probability - float(row["probability"])) < 1e-4


def test_evaluation_leaves_out_what_was_trained_and_validated_on(run, data):
    again = evaluate(run.folder, data, batch_size=8)
    n = run.metrics["data"]["n"]
    assert again["n"] == n["test"]
    assert again["accuracy"] == run.metrics["test"]["accuracy"]
    assert (
        f"left out, since the run was fitted on them: {n['train'] + n['val']} images"
        in (again["data"]["notes"])
    )


def test_the_parts_are_disjoint_and_the_test_part_is_the_probes(run, data, tmp_path):
    probe = train(
        data, TrainConfig(out=tmp_path / "probe", **{**SMALL, "strategy": "probe", "taps": "last"})
    )
    tuned = {row["id"]: row["part"] for row in rows(run.folder / "split.csv")}
    plain = {row["id"]: row["part"] for row in rows(probe.folder / "split.csv")}
    assert {i for i, part in tuned.items() if part == "test"} == {
        i for i, part in plain.items() if part == "test"
    }
    assert "val" not in plain.values()
    assert probe.metrics["backbone"]["frozen"] is True
    assert "probe" not in probe.metrics["baselines"]


def test_wrong_stages_are_an_error_before_any_extraction(data, tmp_path):
    printed = Lines()
    with pytest.raises(ConfigError, match="has no stage 'layer4'"):
        train(data, TrainConfig(out=tmp_path / "run", **{**SMALL, "unfreeze": "layer4"}), printed)
    assert not any("forward pass" in line for line in printed.lines)


def test_a_stopped_run_is_an_error_before_any_work(data, tmp_path):
    folder = tmp_path / "run.checkpoints"
    folder.mkdir()
    (folder / "00000001.json").write_text("{}", encoding="utf-8")
    printed = Lines()
    with pytest.raises(RunError, match="holds the checkpoints of a run that was stopped"):
        train(data, TrainConfig(out=tmp_path / "run", **SMALL), printed)
    assert printed.lines == []
    probe = {**SMALL, "strategy": "probe", "taps": "last"}
    train(data, TrainConfig(out=tmp_path / "run", **probe))
    assert folder.exists()  # a probe neither reads nor removes them


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "tune"}, "strategy is tune; it must be one of probe, finetune, scratch"),
        ({"epochs": 0}, "epochs is 0; it must be between 1 and 100000"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0, at most 1000"),
        ({"lr": float("nan")}, "lr is nan; it must be above 0, at most 1000"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0; it must be between 0 and 1, both excluded"),
        ({"ema": 1.0}, "ema is 1.0; it must be between 0 and 1, 1 excluded"),
        ({"dropout": -0.1}, "dropout is -0.1; it must be between 0 and 1, 1 excluded"),
        ({"mixup": float("inf")}, "mixup is inf; it must be 0 or more"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0; it must be above 0, at most 1"),
        ({"save_every": 0.1}, "save_every is 0.1; it must be 1 second or more"),
        ({"accumulate": 0}, "accumulate is 0; it must be between 1 and 65536"),
        (
            {"strategy": "finetune", "head": "knn"},
            "head is knn; it must be logistic, ridge or mean where strategy is finetune",
        ),
        (
            {"strategy": "scratch", "weights": "file.pth"},
            "weights is file.pth; it must be default or none where strategy is scratch",
        ),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**settings)
    assert caught.value.message == message


def test_without_out_a_stopped_training_goes_on_though_a_probe_came_between(
    data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small = {**SMALL, "model": "minivgg", "image_size": 16}
    with pytest.raises(KeyboardInterrupt):
        train(data, TrainConfig(**small), callbacks=[Stop()])
    probe = {name: small[name] for name in ("model", "image_size", "test_fraction", "taps")}
    assert train(data, TrainConfig(**probe)).folder.name == "photographs-2"
    with pytest.raises(RunError, match="holds the checkpoints of a run that was stopped"):
        train(data, TrainConfig(**small))
    printed = Lines()
    run = train(data, TrainConfig(resume=True, **small), printed)
    assert run.folder.name == "photographs"
    assert not any("nothing to resume" in line for line in printed.lines)
    names = sorted(path.name for path in run.folder.parent.iterdir())
    assert names == ["photographs", "photographs-2"]
