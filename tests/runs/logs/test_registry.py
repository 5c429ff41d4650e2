"""TensorBoard and MLflow as they are: written by a training, read back by their own readers."""

# ruff: noqa: PLC0415 - seconds, which not every collection of tests must pay

import importlib.util
import os
import shutil
import signal
import sys

# Before MLflow is imported by whichever test comes first.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np
import pytest

import regraft
from conftest import CLASSES, texture
from regraft.errors import ConfigError, LogWarning, MissingExtraError
from regraft.runs.metrics_file import read_metrics

pytestmark = [
    pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning"),
    # SQLAlchemy warns MLflow's authors of deprecated functions.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

WITHOUT = [name for name in ("tensorboard", "mlflow") if importlib.util.find_spec(name) is None]
with_logs = pytest.mark.skipif(bool(WITHOUT), reason=f"the extra {' and '.join(WITHOUT)}")

NAMES = [name for name in CLASSES for _ in range(10)]
DATA = (np.stack([texture(name, i, 16) for i, name in enumerate(NAMES)]), NAMES)
SMALL = {
    "model": "minivgg", "image_size": 16, "batch_size": 8, "epochs": 2, "test_fraction": 0.3,
    "val_fraction": 0.3, "strategy": "scratch", "cache": False, "workers": 2,
}  # fmt: skip
PROBE = {
    "model": "minivgg", "image_size": 16, "batch_size": 8, "test_fraction": 0.3, "taps": "last",
    "head": "mean", "cache": False, "workers": 2,
}  # fmt: skip
ROW = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate", "step")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An empty database: MLflow needs seconds to make its tables."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path.as_posix()}").search_experiments()
    return path


@pytest.fixture
def uri(tables, tmp_path, monkeypatch):
    """A database of a test's own."""
    shutil.copy(tables, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


def events(folder):
    """Read event files with TensorBoard's own reader: scalars by name, the rest by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    reader.Reload()
    scalars = {
        name: [(event.step, event.value) for event in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
    }
    return scalars, reader


def mlflow_runs():
    """Read all runs with MLflow's own client."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("regraft")
    return client, client.search_runs([experiment.experiment_id])


class Stop:
    """Leaves after a step, as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def on_batch_end(self, loop):
        if loop.state.progress.step == self.step:
            signal.raise_signal(signal.SIGINT)


def history(run):
    text = (run.folder / "history.csv").read_text(encoding="utf-8").splitlines()
    header = text[0].split(",")
    return [dict(zip(header, line.split(","), strict=True)) for line in text[1:]]


@with_logs
def test_both_logs_hold_each_epoch_once_though_the_training_was_stopped(tmp_path, uri):
    settings = {**SMALL, "log": "tensorboard,mlflow", "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        regraft.train(DATA, callbacks=[Stop(3)], **settings)
    client, (stopped,) = mlflow_runs()
    assert stopped.info.status == "KILLED"
    assert [path.name for path in (tmp_path / "run.checkpoints" / "tensorboard").iterdir()]

    run = regraft.train(DATA, resume=True, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlruns", "run"]
    rows = history(run)
    assert len(rows) == 3
    scalars, reader = events(run.folder / "tensorboard")
    client, (done,) = mlflow_runs()
    assert (done.info.run_id, done.info.status) == (stopped.info.run_id, "FINISHED")
    assert (run.folder / "mlflow-run.txt").read_text(encoding="utf-8") == done.info.run_id
    for name in ROW:
        expected = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
        assert [step for step, _ in scalars[name]] == [step for step, _ in expected]
        np.testing.assert_allclose([v for _, v in scalars[name]], [v for _, v in expected], 1e-6)
        sent = client.get_metric_history(done.info.run_id, name)
        assert sorted((metric.step, metric.value) for metric in sent) == expected

    accuracy = run.metrics["test"]["accuracy"]
    assert done.data.metrics["test/accuracy_low"] == accuracy["low"]
    assert scalars["test/accuracy"][0][1] == pytest.approx(accuracy["value"], 1e-6)
    assert set(reader.Tags()["images"]) == {"curves.png", "confusion.png"}
    assert {file.path for file in client.list_artifacts(done.info.run_id)} == {
        *("metrics.json", "history.csv", "config.yaml", "curves.png", "confusion.png")
    }
    params = done.data.params
    assert (params["epochs"], params["model"], params["seed"]) == ("2", "minivgg", "0")
    assert not {"out", "cache_dir", "data_root", "log"} & set(params)
    assert done.data.tags.get("mlflow.user", "unknown") == "unknown"
    (text,) = reader.Tensors("settings/text_summary")
    assert b"epochs: 2\n" in text.tensor_proto.string_val[0]
    plugins = reader.summary_metadata["_hparams_/session_start_info"].plugin_data
    assert b"minivgg" in plugins.content
    assert "log: none" in (run.folder / "config.yaml").read_text(encoding="utf-8")


@with_logs
def test_a_probe_logs_its_figures_and_a_log_changes_no_result(tmp_path):
    run = regraft.train(DATA, log="tensorboard", out=tmp_path / "a", **PROBE)
    scalars, _ = events(run.folder / "tensorboard")
    accuracy = run.metrics["baselines"]["majority"]["accuracy"]["value"]
    assert scalars["baselines/majority/accuracy"] == [(0, pytest.approx(accuracy, 1e-6))]
    plain = regraft.train(DATA, out=tmp_path / "b", **PROBE)
    assert plain.metrics["test"] == run.metrics["test"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert {p.name for p in run.folder.iterdir()} - {p.name for p in plain.folder.iterdir()} == {
        "tensorboard"
    }


class Break:
    """Overwrites the database in the first epoch, and brings it back in the second."""

    def __init__(self, path):
        self.path, self.whole = path, None

    def on_batch_end(self, loop):
        if loop.state.progress.epoch == 1 and self.whole is None:
            self.whole = self.path.read_bytes()
            self.path.write_bytes(b"not a database" * 1000)
        if loop.state.progress.epoch == 2:
            self.path.write_bytes(self.whole)


@with_logs
def test_a_server_that_fails_costs_a_warning_and_what_is_missing_is_sent_later(tmp_path, uri):
    with pytest.warns(LogWarning, match="the mlflow log is not up to date: "):
        run = regraft.train(
            DATA, callbacks=[Break(tmp_path / "mlflow.db")], log="mlflow", out=tmp_path / "run",
            **{**SMALL, "epochs": 3},
        )  # fmt: skip
    client, (done,) = mlflow_runs()
    sent = client.get_metric_history(done.info.run_id, "val_loss")
    assert sorted(metric.step for metric in sent) == [0, 1, 2, 3]
    assert done.info.status == "FINISHED"
    assert read_metrics(run.folder)["test"] == run.metrics["test"]


def test_without_the_package_nothing_is_begun(tmp_path, monkeypatch):
    for name in ("tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError) as caught:
            regraft.train(tmp_path / "nowhere", log=name)
        assert str(caught.value) == (
            f"`log={name!r}` needs {name}\nhint: pip install 'regraft[{name}]'"
        )


@with_logs
def test_an_mlflow_that_does_not_answer_is_reported_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match="`log='mlflow'`: MLflow cannot be used: ") as caught:
        regraft.train(tmp_path / "nowhere", log="mlflow", out=tmp_path / "run")
    assert "MLFLOW_TRACKING_URI" in caught.value.hint
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["wandb", "tensorboard,", "none,mlflow", ""])
def test_unknown_logs_are_refused(value):
    with pytest.raises(ConfigError) as caught:
        regraft.TrainConfig(log=value)
    assert caught.value.message == (
        f"log is {value}; it must be none, or some of tensorboard, mlflow with commas"
    )
