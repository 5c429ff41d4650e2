"""What a training has anyway, made ready for decisions: pooled features and out-of-fold answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.core.keyed_random import key_of
from regraft.decision.answers import MOST_ANSWERS, Answers
from regraft.decision.levels import LEVELS, levels_with
from regraft.decision.policy import Decided, Decisions, Levels, Rules, bearable_level
from regraft.decision.scorers import MOST_UNITS
from regraft.decision.typicality import (
    BANK_ROWS,
    MOST_MEASURED,
    Typicality,
    energies_of,
    fit_centre,
    fit_neighbours,
    units_needed,
)
from regraft.errors import ConfigError
from regraft.features.taps import POOLED, Block
from regraft.heads.fit import WITHOUT_WEIGHTS, class_weights
from regraft.probe.subset import sorted_by_hash
from regraft.splits.clusters import units_in
from regraft.splits.rounds import test_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.config.train_config import ClassWeight, TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples
    from regraft.features.features import Features
    from regraft.heads.fitted import FittedHead
    from regraft.model import Model

#: Of the nearest class mean, logits lack a term that all classes share, the length of the features,
#: and means of fewer images are longer: an energy without it says less of foreign images than the
#: distance alone, and called 0.03 unknown where 0.05 was aimed at (20 images a class).
_WITHOUT_ENERGY = ("mean",)
#: Its probabilities do not say how frequent the classes are, as if each had the same weight.
_FLAT = ("mean",)
_ROWS_AT_ONCE = 4096  # of pooled features in memory


@dataclass(frozen=True)
class DecisionSettings:
    """How the decisions of a training are fitted.

    Parameters
    ----------
    levels : Levels
        What was asked for.
    bank : bool
        Whether rows of training images may be kept.
    class_weight : "none" or "balanced"
        As in the fit of the head.
    """

    levels: Levels
    bank: bool = True
    class_weight: ClassWeight = "none"

    @classmethod
    def of(cls, config: TrainConfig, dataset: Dataset) -> DecisionSettings:
        """Return the settings of a training; read the table of costs.

        Raises
        ------
        ConfigError
            The table is wrong, or the images cannot bear the level.
        """
        levels = levels_of(config, dataset.classes)
        _check_units(levels, dataset, config)
        return cls(levels, config.bank, config.class_weight)


@dataclass(frozen=True)
class Answered:
    """The out-of-fold logits of a fit, and the samples that they are of.

    Parameters
    ----------
    fitted : FittedHead
        With a row of logits for each row of its fit.
    rows : array of shape (N,), int64
        Sample of each of these rows.
    """

    fitted: FittedHead
    rows: NDArray[np.int64]

    def positions(self) -> dict[int, int]:
        """Return the row of each sample that has logits."""
        scored = np.flatnonzero(self.fitted.scored)
        return dict(zip(self.rows[scored].tolist(), scored.tolist(), strict=True))


def levels_of(config: TrainConfig, classes: Sequence[str]) -> Levels:
    """Return the levels of a configuration; read the table of costs for these classes."""
    return levels_with(Levels(), classes, {name: getattr(config, name) for name in LEVELS})


def _check_units(levels: Levels, dataset: Dataset, config: TrainConfig) -> None:
    """Refuse a level that the images cannot bear, before hours of work.

    Images are found later that are copies, or that cannot be read: then a note says so.
    """
    if levels.unknown is None:
        return
    part, measured = "training part", [dataset.train]
    if config.strategy != "probe":  # the network is trained on the training part
        part, measured = "validation part", [dataset.val]
    elif config.folds:
        part = "training part of each round"
        measured = [each.train for each in test_folds(dataset, config.folds, config.seed)]
    units, needed = units_in(dataset), units_needed(levels.unknown)
    n = min(len(np.unique(units[each])) for each in measured)
    if n < needed:
        raise ConfigError(
            f"unknown_level is {levels.unknown:g}: that needs {needed:,} images of the {part} that "
            f"do not depend on each other, there are {n:,}",
            hint=bearable_level(n),
        )


def fit_decisions(
    answered: Answered,
    features: Features,
    dataset: Dataset,
    settings: DecisionSettings,
) -> Decisions:
    """Return the decisions of a model.

    Parameters
    ----------
    answered : Answered
        Out-of-fold logits on the training part, or logits on the validation part, if the network
        was trained on the training part.
    features : Features
        Of the model's network.
    dataset : Dataset
        Its parts.
    settings : DecisionSettings
        Levels, and what may be kept.
    """
    units = units_in(dataset)
    held_out = bool(len(dataset.val)) and bool(np.isin(answered.rows, dataset.val).all())
    weights = _weights_of_fit(answered.fitted, dataset, settings.class_weight)
    typicality = _typicality(
        answered, features, dataset, units, bank=settings.bank, held_out=held_out
    )
    return Decisions(
        typicality=typicality,
        answers=_answers(answered, dataset, units, weights),
        n_units=len(np.unique(units[dataset.train])),
        class_weights=weights,
        held_out=held_out,
        levels=settings.levels,
    )


def _weights_of_fit(
    fitted: FittedHead, dataset: Dataset, class_weight: ClassWeight
) -> NDArray[np.float64] | None:
    """Return how much an image of each class counts in the probabilities (K,); None if the same."""
    head, train = fitted.record.get("head"), dataset.train
    weighted = class_weight == "balanced" and head not in WITHOUT_WEIGHTS
    if not weighted and head not in _FLAT:
        return None
    return class_weights(dataset.labels(train), len(dataset.classes), dataset.weights(train))


def decide(rules: Rules, model: Model, features: Features, indices: NDArray[np.int64]) -> Decided:
    """Decide about some samples, by what a model says of their features."""
    parts = []
    for start in range(0, max(len(indices), 1), _ROWS_AT_ONCE):
        some = indices[start : start + _ROWS_AT_ONCE]
        logits = model.logits(features.matrix(some, model.blocks))
        pooled = None
        if rules.typicality is not None:
            pooled = features.matrix(some, (Block(POOLED),))
        parts.append(rules.decide(model.calibrated(logits), pooled, logits))
    return Decided.joined(parts, np.arange(len(indices)))


def one_of_each(
    indices: NDArray[np.int64], units: NDArray[np.int64], samples: Samples
) -> NDArray[np.int64]:
    """Return one sample of each unit among some samples: a random one, in random order.

    It is the one with the smallest hash. In the order of these hashes, units of many samples would
    come first, and a bank of the first rows would know them best: another hash gives the order.
    """
    ordered = sorted_by_hash(indices, samples)
    chosen = ordered[np.unique(units[ordered], return_index=True)[1]].tolist()
    chosen.sort(key=lambda index: key_of("order of units", samples.hashes[index]))
    return np.asarray(chosen, dtype=np.int64)


def _typicality(
    answered: Answered,
    features: Features,
    dataset: Dataset,
    units: NDArray[np.int64],
    *,
    bank: bool,
    held_out: bool,
) -> Typicality | None:
    """Return the typicality by one image of each unit; None for very few units."""
    fit = fit_neighbours if bank else fit_centre
    position = answered.positions()  # of the samples that have an energy
    energies = energies_of(answered.fitted.oof_logits)  # (N,), of rows; only scored ones count
    if answered.fitted.record.get("head") in _WITHOUT_ENERGY:
        position = {}
    chosen = one_of_each(dataset.train, units, dataset.samples)
    measured = chosen
    if held_out:
        chosen = chosen[:MOST_UNITS]
        measured = one_of_each(dataset.val, units, dataset.samples)[:MOST_MEASURED]
    elif len(chosen) > MOST_UNITS:  # of many images, those count that have logits
        rest = chosen[BANK_ROWS:]
        scored = np.isin(rest, list(position))
        measured = (rest[scored] if scored.any() else rest)[:MOST_MEASURED]
        chosen = measured = np.concatenate([chosen[:BANK_ROWS], measured])
    own = np.array([energies[position[k]] if k in position else np.nan for k in measured.tolist()])
    block = (Block(POOLED),)
    others = features.matrix(measured, block) if held_out else None
    return fit(features.matrix(chosen, block), others, own)


def _answers(
    answered: Answered,
    dataset: Dataset,
    units: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
) -> Answers:
    """Return the answers, with the probabilities that the bundle would give for such logits."""
    fitted = answered.fitted
    position = answered.positions()
    chosen = one_of_each(np.fromiter(position, np.int64), units, dataset.samples)[:MOST_ANSWERS]
    logits = fitted.oof_logits[[position[index] for index in chosen.tolist()]]
    probabilities = (torch.from_numpy(logits) / fitted.temperature).softmax(1).numpy()
    return Answers.of(probabilities, dataset.labels(chosen), weights)
