"""The probe: a frozen backbone and a head fitted on its features; and what it must beat."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from regraft.core.reporter import Reporter
from regraft.features.taps import POOLED, Block, select_blocks
from regraft.heads.fit import fit_head, sample_weights
from regraft.heads.simple import majority_baseline
from regraft.heads.standardise import Standard
from regraft.model import Model, Statistics
from regraft.probe.landmarks import (
    N_LANDMARKS,
    Sight,
    coordinates,
    few_classes,
    memory_limit,
    send_scout,
)
from regraft.probe.selection import Candidate, smallest_within_one_error
from regraft.splits.split import assign_folds, units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.config.train_config import TrainConfig
    from regraft.data.samples import Parts, Samples
    from regraft.features.extract import Features
    from regraft.heads.fitted import FittedHead
    from regraft.heads.modules import LinearHead

_ROWS_AT_ONCE = 4096  # 290 MB of all blocks of the default backbone
_ROWS_FOR_STATISTICS = 20_000  # a covariance of 1,280 features is settled by then
_ROWS_FOR_NEIGHBOURS = 5_000  # the k-NN baseline would else take longer than the probe
#: Images by which the blocks are chosen where there are more: their paired standard error is 0.002
#: to 0.005 nats, and each candidate costs what a small training costs.
_ROWS_FOR_CHOICE = 8192
#: Folds of the training part by which blocks, penalty and temperature are chosen. Kohavi 1995: 5 to
#: 10, and 5 cost half.
FOLDS = 5
#: Heads that weigh features, and so can be given all of them.
WEIGHING = ("logistic", "ridge")


@dataclass(frozen=True)
class Probe:
    """What a fit has found.

    Attributes
    ----------
    model : Model
        The probe.
    fitted : FittedHead
        Its head, and how it was chosen.
    last_stage : Model or None
        The probe of the pooled features alone, fitted in the same way: what every tutorial does.
        None where the probe itself is that, or has another kind of head.
    """

    model: Model
    fitted: FittedHead
    last_stage: Model | None


@dataclass(frozen=True)
class SightFit:
    """A head fitted on one sight.

    Attributes
    ----------
    sight : Sight
        What it sees.
    fitted : FittedHead
        Reads features: what a bundle carries.
    on_coordinates : FittedHead
        The same fit before it was carried back: where one of more images begins.
    seconds : float
        Of the fit.
    """

    sight: Sight
    fitted: FittedHead
    on_coordinates: FittedHead
    seconds: float


def fit_probe(
    features: Features,
    samples: Samples,
    parts: Parts,
    backbone: Backbone,
    config: TrainConfig,
    reporter: Reporter | None = None,
) -> Probe:
    """Fit the head on the training part; blocks, penalty and temperature are chosen by its folds.

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
        Taps, grids, head, class weight, memory and seed.
    reporter : Reporter, optional
        Told of the candidates.

    Returns
    -------
    Probe
    """
    train = parts.train
    if config.head not in WEIGHING:
        taps = "last" if config.taps == "auto" else config.taps
        blocks = select_blocks(backbone, taps, config.grids)
        plain = _fit_plain(features, samples, train, blocks, config, config.head)
        return Probe(_model(backbone, blocks, plain, samples, config), plain, None)

    sets = candidate_sets(backbone, config)
    sights = _look(features, samples, train, sets)
    # Views cost what images cost and are not scored: never fewer than two thousand images.
    few = _subset(train, samples, _ROWS_FOR_CHOICE // min(1 + len(features.views), 4))
    some = len(few) < len(train)
    fits = _fit_sights(features, samples, few, sights, config, refit=not some)
    wanted = fits if config.taps == "auto" else {list(fits)[-1]: fits[list(fits)[-1]]}
    rows = _with_views(few, features)
    y = samples.labels[rows]
    chosen, table = smallest_within_one_error(
        [
            Candidate(name, fit.fitted.record["d"], fit.fitted, fit.seconds)
            for name, fit in wanted.items()
        ],
        y,
        units(samples)[rows],
        sample_weights(y, len(samples.classes), config.class_weight),
    )
    tell_candidates(table, reporter or Reporter())
    if some:  # chosen on some, fitted on all: the last stage beside it
        both = {name: sights[name] for name in dict.fromkeys([chosen, "last"])}
        fits = _fit_sights(features, samples, train, both, config, fits)
    models = {
        name: _model(backbone, sights[name].blocks, fits[name].fitted, samples, config)
        for name in dict.fromkeys([chosen, "last"])
    }
    fitted = fits[chosen].fitted
    shares = zip(sights[chosen].blocks, sights[chosen].shares, strict=True)
    fitted.record["shares"] = {str(block): round(share, 6) for block, share in shares}
    fitted.record["candidates"] = table
    return Probe(models[chosen], fitted, models["last"] if chosen != "last" else None)


def candidate_sets(backbone: Backbone, config: TrainConfig) -> dict[str, tuple[Block, ...]]:
    """Return the nested sets of blocks that are fitted, from small to large; "last" is the first.

    Parameters
    ----------
    backbone : Backbone
        Names the blocks.
    config : TrainConfig
        Taps and grids.

    Returns
    -------
    dict of str to tuple of Block

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> from regraft.config.train_config import TrainConfig
    >>> sets = candidate_sets(load_backbone("embedded"), TrainConfig())
    >>> {name: len(blocks) for name, blocks in sets.items()}
    {'last': 1, 'all': 8, 'all, grids': 22}
    """
    blocks = select_blocks(backbone, config.taps, config.grids)
    sets: dict[str, tuple[Block, ...]] = {"last": (Block(POOLED),)}
    if config.taps == "auto":
        coarsest = min((block.grid for block in blocks if block.tap != POOLED), default=1)
        sets["all"] = tuple(b for b in blocks if b.tap == POOLED or b.grid == coarsest)
        sets["all, grids"] = blocks
    else:
        sets[config.taps] = blocks
    first_of = {b: name for name, b in reversed(sets.items())}  # a network may have no stages
    return {name: b for name, b in sets.items() if first_of[b] == name}


def tell_candidates(table: list[dict[str, Any]], reporter: Reporter) -> None:
    """Print what was tried; nothing where there was no choice."""
    if len(table) < 2:
        return
    if table[0]["log_loss"] is None:
        chosen = next(row["taps"] for row in table if row["chosen"])
        reporter.say(f"too few images to compare sets of features: {chosen} is taken, the smallest")
        return
    reporter.say("taps        features   out-of-fold log-loss   accuracy           seconds")
    for row in table:
        reporter.say(
            f"{row['taps']:<12}{row['features']:>8,}   {row['log_loss']:.4f} +- "
            f"{row['log_loss_se']:.4f}       {row['accuracy']:.4f} +- {row['accuracy_se']:.4f}   "
            f"{row['seconds']:>6.1f}{'   chosen' if row['chosen'] else ''}"
        )


def _look(
    features: Features,
    samples: Samples,
    train: NDArray[np.int64],
    sets: Mapping[str, tuple[Block, ...]],
) -> dict[str, Sight]:
    """Weigh and project every set of blocks by the same few thousand images."""
    every = _subset(train, samples, len(train), in_order=False)
    union = tuple(dict.fromkeys(block for blocks in sets.values() for block in blocks))
    weighing = every[few_classes(samples.labels[every])]
    scout = send_scout(features, every[:N_LANDMARKS], weighing, samples.labels[weighing], union)
    return {name: scout.look(blocks) for name, blocks in sets.items()}


def _fit_sights(
    features: Features,
    samples: Samples,
    indices: NDArray[np.int64],
    sights: Mapping[str, Sight],
    config: TrainConfig,
    before: Mapping[str, SightFit] | None = None,
    *,
    refit: bool = True,
) -> dict[str, SightFit]:
    """Fit a head on what each sight shows of the images, or only its folds' (``fit_logistic``)."""
    seen = coordinates(features, indices, list(sights.values()), memory_limit(config.memory))
    rows = _with_views(indices, features)
    folds = _folds(samples, rows, config, leave_one_out=config.head == "ridge")
    fits: dict[str, SightFit] = {}
    for (name, sight), x in zip(sights.items(), seen, strict=True):
        began = time.perf_counter()
        options: dict[str, Any] = {"scored": np.arange(len(rows)) < len(indices)}
        if config.head == "logistic":
            options["near"] = before[name].on_coordinates if before else None
            options["refit"] = refit
        fitted = fit_head(
            x,
            samples.labels[rows],
            folds=folds,
            n_classes=len(samples.classes),
            name=config.head,
            class_weight=config.class_weight,
            standard=Standard.none(x.shape[1]),
            **options,
        )
        # Every head that weighs features is linear in them.
        head = sight.basis.to_features(cast("LinearHead", fitted.head))
        record = fitted.record | {"d": head.n_features, "coordinates": x.shape[1]}
        carried = dataclasses.replace(fitted, head=head, record=record)
        fits[name] = SightFit(sight, carried, fitted, time.perf_counter() - began)
    return fits


def _with_views(indices: NDArray[np.int64], features: Features) -> NDArray[np.int64]:
    """Return the sample of each row that is learnt from: the images, then each of their views.

    Views of an image are of its cluster, like copies of it: one fold holds out all of them.
    """
    return np.tile(indices, 1 + len(features.views))


def _model(
    backbone: Backbone,
    blocks: tuple[Block, ...],
    fitted: FittedHead,
    samples: Samples,
    config: TrainConfig,
) -> Model:
    return Model(
        backbone, blocks, fitted.head, fitted.temperature, samples.classes, config.max_pixels
    )


def _folds(
    samples: Samples, indices: NDArray[np.int64], config: TrainConfig, *, leave_one_out: bool
) -> NDArray[np.int64]:
    """Return the fold of each sample: one a group or image, or five."""
    clusters = units(samples)[indices]
    # As many folds as clusters hold out one each, and never the only one of a class.
    n_folds = max(2, len(np.unique(clusters))) if leave_one_out else FOLDS
    keys = [samples.hashes[index] for index in indices]
    return assign_folds(samples.labels[indices], clusters, n_folds, config.seed, keys)


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
    probe: Probe, features: Features, samples: Samples, parts: Parts, config: TrainConfig
) -> dict[str, tuple[NDArray[np.float32], str]]:
    """Return the probabilities of what any probe should beat, each with its description.

    Parameters
    ----------
    probe : Probe
        The probe; the last stage alone beside it.
    features, samples, parts, config
        As for ``fit_probe``.

    Returns
    -------
    dict of str to (array of shape (n_test, K), str)
        "majority", "knn", "probe" where more than it is trained, and "last_stage" where the probe
        reads more than that.
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
        blocks = (Block(POOLED),)
        fitted = _fit_plain(features, samples, near, blocks, config, "knn")
        neighbours = _model(probe.model.backbone, blocks, fitted, samples, config)
        baselines["knn"] = (
            score(neighbours, features, parts.test),
            f"nearest neighbours among {len(near):,} training images, by the last stage",
        )
    if config.strategy != "probe":
        baselines["probe"] = (
            score(probe.model, features, parts.test),
            "the same network before it was trained, with a head fitted on its features",
        )
    if probe.last_stage is not None:
        baselines["last_stage"] = (
            score(probe.last_stage, features, parts.test),
            "the same head on the last stage alone",
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


def _fit_plain(
    features: Features,
    samples: Samples,
    indices: NDArray[np.int64],
    blocks: tuple[Block, ...],
    config: TrainConfig,
    name: Any,
) -> FittedHead:
    """Fit a head that takes features as they are, standardised."""
    return fit_head(
        features.matrix(indices, blocks),
        samples.labels[indices],
        folds=_folds(samples, indices, config, leave_one_out=False),
        n_classes=len(samples.classes),
        name=name,
        class_weight=config.class_weight,
        widths=[features.widths[block] for block in blocks],
    )


def _subset(
    indices: NDArray[np.int64], samples: Samples, most: int, *, in_order: bool = True
) -> NDArray[np.int64]:
    """Choose by content hash: the same images whatever order the data come in."""
    by_hash = sorted(indices, key=lambda index: samples.hashes[index])
    chosen = np.asarray(by_hash[:most], dtype=np.int64)
    return np.sort(chosen) if in_order else chosen
