"""Steps of the main path that the estimator takes as well: from a configuration to features."""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.config.train_config import TrainConfig
from regraft.errors import ConfigError, DiskFullError, StoreError, StoreWarning
from regraft.splits.rounds import whole
from regraft.splits.split import split

if TYPE_CHECKING:
    from contextlib import ExitStack

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.core.reporter import Reporter
    from regraft.data.ledger import Ledger
    from regraft.data.samples import Parts, Samples
    from regraft.features.compute import Compute
    from regraft.features.extract import Features

_TOLD = 5  # refused images on the console
_CLASSES_TOLD = 10


def configured(config: TrainConfig | None, settings: dict[str, Any]) -> TrainConfig:
    """Return a configuration with settings by name in place of its own."""
    if config is not None and not isinstance(config, TrainConfig):
        raise ConfigError(
            f"the configuration is of type {type(config).__name__}; it must be a TrainConfig",
            hint="settings can be given by name: regraft.train(data, seed=1)",
        )
    return (config or TrainConfig()).replace(**settings)


def divide(samples: Samples, config: TrainConfig) -> Parts:
    """Return which samples are for training, validation and testing."""
    if config.folds:
        return whole(samples)
    return split(
        samples,
        test_fraction=config.test_fraction,
        seed=config.seed,
        val_fraction=0.0 if config.strategy == "probe" else config.val_fraction,
        split_file=config.split,
    )


def load_backbone(config: TrainConfig) -> Backbone:
    """Build the network that the configuration names, at its own image size or the given one."""
    from regraft.backbones import registry

    size = None if config.image_size == "auto" else int(config.image_size)
    weights = "none" if config.strategy == "scratch" else config.weights
    return registry.load_backbone(config.model, weights, image_size=size, seed=config.seed)


def suited(
    backbone: Backbone, samples: Samples, config: TrainConfig, reporter: Reporter
) -> tuple[Backbone, TrainConfig]:
    """Choose image size, augmentation and views for the images; tell them with their reasons."""
    from regraft.backbones import image_size, registry

    note = registry.name_note(config.model)
    if note is not None:
        reporter.say(note)
    automatic = config.image_size == "auto"
    backbone, reason = image_size.adapt_to_images(backbone, samples.sizes, automatic=automatic)
    preprocess = backbone.preprocess
    reporter.say(
        f"{backbone.name}, weights {backbone.weights} (sha256 {backbone.weights_sha256[:12]}), "
        f"mean {preprocess.mean}, std {preprocess.std}"
    )
    reporter.say(reason)
    config = with_augmentation(config, samples)
    if config.tta:
        reporter.say(
            f"features are the mean over each image and {config.views} views of it (augment "
            f"{config.augment}): so many times slower, here and in predictions"
        )
        preprocess = dataclasses.replace(preprocess, views=config.views, augment=config.augment)
        backbone = dataclasses.replace(backbone, preprocess=preprocess)
    return backbone, config


def with_augmentation(config: TrainConfig, samples: Samples) -> TrainConfig:
    """Choose the augmentation where it is automatic."""
    if config.augment != "auto":
        return config
    # A mirrored character is another one, or none.
    characters = samples.source.location == "kmnist" or all(
        len(name) == 1 or name.isdecimal() for name in samples.classes
    )
    return config.replace(augment="digits" if characters else "light")


def compute_of(backbone: Backbone, config: TrainConfig) -> Compute:
    """Choose device, precision and how many images go through a frozen network at once."""
    from regraft.features.compute import choose_compute, images_at_once

    at_once = images_at_once(config.batch_size, backbone.preprocess.image_size)
    return choose_compute(config.device, config.precision, at_once)


def check_names(backbone: Backbone, config: TrainConfig) -> None:
    """Refuse taps and stages that the network does not have, and memory that is no number."""
    from regraft.features.taps import select_blocks
    from regraft.finetune.network import trained_stages
    from regraft.probe.landmarks import memory_limit

    memory_limit(config.memory)
    select_blocks(backbone, config.taps, config.grids)
    trained_stages(backbone, config.unfreeze)


def probing(config: TrainConfig) -> TrainConfig:
    """Return the settings of the probe: of a random network, a quick one is enough to compare."""
    return config.replace(head="mean") if config.strategy == "scratch" else config


def extract_features(
    samples: Samples,
    indices: NDArray[np.int64],
    backbone: Backbone,
    compute: Compute,
    config: TrainConfig,
    stack: ExitStack,
    reporter: Reporter,
    viewed: NDArray[np.int64] | None = None,
) -> Features:
    """Extract into the user's store, or into one that is gone afterwards where that cannot be.

    Of the samples ``viewed`` (those that are learnt from) augmented views as well, where wanted.
    """
    from regraft.features.extract import extract
    from regraft.features.store.store import open_store, temporary_store

    def into(store: Any) -> Features:
        def some(chosen: NDArray[np.int64], view: int = 0) -> Features:
            preprocess = backbone.preprocess
            if view:
                preprocess = dataclasses.replace(preprocess, view=view, augment=config.augment)
            return extract(
                samples,
                chosen,
                dataclasses.replace(backbone, preprocess=preprocess),
                compute,
                store=store,
                workers=n_workers(config),
                max_pixels=config.max_pixels,
                reporter=reporter,
            )

        features = some(indices)
        if viewed is None or config.tta:  # the latter are part of the backbone's preprocessing
            return features
        kept = np.setdiff1d(viewed, list(features.refused))
        views = [some(kept, view) for view in range(1, config.views + 1)]
        every = (features, *views)
        refused = {index: error for each in every for index, error in each.refused.items()}
        return dataclasses.replace(
            features,
            refused=refused,  # a sample whose view was refused is refused
            n_extracted=sum(each.n_extracted for each in every),
            n_reused=sum(each.n_reused for each in every),
            views=tuple(views),
        )

    if config.cache:
        try:
            store = open_store(config.cache_dir)
            stack.callback(store.trim)  # whatever becomes of the run
            return into(store)
        except (StoreError, DiskFullError) as error:
            text = f"{error.message}; features of this run are not kept"
            warnings.warn(text, StoreWarning, stacklevel=2)
    return into(stack.enter_context(temporary_store()))


def tell_data(samples: Samples, parts: Parts, reporter: Reporter) -> None:
    """Say what was found: classes with their numbers, and what may not be expected of the data."""
    counts = np.bincount(samples.labels, minlength=len(samples.classes))
    named = [
        f"{name} {count:,}"
        for name, count in zip(samples.classes[:_CLASSES_TOLD], counts, strict=False)
    ]
    more = f" and {len(counts) - _CLASSES_TOLD:,} more" if len(counts) > _CLASSES_TOLD else ""
    reporter.say(f"{len(samples):,} images of {len(counts):,} classes: {', '.join(named)}{more}")
    for note in dict.fromkeys((*samples.source.notes, *samples.notes, *parts.notes)):
        reporter.say(note)


def tell_refused(ledger: Ledger, reporter: Reporter, place: str) -> None:
    """Name the first few images that were lost, and where all are named."""
    refused = [entry for entry in ledger.entries if entry.status == "refused"]
    if not refused:
        return
    counts = ledger.counts()
    total = counts["used"] + counts["refused"]
    reporter.say(f"{len(refused):,} of {total:,} images refused (all are named {place}):")
    for entry in refused[:_TOLD]:
        reporter.say(f"  {entry.path}: {entry.kind}: {entry.reason}")


def n_workers(config: TrainConfig) -> int:
    """Return how many threads read and decode."""
    return config.workers or os.cpu_count() or 1
