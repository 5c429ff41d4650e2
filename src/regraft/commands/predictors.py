"""The predictor of a run, as several commands load it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from regraft.bundle.predictor import Predictor


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
