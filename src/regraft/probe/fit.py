"""The probe: a frozen backbone, and a head fitted on its features."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from regraft.core.machine import memory_limit
from regraft.core.reporter import SILENT, Reporter
from regraft.features.taps import POOLED, select_blocks
from regraft.heads.fit import fit_head, sample_weights
from regraft.heads.standardise import Standard
from regraft.model import Model
from regraft.probe.landmarks import (
    N_LANDMARKS,
    Projection,
    images_for_weights,
    project_all,
    read_landmarks,
)
from regraft.probe.selection import Candidate, smallest_within_one_error
from regraft.probe.subset import choose_by_hash, sorted_by_hash
from regraft.splits.clusters import units_in
from regraft.splits.folds import assign_folds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.config.train_config import ClassWeight, HeadName, TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.features.extractor import Extractor
    from regraft.features.features import Features
    from regraft.features.taps import Block
    from regraft.heads.fitted import FittedHead
    from regraft.heads.modules import LinearHead

#: Most images by which the blocks are chosen: their paired standard error is 0.002 to 0.005 nats,
#: and each candidate costs as much as a small training.
_ROWS_FOR_CHOICE = 8192
#: Folds of the training part that choose blocks, penalty and temperature. Kohavi 1995 recommends 5
#: to 10; 5 cost half as much as 10.
FOLDS = 5
#: Heads that weigh features, and so can read all blocks.
WEIGHING = ("logistic", "ridge")


@dataclass(frozen=True)
class ProbeSettings:
    """The settings of a probe."""

    taps: str
    grids: str
    head: HeadName
    class_weight: ClassWeight
    memory: str  # GiB or "auto"
    seed: int

    @classmethod
    def of(cls, config: TrainConfig) -> ProbeSettings:
        """Return the settings of a probe in a configuration.

        The probe of a random network is only a baseline: it gets the head that is fitted fastest.
        """
        return cls(
            taps=config.taps,
            grids=config.grids,
            head="mean" if config.strategy == "scratch" else config.head,
            class_weight=config.class_weight,
            memory=config.memory,
            seed=config.seed,
        )

    @property
    def weighs(self) -> bool:
        """Return whether the head weighs features; other heads read the pooled features alone."""
        return self.head in WEIGHING


@dataclass(frozen=True)
class Probe:
    """A fitted probe, and its simpler baseline."""

    model: Model
    fitted: FittedHead  # the head, and how it was chosen
    #: The probe of the pooled features alone, as in most tutorials, fitted in the same way. None if
    #: the probe itself reads only these, or if its head does not weigh features.
    last_stage: Model | None
    features: Features  # that it was fitted on
    rows: NDArray[np.int64]  # sample of each row of the fit


@dataclass(frozen=True)
class _ProjectedFit:
    """A head fitted on the coordinates of one projection."""

    projection: Projection
    fitted: FittedHead  # reads features, as in a bundle
    on_coordinates: FittedHead  # reads coordinates; a fit of more images starts from it
    seconds: float


def fit_by(extractor: Extractor, features: Features, dataset: Dataset) -> Probe:
    """Fit the probe that the extractor's settings ask for."""
    settings = ProbeSettings.of(extractor.config)
    return fit_probe(features, dataset, extractor.networks, settings, extractor.reporter)


def fit_probe(
    features: Features,
    dataset: Dataset,
    networks: Sequence[Backbone],
    settings: ProbeSettings,
    reporter: Reporter = SILENT,
) -> Probe:
    """Fit the head on the training part; choose blocks, penalty and temperature by folds of it."""
    if not settings.weighs:
        taps = "last" if settings.taps == "auto" else settings.taps
        blocks = select_blocks(networks, taps, settings.grids)
        plain = fit_plain(features, dataset, dataset.train, blocks, settings)
        return Probe(
            make_model(networks, blocks, plain, dataset), plain, None, features, dataset.train
        )

    projections = _projections(features, dataset, candidate_sets(networks, settings))
    # Each view costs as much as an image, and is not scored: use at least two thousand images.
    most = _ROWS_FOR_CHOICE // min(1 + len(features.views), 4)
    few = choose_by_hash(dataset.train, dataset.samples, most)
    all_fitted = len(few) == len(dataset.train)
    fits = _fit_projections(features, dataset, few, projections, settings, refit=all_fitted)
    chosen, table = _choose(features, dataset, few, fits, settings)
    report_candidates(table, reporter)
    wanted = dict.fromkeys([chosen, "last"])  # the last stage alone beside the choice
    if not all_fitted:  # choose by some of the images, fit on all
        both = {name: projections[name] for name in wanted}
        fits = _fit_projections(features, dataset, dataset.train, both, settings, start=fits)
    models = {
        name: make_model(networks, projections[name].blocks, fits[name].fitted, dataset)
        for name in wanted
    }
    fitted = fits[chosen].fitted
    shares = zip(projections[chosen].blocks, projections[chosen].shares, strict=True)
    fitted.record["shares"] = {str(block): round(share, 6) for block, share in shares}
    fitted.record["candidates"] = table
    last_stage = models["last"] if chosen != "last" else None
    rows = _with_views(few if all_fitted else dataset.train, features)
    return Probe(models[chosen], fitted, last_stage, features, rows)


def candidate_sets(
    networks: Sequence[Backbone], settings: ProbeSettings
) -> dict[str, tuple[Block, ...]]:
    """Return the nested sets of blocks to fit, from small to large; "last" is the first.

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> from regraft.config.train_config import TrainConfig
    >>> sets = candidate_sets([load_backbone("embedded")], ProbeSettings.of(TrainConfig()))
    >>> {name: len(blocks) for name, blocks in sets.items()}
    {'last': 1, 'all': 8, 'all, grids': 22}
    """
    blocks = select_blocks(networks, settings.taps, settings.grids)
    sets = {"last": select_blocks(networks, "last")}
    if settings.taps == "auto":
        coarsest = min((block.grid for block in blocks if block.tap != POOLED), default=1)
        sets["all"] = tuple(b for b in blocks if b.tap == POOLED or b.grid == coarsest)
        sets["all, grids"] = blocks
    else:
        sets[settings.taps] = blocks
    first_of = {b: name for name, b in reversed(sets.items())}  # a network may have no stages
    return {name: b for name, b in sets.items() if first_of[b] == name}


def report_candidates(table: list[dict[str, Any]], reporter: Reporter) -> None:
    """Report the candidates and their results; nothing if there was only one."""
    if len(table) < 2:
        return
    if table[0]["log_loss"] is None:
        chosen = next(row["taps"] for row in table if row["chosen"])
        reporter.say(f"too few images to compare sets of features: the smallest is used, {chosen}")
        return
    # What they are compared by. The accuracy counts each image once.
    loss = "balanced_log_loss" if "balanced_log_loss" in table[0] else "log_loss"
    kind = "balanced" if loss != "log_loss" else "out-of-fold"
    reporter.say(f"taps        features   {kind + ' log-loss':<22} accuracy           seconds")
    for row in table:
        reporter.say(
            f"{row['taps']:<12}{row['features']:>8,}   {_with_error(row, loss):<23}"
            f"{_with_error(row, 'accuracy'):<19}"
            f"{row['seconds']:>6.1f}{'   chosen' if row['chosen'] else ''}"
        )


def _with_error(row: dict[str, Any], name: str) -> str:
    """Return a figure of the table, without an error where there is none or it rounds to zero."""
    error = f"{row[f'{name}_se'] or 0:.4f}"
    return f"{row[name]:.4f}" + (f" +- {error}" if float(error) else "")


def fit_plain(
    features: Features,
    dataset: Dataset,
    indices: NDArray[np.int64],
    blocks: tuple[Block, ...],
    settings: ProbeSettings,
) -> FittedHead:
    """Fit a head on standardised features of some images, without a projection."""
    return fit_head(
        features.matrix(indices, blocks),
        dataset.labels(indices),
        folds=_folds(dataset, indices, settings.seed),
        n_classes=len(dataset.classes),
        name=settings.head,
        class_weight=settings.class_weight,
        own_weights=dataset.weights(indices),
        widths=[features.widths[block] for block in blocks],
    )


def make_model(
    networks: Sequence[Backbone], blocks: tuple[Block, ...], fitted: FittedHead, dataset: Dataset
) -> Model:
    """Return the model of a fitted head."""
    samples, (first, *others) = dataset.samples, networks
    return Model(
        first, blocks, fitted.head, fitted.temperature, samples.classes, samples.max_pixels,
        tuple(others),
    )  # fmt: skip


def _projections(
    features: Features, dataset: Dataset, sets: Mapping[str, tuple[Block, ...]]
) -> dict[str, Projection]:
    """Return the projection of each set of blocks, by the same few thousand images."""
    every = sorted_by_hash(dataset.train, dataset.samples)
    union = tuple(dict.fromkeys(block for blocks in sets.values() for block in blocks))
    weighing = every[images_for_weights(dataset.labels(every))]
    landmarks = read_landmarks(
        features, every[:N_LANDMARKS], weighing, dataset.labels(weighing), union
    )
    return {name: landmarks.project(blocks) for name, blocks in sets.items()}


def _fit_projections(  # noqa: PLR0913 - arrays and choices of one fit, each by its name
    features: Features,
    dataset: Dataset,
    indices: NDArray[np.int64],
    projections: Mapping[str, Projection],
    settings: ProbeSettings,
    *,
    start: Mapping[str, _ProjectedFit] | None = None,
    refit: bool = True,
) -> dict[str, _ProjectedFit]:
    """Fit a head on each projection of some images.

    A logistic fit starts from the weights of the same name in ``start``. Without ``refit``, only
    the folds are fitted (``fit_logistic``).
    """
    limit = memory_limit(settings.memory)
    coordinates = project_all(features, indices, list(projections.values()), limit)
    rows = _with_views(indices, features)
    folds = _folds(dataset, rows, settings.seed, leave_one_out=settings.head == "ridge")
    fits: dict[str, _ProjectedFit] = {}
    for (name, projection), x in zip(projections.items(), coordinates, strict=True):
        began = time.perf_counter()
        options: dict[str, Any] = {"scored": np.arange(len(rows)) < len(indices)}
        if settings.head == "logistic":
            options |= {"near": start[name].on_coordinates if start else None, "refit": refit}
        fitted = fit_head(
            x,
            dataset.labels(rows),
            folds=folds,
            n_classes=len(dataset.classes),
            name=settings.head,
            class_weight=settings.class_weight,
            own_weights=dataset.weights(rows),
            standard=Standard.none(x.shape[1]),
            **options,
        )
        # All heads that weigh features are linear.
        head = projection.basis.to_features(cast("LinearHead", fitted.head))
        record = fitted.record | {"d": head.n_features, "coordinates": x.shape[1]}
        on_features = dataclasses.replace(fitted, head=head, record=record)
        seconds = time.perf_counter() - began
        fits[name] = _ProjectedFit(projection, on_features, fitted, seconds)
    return fits


def _choose(
    features: Features,
    dataset: Dataset,
    indices: NDArray[np.int64],
    fits: Mapping[str, _ProjectedFit],
    settings: ProbeSettings,
) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of the chosen set of blocks, and the table of candidates.

    Only "auto" taps are a choice; other taps have one candidate.
    """
    names = list(fits) if settings.taps == "auto" else list(fits)[-1:]
    rows = _with_views(indices, features)
    y = dataset.labels(rows)
    return smallest_within_one_error(
        [
            Candidate(name, fits[name].fitted.record["d"], fits[name].fitted, fits[name].seconds)
            for name in names
        ],
        y,
        units_in(dataset)[rows],
        sample_weights(y, len(dataset.classes), settings.class_weight, dataset.weights(rows)),
    )


def _with_views(indices: NDArray[np.int64], features: Features) -> NDArray[np.int64]:
    """Return the sample of each row to fit: the images, then each of their views.

    Views of an image are in its cluster, so that one fold holds out all of them.
    """
    return np.tile(indices, 1 + len(features.views))


def _folds(
    dataset: Dataset, indices: NDArray[np.int64], seed: int, *, leave_one_out: bool = False
) -> NDArray[np.int64]:
    """Return the fold of each sample: five folds, or one for each cluster."""
    clusters = units_in(dataset)[indices]
    # With as many folds as clusters, each fold is one cluster, except the only one of a class.
    n_folds = max(2, len(np.unique(clusters))) if leave_one_out else FOLDS
    keys = [dataset.samples.hashes[index] for index in indices]
    return assign_folds(dataset.labels(indices), clusters, n_folds, seed, keys)
