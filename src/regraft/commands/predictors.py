"""The predictor of a run, as several commands load it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from regraft.decision.costs import names_note

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from regraft.bundle.predictor import Predictor
    from regraft.decision.policy import Rules


def import_predictor() -> Any:
    """Return the class ``Predictor``; torch is imported for it, which takes seconds."""
    from regraft.bundle.predictor import Predictor  # noqa: PLC0415

    return Predictor


def load_predictor(run: Path | str, config: Any, settings: Mapping[str, Any]) -> Predictor:
    """Load the predictor of a run by a configuration; ``settings`` are those that were given.

    If ``max_pixels`` was given, it replaces the limit of the training.
    """
    predictor: Predictor = import_predictor().load(
        run, device=config.device, precision=config.precision, batch_size=config.batch_size
    )
    if "max_pixels" in settings:
        predictor.model = dataclasses.replace(predictor.model, max_pixels=config.max_pixels)
    return predictor


def level_notes(predictor: Predictor, rules: Rules | None) -> list[str]:
    """Return what a user of these levels should know, before any image is decided about."""
    if rules is None or predictor.decisions is None:
        return []
    kept, used = predictor.decisions.levels, rules.levels
    notes = []
    if kept.min_precision is not None and used.costs is not None:
        notes.append(
            f"costs decide: the precision of {kept.min_precision:g} that the training promised is "
            "not used"
        )
    if kept.costs is not None and used.min_precision is not None:
        notes.append("a promised precision decides: the costs of the training are not used")
    if used.costs is not None:
        notes += names_note(predictor.classes)
    return [*notes, *rules.notes]
