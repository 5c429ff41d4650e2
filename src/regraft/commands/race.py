"""``regraft race DATA``: which network, or which sum of two or three, suits these images."""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens after the data were scanned

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft.backbones.lists import LISTS, expand
from regraft.commands.checks import check_first
from regraft.commands.race_folder import RaceFolder
from regraft.config.settings import configured
from regraft.core.machine import n_threads
from regraft.core.reporter import SILENT, Reporter
from regraft.data.notes import report_dataset
from regraft.data.scan import scan
from regraft.errors import ConfigError, InputError, RegraftError
from regraft.race.clock import Clock
from regraft.splits.split import split_by_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.data.dataset import Dataset
    from regraft.features.features import Features
    from regraft.race.entrant import Entrant
    from regraft.race.rounds import RaceRules, Standing

DEFAULT_NETWORK = "embedded"  # beside which the winner is tested


class Raced(NamedTuple):
    """The result of a race."""

    text: str  # to print
    folder: Path
    record: dict[str, Any]  # as in race.json


def race(
    data: Any,
    models: Sequence[str] = ("offline",),
    config: Any = None,
    reporter: Reporter = SILENT,
    *,
    seconds: float | None = None,
    latency: float | None = None,
    **settings: Any,
) -> Raced:
    """Race networks by probes on the training part; test the winner once.

    The same call again goes on where it was stopped.

    Parameters
    ----------
    data : str, Path or tuple of arrays
        As for ``regraft.train``.
    models : sequence of str
        Names of networks, or of lists of them: offline, small, medium, large.
    config : TrainConfig, optional
        All other settings. ``out`` is the folder of race.json and race.png; by default one under
        ``regraft-runs/``, named after the data.
    reporter : Reporter
        Follows the work; silent by default.
    seconds : float, optional
        No network and no round is begun that would take longer.
    latency : float, optional
        Milliseconds that an image may take.
    **settings
        Fields of TrainConfig, instead of those of ``config``.

    Raises
    ------
    RegraftError
        What is wrong, where, and what to do.
    """
    asked = configured(config, settings)
    names = _check(models, asked, seconds, latency)
    clock = Clock(seconds)
    check_first(asked)
    samples = scan(data, asked, reporter)
    dataset = split_by_config(samples, asked)
    report_dataset(dataset, reporter)
    folder = RaceFolder.take(data, dataset, asked, {"models": names, "latency": latency})

    from regraft.probe.fit import ProbeSettings
    from regraft.race.rounds import RaceRules, run_rounds

    rules = RaceRules(
        ProbeSettings.of(asked),
        partial(_units, workers=asked.workers),
        asked.strict,
        latency,
        clock,
        folder.kept,
        reporter,
    )
    with ExitStack() as stack:
        entrants, missing = _load(names, dataset, asked, rules, stack)
        standing = run_rounds(entrants, dataset, rules)
        test = _test(standing, asked, rules, stack)
        return Raced(*folder.write(standing, missing, test, asked))


def _check(
    models: Sequence[str], config: Any, seconds: float | None, latency: float | None
) -> list[str]:
    """Return the networks by their full names; refuse what cannot be, before any work."""
    for name, value in (("seconds", seconds), ("latency", latency)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} is {value:g}; it must be above 0 and finite")
    if config.strategy != "probe":
        raise ConfigError(
            f"strategy is {config.strategy}: networks are raced by probes",
            hint="race first, and train the winner with that strategy",
        )
    if config.folds:
        raise ConfigError(
            f"folds is {config.folds}: a race needs images that its choice does not see",
            hint="leave `folds` out, and test the winner by folds",
        )
    from regraft.backbones.registry import resolve
    from regraft.backbones.sums import split_sum

    words = [word for word in models if word]
    for word in words:
        if len(split_sum(word)) > 1:
            raise InputError(
                f"{word} is a sum: a race makes sums of its networks itself",
                hint="give `models` one by one, with commas between them",
            )
    names = [*dict.fromkeys(resolve(name) for name in expand(words))]
    if len(names) < 2:
        raise InputError(
            f"there {'is one network' if names else 'are no networks'} only, and nothing to race"
            f"{' it with' if names else ''}",
            hint=f"give two or more `models`, or a list: {', '.join(LISTS)}",
        )
    return names


def _load(
    names: Sequence[str], dataset: Dataset, config: Any, rules: RaceRules, stack: ExitStack
) -> tuple[list[Entrant], dict[str, str]]:
    """Load the networks; return those that can be raced, and why the others cannot."""
    from regraft.race.entrant import load_entrant

    entrants: list[Entrant] = []
    missing: dict[str, str] = {}
    first: RegraftError | None = None
    for place, name in enumerate(names):
        if not rules.clock.allows(0):
            missing[name] = "the time was over before it was loaded"
            continue
        try:
            loaded = load_entrant(name, place, dataset.samples, config, rules.kept, rules.reporter)
        except RegraftError as error:
            first = first or error
            missing[name] = error.message.removeprefix(f"{name}: ").partition("\n")[0]
            rules.reporter.say(f"not raced: {name}: {missing[name]}")
            continue
        stack.enter_context(loaded.extractor)
        entrants.append(loaded)
    able = [each for each in entrants if rules.latency is None or each.latency <= rules.latency]
    for each in entrants:
        if each not in able:
            missing[each.name] = f"{each.latency:,.1f} ms an image are too slow"
    if able:
        return able, missing
    if not entrants:
        raise first or InputError(
            "the time was over before a network was loaded", hint="`seconds` gives more time"
        )
    fastest = min(entrants, key=lambda each: each.latency)
    raise InputError(
        f"no network takes at most {rules.latency:g} ms an image: the fastest, {fastest.name}, "
        f"takes {fastest.latency:,.1f}",
        hint="a larger `latency`",
    )


def _units(features: Features, sample: Dataset, workers: int) -> NDArray[Any]:
    """Return the unit of each sample: near copies within the training part belong together."""
    from regraft.check.near_duplicates import Directions, units_of

    directions = Directions(features, len(sample.samples))
    return units_of(sample, directions, n_threads(workers))


def _test(
    standing: Standing, config: Any, rules: RaceRules, stack: ExitStack
) -> dict[str, Any] | None:
    """Read the test part, for the winner and the default network; None if that is not to be."""
    from regraft.race.entrant import load_entrant
    from regraft.race.tested import expected_seconds, score_on_test

    winner = standing.winner
    if winner is None or not standing.whole:
        standing.notes.append("the test part was not read: the winner has not seen all images")
        return None
    if not rules.clock.allows(expected_seconds(winner.members, standing)):
        standing.notes.append("the test part was not read: the time is over")
        return None
    named = {winner.name: winner.members}
    entrants = {each.name: each.members for each in standing.candidates.values()}
    default = entrants.get(DEFAULT_NETWORK)
    if default is None:
        loaded = load_entrant(
            DEFAULT_NETWORK, -1, standing.dataset.samples, config, rules.kept, rules.reporter
        )
        stack.enter_context(loaded.extractor)
        default = (loaded,)
    needed = expected_seconds(winner.members, standing) + expected_seconds(default, standing)
    if rules.clock.allows(needed):
        named.setdefault(DEFAULT_NETWORK, default)
    else:
        standing.notes.append(f"{DEFAULT_NETWORK} was not tested: the time is over")
    return score_on_test(named, standing, rules, config.seed)
