"""Several networks and strategies, trained on the same split of the same images, and compared."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft.commands.compare_runs import compare_finished
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
from regraft.finetune.paths import checkpoints_folder, generations
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
    """What a comparison of trainings has found: text to print, and what could not be trained."""

    text: str
    failed: dict[str, RegraftError]


@dataclass(frozen=True)
class _Planned:
    """One training: what it is called, where it goes, and its settings."""

    name: str
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

    A run that is finished already, with the same settings, the same images and the same parts, is
    not trained again; one that was stopped in an epoch goes on from there. So the same call again
    does what is left to do.

    Parameters
    ----------
    data : str, Path or tuple of arrays
        As for ``regraft.train``.
    models, strategies : sequence of str
        As the settings ``model`` and ``strategy``; where there are none, the configuration's.
    config : TrainConfig, optional
        All other settings. ``out`` is the folder of all runs and of ``compare.png``, else one
        under ``regraft-runs/``, named after the data; with ``overwrite``, a run in it that differs
        in settings or images is replaced.
    reporter : Reporter, optional
        Silent where not given.

    Returns
    -------
    Comparison
        Table, tests and picture of those that could be trained; the errors of the others.

    Raises
    ------
    InputError
        Where there are fewer than two to compare, one is given twice, or a name is unknown.
    DataError
        Where the data cannot be used.
    RunError
        Where a run in the folder differs in settings or images; nothing is trained then.
    RegraftError
        Where none of them can be trained: what kept the first one from it.

    Examples
    --------
    ::

        found = compare_trainings("photos", ["torchvision/resnet50", "torchvision/vgg16"])
        print(found.text)
    """
    config = config or TrainConfig()
    home = config.out or DEFAULT_RUNS_FOLDER / f"compare-{name_after(data)}"
    planned = _plan(models or [config.model], strategies or [config.strategy], home, config)
    finished = _finished(planned, data, reporter)
    ready: dict[str, Path] = {}
    failed: dict[str, RegraftError] = {}
    for number, each in enumerate(planned, start=1):
        reporter.say(f"{number} of {len(planned)}: {each.name}")
        try:
            if each.name in finished:
                reporter.say(f"{each.folder} is finished already")
            else:
                train(data, each.config, reporter)
            ready[each.name] = each.folder
        except RegraftError as error:  # the others' results are not lost by it
            reporter.say(f"{each.name} cannot be trained: {error}")
            failed[each.name] = error
    if not ready:
        raise next(iter(failed.values()))
    lines = [compare_finished(ready, home / "compare.png"), f"run folders: {home}"]
    lines += [f"not trained: {name}: {error.message}" for name, error in failed.items()]
    return Comparison("\n".join(lines), failed)


def _plan(
    models: Sequence[str], strategies: Sequence[str], home: Path, config: TrainConfig
) -> list[_Planned]:
    """Return every combination; wrong names and settings are told before any work."""
    if len(models) * len(strategies) < 2:
        raise InputError(
            "there is one training only, and nothing to compare it with",
            hint="--models and --strategies take several names, with commas between them",
        )
    # Views are a probe's.
    rest = config.replace(views=0, tta=False)
    configs = [
        (config if strategy == "probe" else rest).replace(model=model, strategy=strategy)
        for model in models
        for strategy in strategies
    ]
    from regraft.backbones.registry import resolve  # noqa: PLC0415 - imports torch

    planned = []
    for each in configs:
        model = resolve(each.model)
        name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)[-_LONGEST:]}-{each.strategy}"
        folder = home / name
        stopped = bool(generations(checkpoints_folder(folder))) and not config.overwrite
        each = each.replace(model=model, out=folder, resume=stopped)  # noqa: PLW2901 - completed
        planned.append(_Planned(name, folder, each))
    twice = [name for name, n in Counter(each.name.lower() for each in planned).items() if n > 1]
    if twice:
        raise InputError(f"there are two trainings for one run folder, {home / twice[0]}")
    return planned


def _finished(planned: Sequence[_Planned], data: Any, reporter: Reporter) -> set[str]:
    """Return the names of those that need no training; also look at the data, once for all."""
    there = [each for each in planned if is_run(each.folder)]
    config = planned[0].config  # how images are read is the same for all
    if not there:
        open_source(data, SourceOptions(config.data_root, config.group_by))
        return set()
    samples = scan(data, config, reporter)
    finished = set()
    for each in there:
        differs = _difference(each, samples)
        if differs is None:
            finished.add(each.name)
        elif not config.overwrite:
            raise RunError(
                f"{each.folder} holds a run with other {differs}",
                hint="--out names another folder; --overwrite trains it again",
            )
    return finished


def _difference(planned: _Planned, samples: Samples) -> str | None:
    """Say in what a run differs from what is planned; None where it need not be trained again."""
    if read_metrics(planned.folder)["regraft"] != __version__:
        return "versions of regraft"
    config = choose_augmentation(planned.config, samples)
    then = read_config(planned.folder / "config.yaml")
    # Of the split, the parts themselves are compared.
    free = {*harmless(type(config)), "split", *unread(config)}
    changed = [
        f"{name} ({getattr(then, name)}, now {getattr(config, name)})"
        for name in settings_of(type(config))
        if name not in free and getattr(then, name) != getattr(config, name)
    ]
    if changed:
        return f"settings: {', '.join(changed)}"
    return None if _same_parts(planned, samples) else "images, or other parts of them"


def _same_parts(planned: _Planned, samples: Samples) -> bool:
    """Whether a run had these images in these parts."""
    parts = split_by_config(samples, planned.config).part_names()
    rows = {row.id: row for row in read_split(planned.folder / "split.csv")}
    return len(rows) == len(samples) and all(
        name in rows
        and (rows[name].label, rows[name].sha256) == (samples.classes[label], digest)
        # In no part is also what could be scanned and not decoded.
        and rows[name].part in {part, None}
        for name, label, digest, part in zip(
            samples.ids, samples.labels, samples.hashes, parts, strict=True
        )
    )
