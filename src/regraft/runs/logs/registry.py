"""``--log``: what a run folder records, in TensorBoard and MLflow too; each is an optional package.

A training that takes hours does not end because a server of its log does: what could not be sent is
told in a warning, and sent with the next epoch.
"""

# ruff: noqa: PLC0415 - optional packages, which take seconds to import

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import time
import warnings
from typing import TYPE_CHECKING, Any, Protocol

from regraft.config.declaration import settings_of
from regraft.config.settings import harmless
from regraft.errors import ConfigError, LogWarning, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from regraft.config.train_config import TrainConfig
    from regraft.core.reporter import Reporter
    from regraft.finetune.loop import Loop

#: What each log needs; an extra of that name brings it. MLflow's local database needs the others.
PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
_EXPERIMENT = "regraft"
_FILES = ("metrics.json", "history.csv", "config.yaml", "curves.png", "confusion.png")
_PICTURES = ("curves.png", "confusion.png")
_MLFLOW_RUN = "mlflow-run.txt"

History = list[dict[str, Any]]


class Log(Protocol):
    """Where records go; what a method raises becomes a warning."""

    def begin(self, history: History) -> None:
        """Start, or go on with a run that was stopped, whose first epochs are given."""

    def send(self, history: History) -> None:
        """Send the epochs that were not sent yet."""

    def finish(self, run: Path, figures: Mapping[str, float]) -> None:
        """Send the final figures and pictures of a run folder that is being written."""

    def close(self, ended: str) -> None:
        """Give back what is held; ``ended`` is FINISHED, FAILED or KILLED."""


class Logs:
    """The logs of one run; a callback of the loop's.

    Parameters
    ----------
    logs : mapping of str to Log
        By the names of ``--log``.
    """

    def __init__(self, logs: Mapping[str, Log]) -> None:
        self._logs = logs
        self._begun = False

    def on_train_begin(self, loop: Loop) -> None:
        """Begin, with the epochs of a resumed run."""
        self._begin(loop.state.progress.history)

    def on_epoch_end(self, loop: Loop) -> None:
        """Send the epoch."""
        self._each(lambda log: log.send(loop.state.progress.history))

    def finish(self, run: Path, metrics: Mapping[str, Any]) -> None:
        """Send the final figures; of a probe, which has no epochs, they are all that is sent.

        Parameters
        ----------
        run : Path
            The run folder, still where it is written.
        metrics : mapping
            As in its metrics.json.
        """
        if not self._begun:
            self._begin([])
        self._each(lambda log: log.finish(run, final_figures(metrics)))

    def close(self, ended: str) -> None:
        """End what was begun; ``ended`` as ``Log.close`` takes it."""
        if self._begun:
            self._each(lambda log: log.close(ended))

    def _begin(self, history: History) -> None:
        self._begun = True
        self._each(lambda log: log.begin(history))

    def _each(self, action: Callable[[Log], None]) -> None:
        for name, log in self._logs.items():
            try:
                action(log)
            except Exception as error:  # noqa: BLE001 - other people's code, disks and networks
                text = f"the {name} log is behind: {_first_line(error)}"
                warnings.warn(text, LogWarning, stacklevel=2)


@contextlib.contextmanager
def open_logs(config: TrainConfig, run: Path, beside: Path, reporter: Reporter) -> Iterator[Logs]:
    """Check that each log can be written, before any work; close them when the run is over.

    Parameters
    ----------
    config : TrainConfig
        ``log`` names them.
    run : Path
        The run folder, whose name the records get.
    beside : Path
        Where TensorBoard's files lie until the run is complete; they move into the run then.
    reporter : Reporter
        Told where to look.

    Yields
    ------
    Logs

    Raises
    ------
    MissingExtraError
        Names the extra to install.
    ConfigError
        Where MLflow does not answer.
    """
    names = config.logs
    for name in names:
        for package in PACKAGES[name]:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, name, f"--log {name}")
    kinds: dict[str, Callable[..., Log]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}
    logs = Logs({name: kinds[name](_settings(config), run, beside, reporter) for name in names})
    ended = "FAILED"
    try:
        yield logs
        ended = "FINISHED"
    except (KeyboardInterrupt, SystemExit):  # --resume goes on with the same record
        ended = "KILLED"
        raise
    finally:
        logs.close(ended)
        with contextlib.suppress(OSError):  # a probe has nothing else there
            beside.rmdir()


def final_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers of metrics.json by name; intervals as ``_low`` and ``_high``.

    Parameters
    ----------
    metrics : mapping
        As in metrics.json.

    Returns
    -------
    dict of str to float
        Of the test part, the validation part and the baselines.

    Examples
    --------
    >>> test = {"n": 9, "accuracy": {"value": 0.5, "low": 0.2, "high": 0.8}, "confusion": [[9]]}
    >>> final_figures({"test": test, "baselines": {}})
    {'test/n': 9.0, 'test/accuracy': 0.5, 'test/accuracy_low': 0.2, 'test/accuracy_high': 0.8}
    """
    parts = {name: metrics[name] for name in ("test", "val") if name in metrics}
    parts |= {f"baselines/{name}": part for name, part in metrics["baselines"].items()}
    found: dict[str, float] = {}
    for part, estimates in parts.items():
        for name, estimate in estimates.items():
            values = estimate if isinstance(estimate, dict) else {"value": estimate}
            for end in ("value", "low", "high"):
                if isinstance(value := values.get(end), int | float):
                    suffix = "" if end == "value" else f"_{end}"
                    found[f"{part}/{name}{suffix}"] = float(value)
    return found


class _TensorBoard:
    """An event file, made anew from the history at each start, so that no epoch is in it twice."""

    def __init__(
        self, settings: dict[str, Any], run: Path, beside: Path, reporter: Reporter
    ) -> None:
        del run
        self._settings, self._reporter = settings, reporter
        self._folder = (beside / "tensorboard").absolute()
        self._writer: Any = None
        self._sent = 0

    def begin(self, history: History) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer, self._sent = SummaryWriter(str(self._folder)), 0
        text = "\n".join(f"    {name}: {value}" for name, value in self._settings.items())
        self._writer.add_text("settings", text)
        self._reporter.say(f"to watch it: tensorboard --logdir {self._folder.parent.parent}")
        self.send(history)

    def send(self, history: History) -> None:
        for row in history[self._sent :]:
            for name, value in _numbers(row).items():
                self._writer.add_scalar(name, value, row["epoch"])
            self._sent += 1
        self._writer.flush()

    def finish(self, run: Path, figures: Mapping[str, float]) -> None:
        import numpy as np
        from PIL import Image

        for name in _PICTURES:
            if (run / name).is_file():
                with Image.open(run / name) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                self._writer.add_image(name, pixels, dataformats="HWC")
        settings = {name: "" if value is None else value for name, value in self._settings.items()}
        self._writer.add_hparams(settings, dict(figures), run_name=".")
        self.close("FINISHED")
        self._folder.replace(run / "tensorboard")

    def close(self, ended: str) -> None:
        del ended
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _MLflow:
    """A run of MLflow's, where MLFLOW_TRACKING_URI says; else where MLflow itself puts it."""

    def __init__(
        self, settings: dict[str, Any], run: Path, beside: Path, reporter: Reporter
    ) -> None:
        self._settings, self._name, self._reporter = settings, run.name, reporter
        self._note = (beside / _MLFLOW_RUN).absolute()
        self._run = ""
        self._sent = 0
        # Read when it is imported: nothing of ours tells a third party that it was used.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        try:
            self._client = mlflow.MlflowClient()
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
            known = self._client.get_experiment_by_name(name)
            self._experiment = known.experiment_id if known else self._create(name)
        except Exception as error:
            raise ConfigError(
                f"--log mlflow: MLflow cannot be used: {_first_line(error)}",
                hint="MLFLOW_TRACKING_URI names the server or database, such as "
                "http://localhost:5000 or sqlite:///mlflow.db",
            ) from error

    def _create(self, name: str) -> str:
        """Create the experiment, unless another run does so at this moment."""
        try:
            return str(self._client.create_experiment(name))
        except Exception:
            known = self._client.get_experiment_by_name(name)
            if known is None:
                raise
            return str(known.experiment_id)

    def begin(self, history: History) -> None:
        earlier = self._earlier() if history else None
        if earlier is None:
            self._run = self._client.create_run(self._experiment, run_name=self._name).info.run_id
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.write_text(self._run, encoding="utf-8")
            from mlflow.entities import Param

            params = [Param(name, str(value)) for name, value in self._settings.items()]
            self._client.log_batch(self._run, params=params)
        else:
            self._run = earlier
            self._client.update_run(self._run, status="RUNNING")
            known = self._client.get_metric_history(self._run, "val_loss")
            self._sent = len({metric.step for metric in known})
        self._reporter.say(f"MLflow: run {self._run} of experiment {self._experiment}")
        self.send(history)

    def _earlier(self) -> str | None:
        """Return the MLflow run of the training that is being resumed, where it is still there."""
        try:
            run = self._note.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        if not re.fullmatch(r"\w{1,64}", run):
            return None
        try:
            return str(self._client.get_run(run).info.run_id)
        except Exception:  # noqa: BLE001 - another server, or deleted there
            return None

    def send(self, history: History) -> None:
        for row in history[self._sent :]:
            self._metrics(_numbers(row), row["epoch"])
            self._sent += 1

    def finish(self, run: Path, figures: Mapping[str, float]) -> None:
        self._metrics(figures, 0)
        for name in _FILES:
            if (run / name).is_file():
                self._client.log_artifact(self._run, str(run / name))
        self._note.replace(run / _MLFLOW_RUN)

    def _metrics(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, ended: str) -> None:
        if self._run:
            self._client.set_terminated(self._run, ended)


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that say what is learnt; paths of this machine stay here."""
    away = {*harmless(type(config)), "split"}
    return {name: getattr(config, name) for name in settings_of(type(config)) if name not in away}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value) for name, value in row.items() if name != "epoch" and value is not None
    }


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
