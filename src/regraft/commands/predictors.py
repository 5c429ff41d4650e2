"""The predictor of a run, as several commands load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from regraft.decision.costs import names_note
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from regraft.bundle.answering import Answering
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
        predictor.limit_pixels(config.max_pixels)
    return predictor


#: What computes: torch, from the bundle, or onnxruntime, from exported files.
Engine: TypeAlias = Literal["torch", "onnx"]


def import_of(engine: Engine) -> Callable[[], Any]:
    """Return what imports the predictor of an engine: only torch's takes seconds."""
    if engine not in get_args(Engine):
        known = ", ".join(get_args(Engine))
        raise ConfigError(f"engine is {engine!r}; it must be one of {known}")
    return import_predictor if engine == "torch" else _import_exported


def _import_exported() -> Any:
    """Return the class ``ExportedPredictor``."""
    from regraft.bundle.exported import ExportedPredictor  # noqa: PLC0415

    return ExportedPredictor


def load_answering(
    run: Path | str, engine: Engine, config: Any, settings: Mapping[str, Any]
) -> Answering:
    """Load the predictor of a run by its engine; see ``load_predictor``."""
    if engine == "torch":
        return load_predictor(run, config, settings)
    if {"device", "precision"} & set(settings):
        raise ConfigError(
            "engine onnx computes on the processor, in the precision of the export",
            hint="leave out device and precision, or use engine torch",
        )
    predictor: Answering = _import_exported().load(run, batch_size=config.batch_size)
    if "max_pixels" in settings:
        predictor.limit_pixels(config.max_pixels)
    return predictor


def level_notes(predictor: Answering, rules: Rules | None) -> list[str]:
    """Return what a user of these levels should know, before any image is decided about."""
    decisions = predictor.decisions
    if rules is None or decisions is None:
        return []
    kept, used = decisions.levels, rules.levels
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
