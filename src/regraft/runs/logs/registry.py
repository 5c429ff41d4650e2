"""``--log``: records of a training in TensorBoard and MLflow; each is an optional package.

A training that takes hours must not end because the server of a log does: what could not be sent is
reported in a warning, and sent with the next epoch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from regraft.config.declaration import settings_of
from regraft.config.settings import harmless
from regraft.errors import LogWarning, MissingExtraError
from regraft.runs.logs.base import first_line
from regraft.runs.logs.mlflow import MLflowLog
from regraft.runs.logs.tensorboard import TensorBoardLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from regraft.config.train_config import TrainConfig
    from regraft.core.reporter import Reporter
    from regraft.finetune.loop import Loop
    from regraft.runs.logs.base import History, Log

#: What each log needs; an extra of that name brings it. MLflow's local database needs the others.
PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}

#: Each log by its name in ``--log``.
LOGS: dict[str, Callable[[dict[str, Any], Path, Path, Reporter], Log]] = {
    "tensorboard": TensorBoardLog,
    "mlflow": MLflowLog,
}


class Logs:
    """The logs of one run, by name; a callback of the loop."""

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
        """Send the final figures; a probe has no epochs, and sends nothing else.

        ``run`` is the run folder, before it is renamed to its path.
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
                text = f"the {name} log is not up to date: {first_line(error)}"
                warnings.warn(text, LogWarning, stacklevel=2)


@contextlib.contextmanager
def open_logs(
    config: TrainConfig, run: Path, unfinished: Path, reporter: Reporter
) -> Iterator[Logs]:
    """Check that each log can be written, before any work; close them when the run is over.

    Parameters
    ----------
    run : Path
        The run folder, whose name the records get.
    unfinished : Path
        Folder of TensorBoard's files until the run is complete; then they move into the run.

    Raises
    ------
    MissingExtraError
        Names the extra to install.
    ConfigError
        MLflow does not answer.
    """
    names = config.logs
    for name in names:
        for package in PACKAGES[name]:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, name, f"`log={name!r}`")
    settings = _recorded_settings(config)
    logs = Logs({name: LOGS[name](settings, run, unfinished, reporter) for name in names})
    ended = "FAILED"
    try:
        yield logs
        ended = "FINISHED"
    except (KeyboardInterrupt, SystemExit):  # --resume continues the same record
        ended = "KILLED"
        raise
    finally:
        logs.close(ended)
        with contextlib.suppress(OSError):  # a probe has nothing else there
            unfinished.rmdir()


def final_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers of metrics.json by name; intervals as ``_low`` and ``_high``.

    They are those of the test part, the validation part and the baselines.

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


def _recorded_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide what is learnt; paths of this machine are not sent."""
    left_out = {*harmless(type(config)), "split"}
    names = [name for name in settings_of(type(config)) if name not in left_out]
    values = {name: getattr(config, name) for name in names}
    return {
        name: ", ".join(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
