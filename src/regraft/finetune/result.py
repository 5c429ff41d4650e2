"""The result of a loop: the model of its best epoch, with a temperature and a record."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.heads.fitted import FittedHead
from regraft.heads.temperature import fit_temperature, log_losses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from regraft.finetune.loop import Loop
    from regraft.model import Model


def finish(loop: Loop, probe: Model, record: Mapping[str, Any]) -> tuple[Model, FittedHead]:
    """Return the model of the best epoch; fit its temperature unless it is the probe itself.

    ``record`` becomes a part of the fitted head's record.
    """
    progress = loop.state.progress
    best = progress.history[progress.best_epoch]
    model = _best_model(loop, scratch=record["name"] == "scratch")
    logits = loop.validation.score(model).logits  # (n, K)
    if model is not probe:
        validation = loop.validation
        temperature = fit_temperature(logits, validation.labels, validation.weights)
        model = dataclasses.replace(model, temperature=temperature)
    loop.reporter.say(f"best epoch {progress.best_epoch}: val accuracy {best['val_accuracy']:.4f}")
    whole = {
        **record,
        **_training_record(loop),
        "d": model.head.n_features,
        "temperature": model.temperature,
        "validation": _validation_record(loop, logits, model.temperature),
    }
    history = [{**row, "chosen": row["epoch"] == progress.best_epoch} for row in progress.history]
    scored = np.ones(len(logits), dtype=bool)
    return model, FittedHead(model.head, model.temperature, logits, scored, history, whole)


def _best_model(loop: Loop, *, scratch: bool) -> Model:
    """Return the model of the best epoch; of epoch 0 the one that training began with."""
    state, start = loop.state, loop.state.network.model
    if state.progress.best_epoch == 0:
        return start
    how = "trained from scratch" if scratch else "fine-tuned"
    return state.network.to_model(state.best, f"{start.backbone.weights}, {how}")


def _training_record(loop: Loop) -> dict[str, Any]:
    progress, network = loop.state.progress, loop.state.network
    return {
        "trained_stages": network.trained_names,
        "frozen_tensors": len(network.frozen_names()),  # hashed before and after
        "frozen_stages": dict(loop.prefixes.record),
        "epochs": len(progress.history) - 1,
        "steps": progress.step,
        "best_epoch": progress.best_epoch,
        "learning_rate": loop.schedule.learning_rate,
        "images_in_one_pass": progress.micro,
        "processes": loop.training_step.group.size,
        "n": loop.batches.n_images,
    }


def _validation_record(
    loop: Loop, logits: NDArray[np.float32], temperature: float
) -> dict[str, Any]:
    progress, labels = loop.state.progress, loop.validation.labels
    best = progress.history[progress.best_epoch]
    calibrated = log_losses(logits / np.float32(temperature), labels)
    balanced = {}
    if loop.validation.weights is not None:
        balanced = {
            "balanced_log_loss": best["val_balanced_loss"],
            "balanced_accuracy": best["val_balanced_accuracy"],
        }
    return {
        "n": len(labels),
        "log_loss": best["val_loss"],
        "calibrated_log_loss": float(calibrated.mean()),
        "accuracy": best["val_accuracy"],
        **balanced,
    }
