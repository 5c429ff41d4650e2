"""The rounds of a race: successive halving, with a test in place of the half.

Each round reads a larger sample of the training part by the networks that are left, fits each and
the sums of the best three, and leaves out networks none of whose candidates can be the best any
more. Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter
optimization, AISTATS 2016, leave out half of them; here those that are significantly worse are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.core.text import counted
from regraft.errors import NOT_FINITE, DataError, InputError, RegraftError
from regraft.evaluation.elimination import cheapest_within_one_error, find_left, find_worse
from regraft.heads.fit import sample_weights
from regraft.probe.selection import paired_difference
from regraft.probe.subset import share_of_each_class
from regraft.race.fits import Fit, fit_candidate, side_by_side
from regraft.splits.clusters import units_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.core.reporter import Reporter
    from regraft.data.dataset import Dataset
    from regraft.errors import ImageError
    from regraft.features.features import Features
    from regraft.probe.fit import ProbeSettings
    from regraft.race.clock import Clock
    from regraft.race.entrant import Entrant
    from regraft.race.kept import Kept

#: The largest probability, over all rounds, with which the best candidate is left out.
LEVEL = 0.05
GROWTH = 4  # a sample has so many times the images of the one before
#: A smaller first sample would tell nothing apart at these levels.
_LEAST_IMAGES, _LEAST_OF_A_CLASS = 50, 10
_IN_SUMS = 3  # networks: their sums are four candidates

Units = "Callable[[Features, Dataset], NDArray[np.int64]]"


@dataclass
class Contender:
    """A network or a sum, as it was last measured."""

    name: str  # as the setting ``model`` takes it
    members: tuple[Entrant, ...]
    round: int = 0  # in which it was last measured, from 1; 0 for none
    images: int = 0  # of the training part, in that round
    fit: Fit = field(default_factory=Fit.none)
    fit_seconds: float = 0.0  # of all rounds
    log_loss: float = 0.0  # mean; where classes count the same, the balanced one
    log_loss_se: float = 0.0  # its standard error, over units
    reason: str = ""  # why it did not win

    @property
    def latency(self) -> float:
        """Return the milliseconds for one image: networks run one after another."""
        return sum(each.latency for each in self.members)


@dataclass
class Standing:
    """What a race has found so far."""

    dataset: Dataset  # without images that could not be read
    sample: Dataset  # of the last round; before the first, the dataset
    n_rounds: int
    round: int = 0  # the last round
    candidates: dict[str, Contender] = field(default_factory=dict)
    winner: Contender | None = None
    whole: bool = False  # whether the last round read all images of the training part
    notes: list[str] = field(default_factory=list)

    def candidate(self, *members: Entrant) -> Contender:
        """Return the candidate of some networks, the same one each time."""
        name = "+".join(each.name for each in members)
        return self.candidates.setdefault(name, Contender(name, members))


@dataclass(frozen=True)
class RaceRules:
    """What holds in all rounds."""

    settings: ProbeSettings
    units: Any  # Units: near copies, found by the features of one network
    strict: bool
    latency: float | None  # ms that a candidate may take
    clock: Clock
    kept: Kept
    reporter: Reporter


def shares_of_rounds(n: int, n_classes: int) -> list[float]:
    """Return the share of the training part that each round reads, the last one all.

    Examples
    --------
    >>> shares_of_rounds(3440, 5), shares_of_rounds(150, 5)
    ([0.015625, 0.0625, 0.25, 1.0], [1.0])
    """
    least, shares = max(_LEAST_IMAGES, _LEAST_OF_A_CLASS * n_classes), [1.0]
    while n * shares[0] / GROWTH >= least:
        shares.insert(0, shares[0] / GROWTH)
    return shares


def run_rounds(entrants: Sequence[Entrant], dataset: Dataset, rules: RaceRules) -> Standing:
    """Race some networks on the training part of a dataset; the test part is not read.

    Raises
    ------
    InputError
        The time is too short for a first network, or there are too few images for folds.
    """
    shares = shares_of_rounds(len(dataset.train), len(dataset.classes))
    standing = Standing(dataset, dataset, len(shares))
    left = sorted(entrants, key=lambda each: each.latency)
    for each in left:
        standing.candidate(each)
    for number, share in enumerate(shares, start=1):
        if len(left) == 1 and share < 1:
            continue  # nothing to compare: what is left is read whole
        sample = _sample(standing.dataset, share)
        begun = _begin(left, sample, standing, rules, number)
        if not begun:
            break
        _say_round(begun, sample, standing, number, rules)
        measured = _measure(begun, sample, standing, rules, number)
        standing.whole = share == 1
        left = _leave_out(measured, standing, rules)
    _choose(standing, rules)
    return standing


def _sample(dataset: Dataset, share: float) -> Dataset:
    train = share_of_each_class(dataset.train, dataset.samples, share)
    return _with_train(dataset, train)


def _with_train(dataset: Dataset, train: NDArray[np.int64]) -> Dataset:
    none = np.empty(0, np.int64)
    parts = dataclasses.replace(dataset.parts, train=train, val=none, test=none)
    return dataclasses.replace(dataset, parts=parts)


def _say_round(
    left: Sequence[Entrant], sample: Dataset, standing: Standing, number: int, rules: RaceRules
) -> None:
    rules.reporter.say(
        f"round {number} of {standing.n_rounds}: {counted(len(sample.train))}, "
        f"{', '.join(each.name for each in left)}"
    )


def _begin(
    left: Sequence[Entrant], sample: Dataset, standing: Standing, rules: RaceRules, number: int
) -> list[Entrant]:
    """Return the networks whose reading fits into the time; of a later round, all or none."""
    expected = {each.name: _expected(each, len(sample.train), standing) for each in left}
    if standing.round:
        needed = sum(expected.values())
        if rules.clock.allows(needed):
            return [*left]
        standing.notes.append(
            f"round {number} of {standing.n_rounds} was not begun: it takes about {needed:,.0f} s, "
            f"and {max(rules.clock.left, 0):,.0f} are left"
        )
        return []
    begun: list[Entrant] = []
    planned = 0.0
    for each in left:
        planned += expected[each.name]
        if rules.clock.allows(planned):
            begun.append(each)
            continue
        planned -= expected[each.name]
        standing.candidate(each).reason = (
            f"not begun: it takes about {expected[each.name]:,.1f} s, and "
            f"{max(rules.clock.left - planned, 0):,.1f} are left"
        )
    if not begun:
        fastest = left[0]
        raise InputError(
            f"no network can be begun in the time: {fastest.name} takes about "
            f"{expected[fastest.name]:,.1f} s for {counted(len(sample.train))}, and "
            f"{max(rules.clock.left, 0):,.1f} are left",
            hint="`seconds` gives more time",
        )
    return begun


def _expected(entrant: Entrant, images: int, standing: Standing) -> float:
    """Return the seconds that a network takes for a sample: new images, and a larger fit."""
    known = standing.candidate(entrant)
    again = known.fit.seconds * images / max(known.images, 1)
    return (images - known.images) * entrant.rate + again


def _measure(
    left: Sequence[Entrant], sample: Dataset, standing: Standing, rules: RaceRules, number: int
) -> list[Contender]:
    """Read a sample by each network; fit each, and the sums of the best three."""
    read: dict[str, Features] = {}
    for each in left:
        features = _read(each, sample, standing, rules)
        if features is not None:
            read[each.name] = features
    if not read:
        raise InputError(
            "no network could read the images",
            hint="; ".join(f"{each.name}: {standing.candidate(each).reason}" for each in left[:3]),
        )
    refused: dict[int, ImageError] = {}
    for features in read.values():
        refused |= features.refused
    standing.dataset = standing.dataset.without(refused, strict=rules.strict)
    sample = _with_train(standing.dataset, sample.train[~np.isin(sample.train, [*refused])])
    sample.require_every_class()
    members = sorted((each for each in left if each.name in read), key=lambda each: each.place)
    units = rules.units(read[members[0].name], sample)
    standing.sample, standing.round = sample.with_units(units), number
    singles = [_fit([each], read, standing, rules, number) for each in members]
    best = sorted(singles, key=lambda each: each.log_loss)[:_IN_SUMS]
    sums = [
        _fit(some, read, standing, rules, number)
        for size in range(2, len(best) + 1)
        for some in combinations([each.members[0] for each in best], size)
        if _sum_is_tried(some, standing, rules)
    ]
    return [*singles, *sums]


def _read(
    entrant: Entrant, sample: Dataset, standing: Standing, rules: RaceRules
) -> Features | None:
    """Return the features of a sample by a network; None if it fails, with the reason said."""
    candidate = standing.candidate(entrant)
    try:
        features = entrant.read(sample, rules.kept)
    except DataError:
        raise
    except RegraftError as error:
        candidate.reason = f"failed: {error.message}"
        rules.reporter.say(f"{entrant.name} is left out: {error.message}")
        return None
    failed = [index for index, e in features.refused.items() if e.kind == NOT_FINITE.kind]
    if failed:
        candidate.reason = f"failed: infinite or undefined features of {counted(len(failed))}"
        rules.reporter.say(f"{entrant.name} is left out: {candidate.reason}")
        return None
    return features


def _sum_is_tried(members: Sequence[Entrant], standing: Standing, rules: RaceRules) -> bool:
    """Return whether a sum can be fitted: it is fast enough, and the time is enough for it."""
    if rules.latency is not None and sum(each.latency for each in members) > rules.latency:
        return False
    return rules.clock.allows(sum(standing.candidate(each).fit.seconds for each in members))


def _fit(
    members: Sequence[Entrant],
    read: dict[str, Features],
    standing: Standing,
    rules: RaceRules,
    number: int,
) -> Contender:
    members = sorted(members, key=lambda each: each.place)
    candidate, sample = standing.candidate(*members), standing.sample
    features = side_by_side([read[each.name] for each in members])
    fit = fit_candidate(members, features, sample, rules.settings, rules.kept)
    if not any(fit.scored):
        raise InputError(
            "the training part has too few images to compare networks by its folds",
            hint="each class needs several images that do not depend on each other",
        )
    candidate.fit, candidate.round, candidate.images = fit, number, len(sample.train)
    candidate.fit_seconds += fit.seconds
    losses, units, weights = _compared([candidate], standing, rules)
    nothing = np.zeros(losses.shape[1])
    found = paired_difference(losses[0], nothing, units, weights)
    candidate.log_loss, candidate.log_loss_se = found
    return candidate


def _compared(
    candidates: Sequence[Contender], standing: Standing, rules: RaceRules
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the losses (m, n) of candidates, the unit and the weight of each image held out."""
    sample, fits = standing.sample, [each.fit for each in candidates]
    scored = np.logical_and.reduce([each.scored for each in fits])
    train, y = sample.train, sample.labels(sample.train)
    weights = sample_weights(
        y, len(sample.classes), rules.settings.class_weight, sample.weights(train)
    )
    losses = np.array([each.losses for each in fits], np.float64)[:, scored]
    return losses, units_in(sample)[train][scored], weights[scored]


def _leave_out(
    measured: Sequence[Contender], standing: Standing, rules: RaceRules
) -> list[Entrant]:
    """Return the networks that are left; in the last round all, since the winner is chosen."""
    entrants = [each.members[0] for each in measured if len(each.members) == 1]
    if standing.whole:
        return entrants
    found = find_left(
        *_compared(measured, standing, rules),
        members=np.array([[one in each.members for one in entrants] for each in measured]),
        prices=[each.latency for each in measured],
        level=LEVEL / (standing.n_rounds - 1),
    )
    left = [one for one, stays in zip(entrants, found.networks, strict=True) if stays]
    for each, than, p in zip(measured, *found.worse, strict=True):
        each.reason = ""
        if not all(member in left for member in each.members):
            better = measured[int(than)]
            each.reason = "no better than without a network that is left out"
            if len(each.members) == 1 or p < LEVEL:
                each.reason = f"worse than {better.name} (p {p:.1g})"
    gone = [one.name for one in entrants if one not in left]
    if gone:
        rules.reporter.say(f"left out: {', '.join(gone)}")
    return left


def _choose(standing: Standing, rules: RaceRules) -> None:
    """Choose the winner among those of the last round; say of the others why not."""
    some = [
        each
        for each in standing.candidates.values()
        if each.round == standing.round and not each.reason
    ]
    losses, clusters, weights = _compared(some, standing, rules)
    chosen = cheapest_within_one_error(losses, clusters, weights, [each.latency for each in some])
    standing.winner = winner = some[chosen]
    worse = find_worse(losses, clusters, weights)
    for each, p, than in zip(some, worse.p, worse.than, strict=True):
        if each is winner:
            each.reason = "winner"
        elif p < LEVEL:
            each.reason = f"worse than {some[int(than)].name} (p {p:.1g})"
        elif each.latency >= winner.latency:
            each.reason = "no clear difference, and slower"
        else:
            each.reason = "above the least loss by more than one standard error"
    for each in standing.candidates.values():
        if not each.reason:  # a sum that was not fitted again
            failed = any(
                standing.candidate(member).reason.startswith("failed") for member in each.members
            )
            each.reason = "a network of it failed" if failed else "not of the best three any more"
