"""The main path: labelled images in, an honest classifier and a bundle out. Read ``train`` first.

Scan, split, extract, fit, evaluate, write: data flow in one direction, and the labels of the test
part influence no choice.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.commands.train_follower import train_as_follower
from regraft.config.settings import configured, refuse_unread
from regraft.core.background import in_background
from regraft.core.machine import memory_limit, n_threads
from regraft.core.reporter import SILENT, Reporter, Stopwatch
from regraft.data.notes import report_dataset, report_refused
from regraft.data.scan import scan
from regraft.features.extractor import Extractor, load_network
from regraft.finetune.callbacks import check_callbacks
from regraft.finetune.paths import checkpoints_folder, generations, refuse_existing
from regraft.finetune.processes.group import joined
from regraft.runs.logs.registry import open_logs
from regraft.runs.reserve import reserve
from regraft.splits.rounds import test_folds
from regraft.splits.split import split_by_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from regraft.backbones.backbone import Backbone
    from regraft.check.near_duplicates import NearDuplicate
    from regraft.config.train_config import TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.features.extract import Features
    from regraft.finetune.processes.group import ProcessGroup
    from regraft.finetune.train import Trained
    from regraft.model import Model
    from regraft.probe.fit import Probe
    from regraft.runs.logs.registry import Logs
    from regraft.runs.reserve import Reservation
    from regraft.runs.write import Result


@dataclass(frozen=True)
class Run:
    """What a training returns.

    Attributes
    ----------
    folder : Path
        The run folder.
    metrics : dict
        As in its metrics.json.
    model : Model
        As in its bundle.
    """

    folder: Path
    metrics: dict[str, Any]
    model: Model

    def __repr__(self) -> str:
        accuracy = self.metrics["test"]["accuracy"]["value"]
        n = self.metrics["test"]["n"]
        return f"Run({str(self.folder)!r}, test accuracy {accuracy:.3f}, n = {n:,})"

    def summary(self) -> str:
        """Return the result, what to compare it with, and what to type next."""
        from regraft.runs.summary import summarise

        return summarise(self.folder, self.metrics)


def train(
    data: Any,
    config: TrainConfig | None = None,
    reporter: Reporter = SILENT,
    callbacks: Sequence[object] = (),
    **settings: Any,
) -> Run:
    """Train a classifier on labelled images and write a run folder.

    Parameters
    ----------
    data : str, Path or tuple of arrays
        Folder with one folder per class, zip or tar of it, table, name of a dataset,
        ``kaggle:OWNER/NAME``, ``hf:OWNER/NAME``, or ``(images, labels)``.
    config : TrainConfig, optional
        Every setting; the defaults are good.
    reporter : Reporter
        Follows the work; silent by default.
    callbacks : sequence of object
        Called while a network is trained; methods as in ``regraft.finetune.callbacks.MOMENTS``.
    **settings
        Fields of TrainConfig, in place of those of ``config``.

    Returns
    -------
    Run
        Folder, metrics and model.

    Raises
    ------
    RegraftError
        What is wrong, where, and what to do; no run folder is left then.

    Examples
    --------
    ::

        run = regraft.train("photos", taps="all", seed=1)
        run.metrics["test"]["accuracy"]  # {"value": ..., "low": ..., "high": ...}
    """
    asked = configured(config, settings)
    refuse_unread(asked, settings)
    check_callbacks(callbacks, asked.strategy)
    with joined(asked.strategy) as group:  # several processes if torchrun has started them
        if not group.first:
            return Run(*train_as_follower(data, asked, group))
        seconds = Stopwatch()
        with _reserve(data, asked) as place, _open_logs(asked, place, reporter) as logs:
            check_first(asked, place)
            with in_background(load_network, asked) as loading:  # torch's import takes seconds
                found = split_by_config(scan(data, asked, reporter), asked)  # disjoint parts
            seconds.lap("scan")
            report_dataset(found, reporter)
            network = loading.result()
            check_names(network, asked)  # before minutes of extraction
            with Extractor.for_samples(network, found.samples, asked, reporter) as extractor:
                seconds.lap("load")
                features = extractor.read(found)  # one pass through the frozen network, kept
                dataset = found.without(features.refused, strict=asked.strict)
                report_refused(dataset.samples.ledger, reporter, "in ledger.json")
                seconds.lap("extract")
                pairs = _find_near_duplicates(features, dataset, extractor)
                seconds.lap("compare")
                probe = fit(features, dataset, extractor)  # chosen by folds of the training part
                seconds.lap("fit")
                trained = _train_network(
                    probe, dataset, extractor, place, (logs, *callbacks), group
                )
                seconds.add(trained.seconds)
                result = _measure(probe, trained, features, dataset, extractor, pairs)  # once
                seconds.lap("evaluate")
            metrics = _write(place, result, logs, seconds)
        group.send("written", json.dumps([str(place.folder), metrics]).encode())
    return Run(place.folder, metrics, result.trained.model)


def check_first(config: TrainConfig, place: Reservation) -> None:
    """Refuse, before the images are read, a device that is missing and checkpoints of another run.

    The processor is always there: the import of torch is then hidden behind the scan.
    """
    if config.strategy != "probe" and not (config.resume or config.overwrite):
        refuse_existing(checkpoints_folder(place.folder))
    if config.device not in {"auto", "cpu"}:
        from regraft.features.compute import choose_compute

        choose_compute(config.device, config.precision, config.batch_size)


def check_names(backbone: Backbone, config: TrainConfig) -> None:
    """Refuse taps and stages that the network does not have, and memory that is no number."""
    from regraft.features.taps import select_blocks
    from regraft.finetune.network import trained_stages

    memory_limit(config.memory)
    select_blocks(backbone, config.taps, config.grids)
    trained_stages(backbone, config.unfreeze)


def fit(features: Features, dataset: Dataset, extractor: Extractor) -> Probe:
    """Fit the probe that the settings ask for."""
    from regraft.probe.fit import ProbeSettings, fit_probe

    settings = ProbeSettings.of(extractor.config)
    return fit_probe(features, dataset, extractor.backbone, settings, extractor.reporter)


def _reserve(data: Any, config: TrainConfig) -> AbstractContextManager[Reservation]:
    from regraft.features.store.store import default_folder

    resume = config.strategy != "probe" and config.resume
    return reserve(
        config.out,
        data,
        overwrite=config.overwrite,
        store=(config.cache_dir or default_folder()) if config.cache else None,
        # A new training finds the checkpoints under its name in ``check_first``, and is refused.
        is_stopped=_is_stopped if resume or config.strategy == "probe" else None,
        resume=resume,
    )


def _is_stopped(run: Path) -> bool:
    return bool(generations(checkpoints_folder(run)))


def _open_logs(
    config: TrainConfig, place: Reservation, reporter: Reporter
) -> AbstractContextManager[Logs]:
    return open_logs(config, place.folder, checkpoints_folder(place.folder), reporter)


def _find_near_duplicates(
    features: Features, dataset: Dataset, extractor: Extractor
) -> list[NearDuplicate]:
    """Find and report the test images that are nearly the same as a training image."""
    from regraft.check.near_duplicates import duplicate_notes, find_near_duplicates
    from regraft.plots.pairs import SHOWN

    config = extractor.config
    folds = test_folds(dataset, config.folds, config.seed)
    pairs = find_near_duplicates(folds, features, n_threads(config.workers), SHOWN)
    n_tested = sum(len(each.test) for each in folds)
    for note in duplicate_notes(pairs, dataset.samples, n_tested):
        extractor.reporter.say(note)
    return pairs


def _train_network(
    probe: Probe,
    dataset: Dataset,
    extractor: Extractor,
    place: Reservation,
    callbacks: Sequence[object],
    group: ProcessGroup,
) -> Trained:
    """Train the network too if the strategy says so; else return the probe itself."""
    from regraft.finetune.processes.exchange import send_probe
    from regraft.finetune.train import Trained, train_network

    if extractor.config.strategy == "probe":
        return Trained(probe.model, probe.fitted)
    send_probe(group, probe.model, dataset)
    folder = checkpoints_folder(place.folder)
    return train_network(probe.model, dataset, extractor, folder, callbacks, group)


def _measure(
    probe: Probe,
    trained: Trained,
    features: Features,
    dataset: Dataset,
    extractor: Extractor,
    pairs: list[NearDuplicate],
) -> Result:
    """Score the test part once, with all models that are shown."""
    from regraft.probe.fit import ProbeSettings
    from regraft.probe.score import cross_validate, measure_scores, score_test
    from regraft.probe.statistics import training_statistics
    from regraft.runs.write import Result

    config, settings = extractor.config, ProbeSettings.of(extractor.config)
    last = trained.features or features
    if config.folds:  # every image once, by probes of other images
        folds = test_folds(dataset, config.folds, config.seed)
        scores = cross_validate(features, folds, extractor.backbone, settings, extractor.reporter)
    else:
        tuned = None if config.strategy == "probe" else (trained.model, last)
        scores = score_test(probe, features, dataset, settings, tuned)
    return Result(
        config=config,
        dataset=dataset,
        features=last,
        compute=extractor.compute,
        trained=trained,
        statistics=training_statistics(last, dataset),
        scores=scores,
        measured=measure_scores(scores, dataset, config.seed),
        pairs=pairs,
    )


def _write(place: Reservation, result: Result, logs: Logs, seconds: Stopwatch) -> dict[str, Any]:
    """Write the run folder; then remove the checkpoints, which are of no more use."""
    from regraft.finetune.train import remove_checkpoints
    from regraft.runs.write import write_result

    metrics = write_result(place, result, logs, seconds)
    if result.config.strategy != "probe":
        remove_checkpoints(checkpoints_folder(place.folder))
    return metrics
