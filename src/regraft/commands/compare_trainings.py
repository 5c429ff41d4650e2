"""``regraft compare DATA --models ...``: networks and strategies on one split, compared."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft.backbones.sums import check_sum, split_sum
from regraft.commands.compare_runs import compare_named_runs
from regraft.commands.train import train
from regraft.config.declaration import settings_of
from regraft.config.settings import harmless, unread
from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import read_config
from regraft.core.reporter import SILENT, Reporter
from regraft.core.version import __version__
from regraft.data.scan import scan
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import InputError, RegraftError, RunError
from regraft.features.extractor import choose_augmentation
from regraft.finetune.paths import checkpoint_numbers, checkpoints_folder
from regraft.runs.metrics_file import is_run, read_metrics
from regraft.runs.names import DEFAULT_RUNS_FOLDER, name_after
from regraft.splits.split import split_by_config
from regraft.splits.split_csv import read_split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from regraft.data.samples import Samples

_LONGEST = 100  # characters of a folder's name: file systems take 255 bytes


class Comparison(NamedTuple):
    """The result of comparing trainings."""

    text: str  # to print: table, tests, picture, and what could not be trained
    failed: dict[str, RegraftError]  # by the name of the training


@dataclass(frozen=True)
class _Planned:
    """One training."""

    name: str  # in the table and the picture
    folder: Path
    config: TrainConfig


def compare_trainings(
    data: Any,
    models: Sequence[str] = (),
    strategies: Sequence[str] = (),
    config: TrainConfig | None = None,
    reporter: Reporter = SILENT,
) -> Comparison:
    """Train every network by every strategy on the same parts of the same images, and compare.

    Finished runs with the same settings, images and parts are not trained again, and stopped ones
    are resumed: the same call again does what is left to do.

    Parameters
    ----------
    data : str, Path or tuple of arrays
        As for ``regraft.train``.
    models, strategies : sequence of str
        As the settings ``model`` and ``strategy``; empty for those of ``config``.
    config : TrainConfig, optional
        All other settings. ``out`` is the folder of all runs and of ``compare.png``; by default one
        under ``regraft-runs/``, named after the data. With ``overwrite``, a run in it that has
        other settings or images is replaced.
    reporter : Reporter
        Follows the work; silent by default.

    Raises
    ------
    RegraftError
        A name is unknown, the data cannot be used, or a run in the folder differs: nothing is
        trained then. Or every training failed: the error of the first.
    """
    base = config or TrainConfig()
    home = base.out or DEFAULT_RUNS_FOLDER / f"compare-{name_after(data)}"
    planned = _plan(models or [base.model], strategies or [base.strategy], home, base)
    finished = _find_finished(planned, data, reporter)
    failed = _train_others(planned, finished, data, reporter)
    if len(failed) == len(planned):
        raise failed[planned[0].name]
    trained = {each.name: each.folder for each in planned if each.name not in failed}
    lines = [compare_named_runs(trained, home / "compare.png"), f"run folders: {home}"]
    missing = [f"not trained: {name}: {error.message}" for name, error in failed.items()]
    return Comparison("\n".join([*lines, *missing]), failed)


def _plan(
    models: Sequence[str], strategies: Sequence[str], home: Path, config: TrainConfig
) -> list[_Planned]:
    """Return all combinations; raise for a wrong name or setting before any work."""
    if len(models) * len(strategies) < 2:
        raise InputError(
            "there is one training only, and nothing to compare it with",
            hint="give two or more `models` or `strategies`",
        )
    without_views = config.replace(views=0, tta=False)  # only a probe has views
    configs = [
        (config if strategy == "probe" else without_views).replace(model=model, strategy=strategy)
        for model in models
        for strategy in strategies
    ]
    planned = [_plan_one(each, home) for each in configs]
    twice = [name for name, n in Counter(each.name.lower() for each in planned).items() if n > 1]
    if twice:
        raise InputError(f"there are two trainings for one run folder, {home / twice[0]}")
    return planned


def _plan_one(config: TrainConfig, home: Path) -> _Planned:
    """Return a training in a folder named after network and strategy; resumed if it was stopped."""
    from regraft.backbones.registry import resolve  # noqa: PLC0415 - imports torch

    check_sum(config.model, config.weights, config.strategy)
    model = "+".join(map(resolve, split_sum(config.model)))
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)[-_LONGEST:]}-{config.strategy}"
    folder = home / name
    stopped = bool(checkpoint_numbers(checkpoints_folder(folder))) and not config.overwrite
    return _Planned(name, folder, config.replace(model=model, out=folder, resume=stopped))


def _find_finished(planned: Sequence[_Planned], data: Any, reporter: Reporter) -> set[str]:
    """Return the names of the trainings that are finished; scan the data at most once.

    Without any earlier run the data are only opened, so that a wrong path ends here.
    """
    earlier = [each for each in planned if is_run(each.folder)]
    config = planned[0].config  # how images are read is the same for all
    if not earlier:
        open_source(data, SourceOptions.of(config))
        return set()
    samples = scan(data, config, reporter)
    finished = set()
    for each in earlier:
        differs = _difference(each, samples)
        if differs is None:
            finished.add(each.name)
        elif not config.overwrite:
            raise RunError(
                f"{each.folder} holds a run with other {differs}",
                hint="`out` names another folder; `overwrite=True` trains it again",
            )
    return finished


def _train_others(
    planned: Sequence[_Planned], finished: set[str], data: Any, reporter: Reporter
) -> dict[str, RegraftError]:
    """Train what is not finished; return the errors of those that failed, by name."""
    failed: dict[str, RegraftError] = {}
    for number, each in enumerate(planned, start=1):
        reporter.say(f"{number} of {len(planned)}: {each.name}")
        if each.name in finished:
            reporter.say(f"{each.folder} is finished already")
            continue
        try:
            train(data, each.config, reporter)
        except RegraftError as error:  # the others' results are not lost by it
            message, *further = error.parts
            for line in (f"{each.name} cannot be trained: {message}", *further):
                reporter.say(line)
            failed[each.name] = error
    return failed


def _difference(planned: _Planned, samples: Samples) -> str | None:
    """Return what differs between a run and the planned one; None if it can be kept."""
    if read_metrics(planned.folder)["regraft"] != __version__:
        return "versions of regraft"
    config = choose_augmentation(planned.config, samples)
    earlier = read_config(planned.folder / "config.yaml")
    # Not the name of a split file: the parts themselves are compared below.
    ignored = {*harmless(type(config)), "split", *unread(config)}
    changed = [
        f"{name} ({getattr(earlier, name)}, now {getattr(config, name)})"
        for name in settings_of(type(config))
        if name not in ignored and getattr(earlier, name) != getattr(config, name)
    ]
    if changed:
        return f"settings: {', '.join(changed)}"
    return None if _same_parts(planned, samples) else "images, or other parts of them"


def _same_parts(planned: _Planned, samples: Samples) -> bool:
    """Return whether a run had these images in these parts."""
    parts = split_by_config(samples, planned.config).part_names()
    rows = {row.id: row for row in read_split(planned.folder / "split.csv")}
    return len(rows) == len(samples) and all(
        name in rows
        and (rows[name].label, rows[name].sha256) == (samples.classes[label], digest)
        # An image that could not be decoded is in no part of the earlier run.
        and rows[name].part in {part, None}
        for name, label, digest, part in zip(
            samples.ids, samples.labels, samples.hashes, parts, strict=True
        )
    )
