"""The decisions of a bundle: the record in its manifest, and the tensors that belong to it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from regraft.bundle.manifest import (
    DECISIONS,
    AnswersRecord,
    CostsRecord,
    DecisionsRecord,
    LevelsRecord,
    TypicalityRecord,
)
from regraft.core.text import listed
from regraft.decision.answers import MOST_ANSWERS, Answers, check_class_weights
from regraft.decision.costs import MOST_COSTLY, Costs
from regraft.decision.policy import Decisions, Levels
from regraft.decision.scorers import SCORERS
from regraft.decision.typicality import Typicality
from regraft.errors import BundleError, ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

_SCALE = 4 * 8  # bytes
_ANSWER = 4 * 4  # bytes of label, true, confidence and answered


def kept(decisions: Decisions, n_classes: int, widths: Sequence[int]) -> Decisions:
    """Return what a bundle keeps of some decisions, at most 100,000 answers, after all checks.

    Raises
    ------
    BundleError
        A reader would refuse them.
    """
    if decisions.levels.costs is not None and n_classes > MOST_COSTLY:
        raise BundleError(
            f"there are costs, and {n_classes:,} classes; in a bundle, a table of costs has at "
            f"most {MOST_COSTLY:,}",
            hint="train without costs; they can be given with each prediction",
        )
    few = dataclasses.replace(decisions, answers=decisions.answers.at_most(MOST_ANSWERS))
    return read_decisions(record_of(few), few.tensors(), n_classes, widths)


def record_of(decisions: Decisions) -> DecisionsRecord:
    """Return the record for the manifest; ``Decisions.tensors`` has the rest."""
    typicality, levels, costs = decisions.typicality, decisions.levels, None
    if levels.costs is not None:
        costs = CostsRecord(list(levels.costs.extra))  # type: ignore[arg-type]
    return DecisionsRecord(
        typicality=None
        if typicality is None
        else TypicalityRecord(typicality.scorer.kind, 0, len(typicality.scores)),
        answers=AnswersRecord(len(decisions.answers)),
        n_units=decisions.n_units,
        held_out=decisions.held_out,
        levels=LevelsRecord(
            unknown=levels.unknown,
            coverage=levels.coverage,
            coverage_by=levels.coverage_by,
            min_precision=levels.min_precision,
            costs=costs,
        ),
    )


def most_bytes(record: DecisionsRecord, n_classes: int, widths: Sequence[int]) -> int:
    """Return the most bytes that the tensors take; ``widths`` are the networks' features."""
    answers = _ANSWER * record.answers.n + 8 * n_classes
    costs = 8 * n_classes * (n_classes + 2) if record.levels.costs is not None else 0
    typicality = record.typicality
    if typicality is None:
        return answers + costs
    scorer = SCORERS[typicality.kind].most_bytes(widths[typicality.network])
    return answers + costs + scorer + 4 * typicality.n + _SCALE


def read_decisions(
    record: DecisionsRecord,
    tensors: Mapping[str, NDArray[np.generic]],
    n_classes: int,
    widths: Sequence[int],
) -> Decisions:
    """Check the tensors of a bundle by themselves and with the manifest; return the decisions.

    Raises
    ------
    BundleError
        Names the tensor or the field and the reason.
    """
    try:
        decisions = _read(record, tensors, n_classes)
    except InputError as error:
        raise BundleError(f"{DECISIONS}: {error.message[:300]}") from error
    typicality = decisions.typicality
    found = (len(decisions.answers), 0 if typicality is None else len(typicality.scores))
    expected = (record.answers.n, 0 if record.typicality is None else record.typicality.n)
    if found != expected:
        raise BundleError(
            f"{DECISIONS}: has {found[0]:,} answers and {found[1]:,} scores; the manifest has "
            f"{expected[0]:,} and {expected[1]:,}"
        )
    if not decisions.held_out and max(found) > decisions.n_units:
        raise BundleError(
            f"manifest.json: decisions.n_units is {decisions.n_units:,}, and there are "
            f"{max(found):,} answers or scores, each of a unit"
        )
    unexpected = sorted(set(tensors) - set(decisions.tensors()))
    if unexpected:
        shown = listed([name[:100] for name in unexpected], 5)
        raise BundleError(f"{DECISIONS}: has tensors that it should not have: {shown}")
    if record.typicality is not None and typicality is not None:
        width = widths[record.typicality.network]
        if typicality.scorer.width != width:
            raise BundleError(
                f"{DECISIONS}: the typicality is of {typicality.scorer.width} features; the "
                f"network has {width}"
            )
    try:
        decisions.rules(n_classes)
    except ConfigError as error:
        raise BundleError(f"manifest.json: decisions.levels: {error.message[:300]}") from error
    return decisions


def _read(
    record: DecisionsRecord, tensors: Mapping[str, NDArray[np.generic]], n_classes: int
) -> Decisions:
    levels, weights = record.levels, tensors.get("class_weights")
    return Decisions(
        typicality=None
        if record.typicality is None
        else Typicality.from_tensors(record.typicality.kind, tensors),
        answers=Answers.from_tensors(tensors, n_classes),
        n_units=record.n_units,
        class_weights=None if weights is None else check_class_weights(weights, n_classes),
        held_out=record.held_out,
        levels=Levels(
            unknown=levels.unknown,
            coverage=levels.coverage,
            coverage_by=levels.coverage_by,
            min_precision=levels.min_precision,
            costs=None
            if levels.costs is None
            else Costs.from_tensor(tensors.get("costs"), levels.costs.extra, n_classes),
        ),
    )
