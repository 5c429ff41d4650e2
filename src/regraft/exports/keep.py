"""What of a bundle's decisions goes into an export, and what cannot."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from regraft.bundle.predictor import Predictor
from regraft.decision.scorers import Neighbours
from regraft.decision.typicality import fit_centre
from regraft.heads.modules import KnnHead, LinearHead

if TYPE_CHECKING:
    from regraft.decision.policy import Decisions
    from regraft.decision.typicality import Typicality


def without_bank(predictor: Predictor) -> tuple[Predictor, list[str]]:
    """Return a predictor that keeps no row of features of a training image, and notes.

    The rows become a rounded mean, as ``bank=False`` keeps it at the training. The energies of the
    images are not in a bundle, so the distance alone tells how unlike an image is.
    """
    model, decisions = predictor.model, predictor.decisions
    notes = []
    if isinstance(model.head, KnnHead):
        notes.append("a k-NN head keeps the features of all training images: they are exported")
    if isinstance(model.head, LinearHead):
        model = dataclasses.replace(model, head=model.head.folded())
    if decisions is not None and decisions.typicality is not None:
        kept = _from_mean(decisions)
        if kept is not decisions.typicality:
            what = "nothing tells how unlike an image is" if kept is None else "a mean tells it"
            notes.append(f"without the bank, {what}")
        decisions = dataclasses.replace(decisions, typicality=kept)
    return Predictor.of(model, predictor.compute, decisions), notes


def _from_mean(decisions: Decisions) -> Typicality | None:
    """Return a typicality by a mean of the rows; None after fine-tuning.

    Then the rows are of images that the network was trained on: no image measures them.
    """
    typicality = decisions.typicality
    if typicality is None or not isinstance(typicality.scorer, Neighbours):
        return typicality
    if decisions.held_out:
        return None
    return fit_centre(typicality.scorer.rows.astype(np.float32))


def without_typicality(predictor: Predictor) -> tuple[Predictor, list[str]]:
    """Return a predictor that calls no image unknown, and a note.

    Weights of 8 bits move the features. The bank has those of the exact network, and p-values are
    only right if both are measured alike.
    """
    decisions = predictor.decisions
    if decisions is None or decisions.typicality is None:
        return predictor, []
    decisions = dataclasses.replace(decisions, typicality=None)
    note = (
        "no image is called unknown: weights of 8 bits move the features that tell it; "
        "float16 keeps it"
    )
    return Predictor.of(predictor.model, predictor.compute, decisions), [note]
