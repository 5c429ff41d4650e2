"""What is decided about an image: unknown, a set of classes, an abstention, the cheapest answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.core.text import counted
from regraft.decision.answers import plain
from regraft.decision.conformal import SetRule, answers_needed, fit_sets
from regraft.decision.costs import ABSTAIN, ABSTAINED, IS_UNKNOWN, Costs
from regraft.decision.promise import Promise, fit_promise
from regraft.decision.scorers import LEAST_UNITS
from regraft.decision.typicality import units_needed
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.decision.answers import Answers
    from regraft.decision.conformal import CoverageBy
    from regraft.decision.typicality import Typicality

USUAL_LEVEL = 0.01


@dataclass(frozen=True)
class Levels:
    """What a person chooses.

    Parameters
    ----------
    unknown : float, optional
        Share of images of the training's kind that may be called unknown; None for 0.01, or no
        answer where the units are too few for that.
    coverage : float
        Share of images whose set is to hold the true class.
    coverage_by : "all" or "class"
        Whether that share is aimed at over all images, or in each class.
    min_precision : float, optional
        Share of the answers that are to be right; the rest abstain.
    costs : Costs, optional
        The cheapest answer is taken. Not together with ``min_precision``.
    """

    unknown: float | None = None
    coverage: float = 0.95
    coverage_by: CoverageBy = "all"
    min_precision: float | None = None
    costs: Costs | None = None


@dataclass(frozen=True)
class Decided:
    """What was decided about N images.

    Parameters
    ----------
    actions : array of shape (N,), int64
        The class that is answered, or ``ABSTAINED`` or ``IS_UNKNOWN``.
    sets : array of shape (N, K), bool
        Classes in the set of each image.
    p_values : array of shape (N,), float64, optional
        Typicality; None if the bundle has none.
    unknown : array of shape (N,), bool, optional
        Whether the image fits no class; None if no level can be borne.
    abstained : array of shape (N,), bool, optional
        Whether no answer is given, or would be given to an image that is not unknown; None if
        neither a precision nor costs are asked for.
    """

    actions: NDArray[np.int64]
    sets: NDArray[np.bool_]
    p_values: NDArray[np.float64] | None
    unknown: NDArray[np.bool_] | None
    abstained: NDArray[np.bool_] | None

    @classmethod
    def joined(cls, parts: Sequence[Decided], order: NDArray[np.int64]) -> Decided:
        """Return the decisions of several models about different images, in another order.

        What one of them could not decide is undecided for all. Where one has no level, none of the
        others may have called an image unknown: that is an action too.
        """

        def all_of(name: str) -> NDArray[np.generic] | None:
            each = [getattr(part, name) for part in parts]
            return None if any(one is None for one in each) else np.concatenate(each)[order]

        return cls(**{name: all_of(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rules:
    """Thresholds of one model at some levels: ready to decide.

    Parameters
    ----------
    levels : Levels
        What was asked for.
    level : float, optional
        Images with a p-value of at most this are unknown; None if there is no such level.
    missing : dict of str to str
        What could not be had, and why, by the name of the setting that asks for it.
    """

    typicality: Typicality | None
    level: float | None
    sets: SetRule
    promise: Promise | None
    costs: Costs | None
    class_weights: NDArray[np.float64] | None
    levels: Levels = field(default_factory=Levels)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be had, in sentences."""
        return tuple(self.missing.values())

    def decide(
        self,
        probabilities: NDArray[np.float32],
        pooled: NDArray[np.float32] | None,
        logits: NDArray[np.float32] | None = None,
    ) -> Decided:
        """Decide about N images.

        Parameters
        ----------
        probabilities : array of shape (N, K), float32
            Calibrated, as the model gives them.
        pooled : array of shape (N, D), float32, optional
            Pooled features of the network; needed for typicality.
        logits : array of shape (N, K), float32, optional
            Of the head, before the temperature; needed for typicality.

        Returns
        -------
        Decided
        """
        p_values = unknown = abstained = None
        if self.typicality is not None and pooled is not None:
            p_values = self.typicality.p_values(pooled, logits)
            unknown = None if self.level is None else p_values <= self.level
        actions = probabilities.argmax(1)
        if self.costs is not None:
            actions = self.expected_costs(probabilities).argmin(1)
            abstained = actions == self.costs.column(ABSTAIN)
        elif self.promise is not None:
            abstained = self._unsure(probabilities, self.promise.threshold)
        if abstained is not None:
            actions = np.where(abstained, ABSTAINED, actions)
        if unknown is not None and not (self.costs and not self.costs.extra):
            actions = np.where(unknown, IS_UNKNOWN, actions)
        return Decided(actions, self.sets.sets(probabilities), p_values, unknown, abstained)

    def expected_costs(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what each answer costs (N, A) by probabilities (N, K); there must be costs."""
        if self.costs is None:
            raise ValueError("there are no costs")
        return self.costs.expected(plain(probabilities, self.class_weights))

    def _unsure(
        self, probabilities: NDArray[np.float32], threshold: float | None
    ) -> NDArray[np.bool_]:
        if threshold is None:  # nothing can be promised: nothing is answered
            return np.full(len(probabilities), fill_value=True)
        unsure: NDArray[np.bool_] = self.confidence(probabilities) < np.float32(threshold)
        return unsure

    def confidence(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a promise compares with its threshold (N,), of probabilities (N, K)."""
        shares = plain(probabilities, self.class_weights)
        confidence: NDArray[np.float32] = shares[np.arange(len(shares)), probabilities.argmax(1)]
        return confidence


@dataclass(frozen=True)
class Decisions:
    """What a bundle keeps to decide at any level.

    Parameters
    ----------
    typicality : Typicality, optional
        None if the network's features say nothing, or none were kept.
    answers : Answers
        Of models that had not seen the image, one for each unit.
    n_units : int
        Units of the training part; ``answers`` has those that were scored.
    class_weights : array of shape (K,), float64, optional
        Of the classes in the fit, if they differ.
    held_out : bool
        Whether images of the validation part gave scores and answers, and not folds: no weight was
        fitted on them, but the temperature was, and the best epoch was chosen by them.
    levels : Levels
        Those of the training, which are used where no others are given.
    """

    typicality: Typicality | None
    answers: Answers
    n_units: int
    class_weights: NDArray[np.float64] | None = None
    held_out: bool = False
    levels: Levels = field(default_factory=Levels)

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that a bundle keeps, all in one file."""
        kept = self.answers.tensors()
        if self.typicality is not None:
            kept |= self.typicality.tensors()
        if self.class_weights is not None:
            kept["class_weights"] = self.class_weights
        if self.levels.costs is not None:
            kept["costs"] = self.levels.costs.table
        return kept

    def record(self) -> dict[str, Any]:
        """Return what the decisions come from, ready for JSON."""
        typicality = None
        if self.typicality is not None:
            measured = len(self.typicality.scores)
            typicality = {"kind": self.typicality.scorer.kind, "measured": measured}
        return {
            "units": self.n_units,
            "answers": len(self.answers),
            "typicality": typicality,
            "held_out": self.held_out,
        }

    def rules(self, n_classes: int, levels: Levels | None = None) -> Rules:
        """Return the thresholds at some levels, by default at those of the training.

        Raises
        ------
        ConfigError
            Another level than that of the training was asked for, which the units cannot bear. That
            of the training was asked for before they were counted: then no image is unknown, and a
            note says why.
        """
        asked = levels or self.levels
        check_levels(asked)
        if asked.costs is not None and len(asked.costs.table) != n_classes:
            there = counted(len(asked.costs.table), "class", "classes")
            raise ConfigError(f"the costs are of {there}, the model has {n_classes:,}")
        level, reason = self._level(asked.unknown)
        missing = {"unknown_level": f"no image is called unknown: {reason}"} if reason else {}
        sets = fit_sets(self.answers, n_classes, asked.coverage, asked.coverage_by)
        missing |= _missing_sets(sets, asked, len(self.answers), n_classes)
        promise = None
        if asked.min_precision is not None:
            promise = fit_promise(self.answers, asked.min_precision)
            if promise.threshold is None:
                reason = f"no precision is promised, so nothing is answered: {promise.reason}"
                missing["min_precision"] = reason
        return Rules(
            typicality=self.typicality,
            level=level,
            sets=sets,
            promise=promise,
            costs=asked.costs,
            class_weights=self.class_weights,
            levels=asked,
            missing=missing,
        )

    def _level(self, asked: float | None) -> tuple[float | None, str]:
        """Return the level at which images are unknown, or None and the reason, if one is told."""
        chosen = asked is not None and asked != self.levels.unknown
        if self.typicality is None:
            few = self.n_units < LEAST_UNITS
            reason = "nothing tells how unlike an image is here"
            if few:
                there = "there is 1" if self.n_units == 1 else f"there are {self.n_units:,}"
                reason += f": that needs {LEAST_UNITS} images, {there}"
            if chosen:
                raise ConfigError(f"unknown_level is {asked:g}, but {reason}")
            return None, reason if few or asked is not None else ""
        level = USUAL_LEVEL if asked is None else asked
        if self.typicality.least_level <= level:
            return level, ""
        n = len(self.typicality.scores)
        needed, there = units_needed(level), f"there {'is' if n == 1 else 'are'} {n:,}"
        reason = (
            f"of images that do not depend on each other, a level of {level:g} needs {needed:,}, "
            f"{there}"
        )
        if chosen:
            raise ConfigError(f"unknown_level is {level:g}: {reason}", hint=bearable_level(n))
        return None, reason


def bearable_level(n_units: int) -> str | None:
    """Return a hint with a level that so many units can bear; None if there is none.

    Examples
    --------
    >>> bearable_level(80)
    '0.013 or more can be had'
    """
    return f"{math.ceil(1000 / (n_units + 1)) / 1000:g} or more can be had" if n_units else None


def check_levels(levels: Levels) -> None:
    """Refuse levels out of their range, or that contradict each other."""
    shares = {
        "unknown_level": levels.unknown,
        "coverage": levels.coverage,
        "min_precision": levels.min_precision,
    }
    for name, share in shares.items():
        if share is not None and not 0 < share < 1:  # NaN is not either
            raise ConfigError(f"{name} is {share:g}; it must be between 0 and 1, both excluded")
    by: object = levels.coverage_by  # from a caller who checks no types, it may be a list
    if not isinstance(by, str) or by not in {"all", "class"}:
        raise ConfigError(f"coverage_by is {levels.coverage_by!r}; it must be all or class")
    if levels.min_precision is not None and levels.costs is not None:
        raise ConfigError(
            "min_precision and costs both decide when no answer is given",
            hint="give one of them; a column abstain in the costs says what no answer costs",
        )


def _missing_sets(sets: SetRule, levels: Levels, n: int, n_classes: int) -> dict[str, str]:
    if n < answers_needed(levels.coverage):
        few = f"a coverage of {levels.coverage:g} cannot be aimed at with {counted(n, 'answer')}"
        return {"coverage": f"{few}: each set has all classes"}
    if levels.coverage_by == "class" and sets.alone < n_classes:
        without = n_classes - sets.alone
        have = "1 class has" if without == 1 else f"{without:,} classes have"
        common = "the threshold that all classes share is used"
        few = f"{have} too few images for a coverage of {levels.coverage:g}"
        return {"coverage": f"{few}: {common}"}
    return {}
