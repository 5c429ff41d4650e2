"""Levels that a person gives when asking, instead of those of the training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from regraft.core.text import did_you_mean
from regraft.decision.costs import ABSTAIN, LARGEST, UNKNOWN, Costs, check_table, read_costs
from regraft.decision.policy import Levels, check_levels
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from regraft.decision.conformal import CoverageBy


class LevelChoices(TypedDict, total=False):
    """Levels by the names of the settings."""

    unknown_level: float | str | None
    coverage: float
    coverage_by: CoverageBy
    min_precision: float | str | None
    costs: Path | str | ArrayLike | Costs | None


#: Names of the settings that are levels.
LEVELS = tuple(LevelChoices.__annotations__)
#: The word that may be given in place of a level, as None may.
_NO_LEVEL = {"unknown_level": "auto", "min_precision": "none", "costs": "none"}
#: Levels that are shares.
_SHARES = ("unknown_level", "coverage", "min_precision")


def chosen_levels(settings: Mapping[str, Any]) -> LevelChoices:
    """Return those of some settings that are levels.

    Examples
    --------
    >>> chosen_levels({"coverage": 0.9, "device": "cpu"})
    {'coverage': 0.9}
    """
    chosen = {name: settings[name] for name in LEVELS if name in settings}
    return cast("LevelChoices", chosen)


def levels_with(levels: Levels, classes: Sequence[str], choices: Mapping[str, Any]) -> Levels:
    """Return levels with some of them replaced.

    A precision replaces costs, and costs a precision: each says when no answer is given.

    Parameters
    ----------
    levels : Levels
        Those to begin with.
    classes : sequence of str
        K names, the order of a table of costs.
    choices : mapping
        Some of ``LevelChoices``. ``unknown_level`` may be "auto", ``min_precision`` and ``costs``
        "none". ``costs`` is a CSV file, or an array of shape (K, K) with a row for each true class
        and a column for each answer.

    Raises
    ------
    ConfigError
        A name is unknown, a level is out of its range, or the table of costs is wrong.

    Examples
    --------
    >>> costs = 1 - np.eye(2)
    >>> levels_with(Levels(min_precision=0.9), ["a", "b"], {"coverage": 0.8, "costs": costs})
    Levels(unknown=None, coverage=0.8, coverage_by='all', min_precision=None, costs=2 classes)
    """
    for name in choices:
        if name not in LEVELS:
            hint = did_you_mean(name, LEVELS) or f"one of {', '.join(LEVELS)}"
            raise ConfigError(f"unknown level {name}", hint=hint)
    changes: dict[str, Any] = {
        name: None if _is_none(name, value) else _share(name, value) if name in _SHARES else value
        for name, value in choices.items()
    }
    if "unknown_level" in changes:
        changes["unknown"] = changes.pop("unknown_level")
    if changes.get("costs") is not None:
        changes["costs"] = as_costs(changes["costs"], classes)
        changes.setdefault("min_precision", None)
    elif changes.get("min_precision") is not None:
        changes.setdefault("costs", None)
    changed = dataclasses.replace(levels, **changes)
    check_levels(changed)
    return changed


def as_costs(given: Any, classes: Sequence[str]) -> Costs:
    """Return costs that were given as a CSV file, as an array or as they are."""
    if isinstance(given, str | Path):
        return read_costs(Path(given), classes)
    extra = given.extra if isinstance(given, Costs) else ()
    if len({*extra} & {ABSTAIN, UNKNOWN}) < len(extra):
        raise ConfigError(f"costs have the columns {', '.join(extra)} after those of the classes",
                          hint="abstain and unknown can be there, each once")  # fmt: skip
    try:
        table = np.array(given.table if isinstance(given, Costs) else given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            "costs are neither a file nor a table of numbers",
            hint="a list or array of rows: one for each true class, a column for each answer",
        ) from error
    shape = (len(classes), len(classes) + len(extra))
    if table.shape != shape:
        raise ConfigError(
            f"costs have the shape {table.shape}; they must be {shape}",
            hint="a row for each true class, a column for each answer; a CSV file may have more",
        )
    if not ((table >= 0) & (table <= LARGEST)).all():  # NaN is neither
        raise ConfigError(f"costs hold what is no number from 0 to {LARGEST:,.0f}")
    check_table(table, classes, "costs")
    return given if isinstance(given, Costs) else Costs(table)


def _is_none(name: str, value: Any) -> bool:
    """Return whether a level is switched off, or the usual one is asked for."""
    word = isinstance(value, str | Path) and str(value) == _NO_LEVEL.get(name)
    return word or (value is None and name in _NO_LEVEL)


def _share(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} is {value!r}; it must be a number") from None
