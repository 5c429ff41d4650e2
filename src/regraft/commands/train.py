"""The main path: labelled images in, an honest classifier and a bundle out. Read ``train`` first.

Scan, split, extract, fit, evaluate, write: data flow in one direction, and the labels of the test
part influence no choice.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from regraft.commands.checks import check_first, load_checked
from regraft.commands.train_follower import train_as_follower
from regraft.config.settings import configured, refuse_unread
from regraft.core.background import in_background
from regraft.core.reporter import SILENT, Reporter, Stopwatch
from regraft.data.notes import report_dataset, report_refused
from regraft.data.scan import scan
from regraft.decision.costs import names_note
from regraft.features.extractor import Extractor, split_model
from regraft.features.store.store import default_folder
from regraft.finetune.callbacks import check_callbacks
from regraft.finetune.paths import checkpoints_folder, is_stopped
from regraft.finetune.processes.group import joined
from regraft.runs.logs.registry import open_logs
from regraft.runs.reserve import reserve
from regraft.runs.run import Run
from regraft.splits.split import split_by_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from regraft.config.train_config import TrainConfig
    from regraft.runs.reserve import Reservation


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
    data : str, Path or tuple
        Folder with one folder per class, zip or tar of it, table, name of a dataset,
        ``kaggle:OWNER/NAME``, ``hf:OWNER/NAME``, or ``(images, labels)``: one array or tensor of N
        images, or a list of N images in any form that ``Predictor.predict`` takes.
    config : TrainConfig, optional
        Every setting; the defaults are good.
    reporter : Reporter
        Follows the work; silent by default.
    callbacks : sequence of object
        Called while a network is trained; methods as in ``regraft.finetune.callbacks.MOMENTS``.
    **settings
        Fields of TrainConfig, instead of those of ``config``. ``model`` may also be a
        ``regraft.Backbone``.

    Returns
    -------
    Run
        Folder, metrics and model.

    Raises
    ------
    RegraftError
        What is wrong, where, and what to do. No run folder is left then, but for one case: if
        something else was put at its path meanwhile, the run is kept beside it, and is named.

    Examples
    --------
    ::

        run = regraft.train("photos", taps="all", seed=1)
        run.metrics["test"]["accuracy"]  # {"value": ..., "low": ..., "high": ...}
    """
    given, settings = split_model(settings)  # a network as an object, or none
    asked = configured(config, settings)
    refuse_unread(asked, settings)
    check_callbacks(callbacks, asked.strategy)
    with joined(asked.strategy) as group:  # several processes if torchrun has started them
        if not group.first:
            return train_as_follower(data, asked, group, given)
        seconds = Stopwatch()
        with (
            _reserve(data, asked) as reserved,
            open_logs(
                asked, reserved.folder, checkpoints_folder(reserved.folder), reporter
            ) as logs,
        ):
            checkpoints = checkpoints_folder(reserved.folder)
            check_first(asked, checkpoints)
            with in_background(load_checked, asked, given) as loading:  # its error ends the scan
                samples = scan(data, asked, reporter, meanwhile=loading)
                scanned = split_by_config(samples, asked)  # disjoint parts
            seconds.lap("scan")
            report_dataset(scanned, reporter)
            for note in names_note(scanned.classes):
                reporter.say(note)
            networks = loading.result()
            from regraft.check.near_duplicates import report_near_duplicates
            from regraft.finetune.train import Trained, remove_checkpoints, train_network
            from regraft.probe.decisions import DecisionSettings
            from regraft.probe.fit import fit_by
            from regraft.runs.result import measure
            from regraft.runs.write import write_result

            deciding = DecisionSettings.of(asked, scanned)  # a wrong table or level ends here
            with Extractor.for_samples(networks, scanned.samples, asked, reporter) as extractor:
                seconds.lap("load")
                features = extractor.read(scanned)  # one pass through the frozen network, kept
                dataset = scanned.without(features.refused, strict=asked.strict)
                report_refused(dataset.samples.ledger, reporter, "in ledger.json")
                seconds.lap("extract")
                found = report_near_duplicates(features, dataset, extractor)
                dataset = dataset.with_units(found.units)
                seconds.lap("compare")
                probe = fit_by(extractor, features, dataset)  # chosen by folds of the training part
                seconds.lap("fit")
                start = Trained(probe.model, probe.fitted, features)  # the result of a probe
                watching = (logs, *callbacks)  # logs are callbacks too
                trained = train_network(start, dataset, extractor, checkpoints, watching, group)
                seconds.add(trained.seconds)
                result = measure(probe, trained, dataset, extractor, found, deciding)  # once
                seconds.lap("evaluate")
            metrics = write_result(reserved, result, logs, seconds)
            if asked.strategy != "probe":  # else they are another training's
                remove_checkpoints(checkpoints)
        # What train_as_follower waits for.
        group.send("written", json.dumps([str(reserved.folder), metrics]).encode())
    return Run(reserved.folder, metrics, result.trained.model)


def _reserve(data: Any, config: TrainConfig) -> AbstractContextManager[Reservation]:
    """Reserve the run folder; a training that was stopped keeps its name for ``resume``."""
    in_steps = config.strategy != "probe"
    resume = in_steps and config.resume
    return reserve(
        config.out,
        data,
        overwrite=config.overwrite,
        store=(config.cache_dir or default_folder()) if config.cache else None,
        # A new training in steps finds such checkpoints in ``check_first``, and is refused.
        is_stopped=is_stopped if resume or not in_steps else None,
        resume=resume,
    )
