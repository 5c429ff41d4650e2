"""The probe: a frozen backbone and a head fitted on its features; and what it must beat."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.bundle.format import Statistics
from regraft.data.split import assign_folds, units
from regraft.evaluation.metrics import majority_baseline
from regraft.features.taps import POOLED, Block, select_blocks
from regraft.heads.select import fit_head
from regraft.model import Model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.config import TrainConfig
    from regraft.data.samples import Parts, Samples
    from regraft.features.extract import Features
    from regraft.heads.select import FittedHead

_ROWS_AT_ONCE = 8192  # 40 MB of the default backbone's pooled features
_ROWS_FOR_STATISTICS = 20_000  # a covariance of 1,280 features is settled by then
_ROWS_FOR_NEIGHBOURS = 5_000  # the k-NN baseline would else take longer than the probe


def fit_probe(
    features: Features, samples: Samples, parts: Parts, backbone: Backbone, config: TrainConfig
) -> tuple[Model, FittedHead]:
    """Fit the head on the training part; penalty and temperature are chosen by its folds.

    Parameters
    ----------
    features : Features
        Has a row for every sample of the training part.
    samples : Samples
        Labels, groups and hashes.
    parts : Parts
        Only ``train`` is read.
    backbone : Backbone
        Names the blocks.
    config : TrainConfig
        Taps, head, class weight, folds and seed.

    Returns
    -------
    tuple of Model and FittedHead
    """
    blocks = select_blocks(backbone, config.taps)
    fitted = _fit(features, samples, parts.train, blocks, config, config.head)
    model = Model(
        backbone, blocks, fitted.head, fitted.temperature, samples.classes, config.max_pixels
    )
    return model, fitted


def score(model: Model, features: Features, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return calibrated probabilities of some samples, a bounded number of rows at a time.

    Parameters
    ----------
    model : Model
        Probe.
    features : Features
        Has their rows.
    indices : array of shape (n,), int64
        Samples.

    Returns
    -------
    array of shape (n, K), float32
    """
    result = np.empty((len(indices), len(model.classes)), np.float32)
    for start in range(0, len(indices), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        result[rows] = model.probabilities(features.matrix(indices[rows], model.blocks))
    return result


def score_baselines(
    model: Model, features: Features, samples: Samples, parts: Parts, config: TrainConfig
) -> dict[str, tuple[NDArray[np.float32], str]]:
    """Return the probabilities of what any probe should beat, each with its description.

    Parameters
    ----------
    model : Model
        The probe: its neighbours are sought in the blocks that it reads.
    features, samples, parts, config
        As for ``fit_probe``.

    Returns
    -------
    dict of str to (array of shape (n_test, K), str)
        "majority" and "knn".
    """
    n_classes = len(samples.classes)
    y = samples.labels[parts.train]
    baselines = {
        "majority": (
            majority_baseline(y, samples.labels[parts.test], n_classes),
            "always the classes' shares in the training part",
        )
    }
    if config.head != "knn":
        near = _subset(parts.train, samples, _ROWS_FOR_NEIGHBOURS)
        fitted = _fit(features, samples, near, model.blocks, config, "knn")
        neighbours = dataclasses.replace(model, head=fitted.head, temperature=fitted.temperature)
        baselines["knn"] = (
            score(neighbours, features, parts.test),
            f"nearest neighbours among {len(near):,} training images",
        )
    return baselines


def statistics(features: Features, samples: Samples, parts: Parts) -> Statistics:
    """Return mean and covariance of the pooled training features.

    Parameters
    ----------
    features, samples, parts
        As for ``fit_probe``.

    Returns
    -------
    Statistics
        Of at most 20,000 images; ``count`` says how many.
    """
    chosen = _subset(parts.train, samples, _ROWS_FOR_STATISTICS)
    x = features.matrix(chosen, (Block(POOLED),))  # (N, D)
    mean = x.mean(0, dtype=np.float64)
    x -= mean.astype(np.float32)
    covariance = x.T @ x / max(len(x) - 1, 1)
    return Statistics(mean.astype(np.float32), covariance.astype(np.float32), len(x))


def _fit(
    features: Features,
    samples: Samples,
    indices: NDArray[np.int64],
    blocks: tuple[Block, ...],
    config: TrainConfig,
    name: Any,
) -> FittedHead:
    y = samples.labels[indices]
    keys = [samples.hashes[index] for index in indices]
    folds = assign_folds(y, units(samples)[indices], config.folds, config.seed, keys)
    return fit_head(
        features.matrix(indices, blocks),
        y,
        folds=folds,
        n_classes=len(samples.classes),
        name=name,
        class_weight=config.class_weight,
        widths=[features.widths[block] for block in blocks],
    )


def _subset(indices: NDArray[np.int64], samples: Samples, most: int) -> NDArray[np.int64]:
    """Choose by content hash: the same images whatever order the data come in."""
    by_hash = sorted(indices, key=lambda index: samples.hashes[index])
    return np.sort(np.asarray(by_hash[:most], dtype=np.int64))
