"""The main path: labelled images in, an honest classifier and a bundle out. Read ``_train`` first.

Scan, split, extract, fit, evaluate, write: data flow one way, and the labels of the test part
influence no choice.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

import json
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.commands.steps import (
    check_names,
    compute_of,
    configured,
    divide,
    extract_features,
    load_backbone,
    n_workers,
    probing,
    suited,
    tell_data,
    tell_refused,
)
from regraft.config.settings import refuse_unread
from regraft.core.background import in_background
from regraft.core.reporter import Reporter, Stopwatch
from regraft.data.refused import drop_refused
from regraft.data.scan import scan
from regraft.errors import SmallSampleWarning
from regraft.finetune.callbacks import check_callbacks
from regraft.finetune.paths import checkpoints_folder, generations, refuse_existing
from regraft.finetune.processes.group import joined
from regraft.runs.logs.registry import open_logs
from regraft.runs.metrics_file import write_metrics
from regraft.splits.rounds import testing_rounds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.check.near_duplicates import Pair
    from regraft.config.train_config import TrainConfig
    from regraft.data.samples import Parts, Samples
    from regraft.features.extract import Features
    from regraft.finetune.processes.group import ProcessGroup
    from regraft.model import Model
    from regraft.probe.score import Scored
    from regraft.runs.reserve import Claim


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
        """Return the result, what it must be held against, and what to type next."""
        from regraft.runs.summary import summarise

        return summarise(self.folder, self.metrics)


def train(
    data: Any,
    config: TrainConfig | None = None,
    reporter: Reporter | None = None,
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
    reporter : Reporter, optional
        Silent where not given.
    callbacks : sequence of object, optional
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
    config, reporter = configured(config, settings), reporter or Reporter()
    refuse_unread(config, settings)
    check_callbacks(callbacks, config.strategy)
    with joined(config.strategy) as group:  # several processes where torchrun has started them
        if not group.first:
            from regraft.commands.train_follower import follow

            return Run(*follow(data, config, group))
        run = _train(data, config, reporter, callbacks, group)
        told = {"folder": str(run.folder), "metrics": run.metrics}
        group.send("written", json.dumps(told).encode())
    return run


def _train(
    data: Any,
    config: TrainConfig,
    reporter: Reporter,
    callbacks: Sequence[object],
    group: ProcessGroup,
) -> Run:
    """Scan, split, extract, fit, evaluate, write."""
    seconds = Stopwatch()
    with ExitStack() as stack:
        place = stack.enter_context(_claim(data, config))  # nobody else writes there meanwhile
        checkpoints = _checkpoints(place.folder, config)
        logs = stack.enter_context(open_logs(config, place.folder, checkpoints, reporter))
        _check_device(config)
        with seconds.of("scan"), in_background(load_backbone, config) as loading:
            samples = scan(data, config, reporter)  # N samples and the ledger
            parts = divide(samples, config)  # train, val, test: disjoint
        tell_data(samples, parts, reporter)
        with seconds.of("load"):  # what scanning did not hide
            backbone, config = suited(loading.result(), samples, config, reporter)
        from regraft.backbones.freeze import frozen
        from regraft.finetune.processes.exchange import send_probe
        from regraft.finetune.train import Job, finetune, remove_checkpoints, require_readable
        from regraft.probe.fit import fit_probe, statistics
        from regraft.probe.score import cross_validate, score_test
        from regraft.runs.write import Outcome, describe, write_artefacts

        check_names(backbone, config)  # told before minutes of extraction
        compute = compute_of(backbone, config)
        reporter.say(f"forward pass on {compute.device} in {compute.precision}")
        with seconds.of("extract"), frozen(backbone.module):
            seen = features = extract_features(
                samples, _used(parts), backbone, compute, config, stack, reporter, parts.train
            )
            samples, parts = drop_refused(samples, parts, features.refused, strict=config.strict)
            tell_refused(samples.ledger, reporter, "in ledger.json")
        rounds = testing_rounds(samples, parts, config)  # one, or each image once in several
        with seconds.of("compare"):  # the same scene twice, in training and in test
            pairs = _near_duplicates(samples, rounds, features, config, reporter)
        with seconds.of("fit"):  # taps, penalty, temperature: chosen by folds of parts.train
            probe = fit_probe(features, samples, parts, backbone, probing(config), reporter)
            model, fitted = probe.model, probe.fitted
        if config.strategy != "probe":  # starts from the probe; epochs are chosen by parts.val
            with seconds.of("train"):
                send_probe(group, probe.model, samples, parts)
                model, fitted = finetune(
                    Job(probe.model, samples, parts, compute, config, reporter, group),
                    checkpoints, (logs, *callbacks),
                )  # fmt: skip
            if model.backbone is not backbone:
                with seconds.of("extract again"):
                    seen = extract_features(
                        samples, _used(parts), model.backbone, compute, config, stack, reporter
                    )
                    require_readable(samples, seen.refused)
        with seconds.of("evaluate"):  # the test part, once
            scored = (
                cross_validate(features, samples, rounds, backbone, config, reporter)
                if config.folds  # or every image once, by probes of other images
                else score_test(model, seen, probe, features, samples, parts, config)
            )
            results = _measure(scored, model, seen, samples, parts, config)
        with seconds.of("write"), place.new_run() as beside:
            outcome = Outcome(
                config, samples, parts, seen, compute, model, fitted,
                statistics(seen, samples, parts), scored, results, pairs,
            )  # fmt: skip
            write_artefacts(beside, outcome)
            metrics = write_metrics(
                beside, {**describe(outcome), **results, "seconds": seconds.so_far()}
            )
            logs.finish(beside, metrics)
        if config.strategy != "probe":
            remove_checkpoints(checkpoints)
    return Run(place.folder, metrics, model)


def _claim(data: Any, config: TrainConfig) -> AbstractContextManager[Claim]:
    from regraft.features.store.store import default_folder
    from regraft.runs.reserve import claim

    store = (config.cache_dir or default_folder()) if config.cache else None
    resume = config.strategy != "probe" and config.resume
    return claim(
        config.out, data, overwrite=config.overwrite, store=store,
        # One that begins anew is told of the checkpoints under its name, and refused.
        stopped=_is_stopped if resume or config.strategy == "probe" else None, resume=resume,
    )  # fmt: skip


def _is_stopped(run: Path) -> bool:
    return bool(generations(checkpoints_folder(run)))


def _check_device(config: TrainConfig) -> None:
    if config.device in {"auto", "cpu"}:
        return  # always there; and the import of torch hides behind the scan then
    from regraft.features.compute import choose_compute

    choose_compute(config.device, config.precision, config.batch_size)


def _checkpoints(run: Path, config: TrainConfig) -> Path:
    """Return where checkpoints go; before any work is done, refuse to begin anew over others."""
    folder = checkpoints_folder(run)
    if config.strategy != "probe" and not (config.resume or config.overwrite):
        refuse_existing(folder)
    return folder


def _used(parts: Parts) -> NDArray[np.int64]:
    """Return the samples of all parts, ascending."""
    return np.sort(np.concatenate([parts.train, parts.val, parts.test]))


def _near_duplicates(
    samples: Samples,
    rounds: Sequence[Parts],
    features: Features,
    config: TrainConfig,
    reporter: Reporter,
) -> list[Pair]:
    from regraft.check.near_duplicates import describe, find_near_duplicates

    pairs = find_near_duplicates(
        samples, rounds, features, max_pixels=config.max_pixels, workers=n_workers(config)
    )
    for note in describe(pairs, samples, sum(len(each.test) for each in rounds)):
        reporter.say(note)
    return pairs


def _measure(
    scored: Scored,
    model: Model,
    features: Features,
    samples: Samples,
    parts: Parts,
    config: TrainConfig,
) -> dict[str, Any]:
    """Measure all models that are shown in one pass; the test labels are read here only."""
    from regraft.evaluation.metrics import accuracy_gain, measure_classification
    from regraft.probe.fit import score

    truth = samples.labels[scored.tested]
    test = measure_classification(scored.probabilities, truth, samples.classes, seed=config.seed)
    for text in test["warnings"]:
        warnings.warn(text, SmallSampleWarning, stacklevel=2)
    results: dict[str, Any] = {"protocol": scored.protocol, "test": test, "baselines": {}}
    if scored.rounds:
        results["rounds"] = scored.rounds
    if len(parts.val):
        validated = score(model, features, parts.val)
        results["val"] = measure_classification(
            validated, samples.labels[parts.val], samples.classes, seed=config.seed
        )
    for name, (baseline, description) in scored.baselines.items():
        measured = measure_classification(baseline, truth, samples.classes, seed=config.seed)
        kept = {key: measured[key] for key in ("n", "accuracy", "macro_f1", "log_loss")}
        gain = accuracy_gain(scored.probabilities, baseline, truth)
        results["baselines"][name] = {"description": description, **kept, "gain": gain}
    return results
