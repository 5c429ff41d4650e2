"""A training's records as a run of MLflow's."""

# ruff: noqa: PLC0415 - an optional package, which takes seconds to import

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

from regraft.errors import ConfigError
from regraft.runs.logs.base import History, first_line, numbers_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from regraft.core.reporter import Reporter

_EXPERIMENT = "regraft"
_FILES = ("metrics.json", "history.csv", "config.yaml", "curves.png", "confusion.png")
_MLFLOW_RUN = "mlflow-run.txt"


class MLflowLog:
    """A run of MLflow's, where MLFLOW_TRACKING_URI says; else where MLflow itself puts it."""

    def __init__(
        self, settings: dict[str, Any], run: Path, unfinished: Path, reporter: Reporter
    ) -> None:
        self._settings, self._name, self._reporter = settings, run.name, reporter
        self._note = (unfinished / _MLFLOW_RUN).absolute()
        self._run = ""
        self._sent = 0
        # Before the import, which reads it: regraft sends no telemetry to a third party.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        try:
            self._client = mlflow.MlflowClient()
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
            known = self._client.get_experiment_by_name(name)
            self._experiment = known.experiment_id if known else self._create(name)
        except Exception as error:
            raise ConfigError(
                f"`log='mlflow'`: MLflow cannot be used: {first_line(error)}",
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
        """Start, or continue a training whose first epochs are given."""
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
        """Send the epochs that were not sent yet."""
        for row in history[self._sent :]:
            self._metrics(numbers_of(row), row["epoch"])
            self._sent += 1

    def finish(self, run: Path, figures: Mapping[str, float]) -> None:
        """Send the final figures and pictures."""
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
        """Release everything."""
        if self._run:
            self._client.set_terminated(self._run, ended)
