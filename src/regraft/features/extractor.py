"""The extractor: frozen networks that read features, and the store that keeps them.

It chooses image size, augmentation, device and precision for the data. After that, only its own
``config`` is used: config.yaml records it, and a resumed training compares it.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

import dataclasses
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from regraft.config.train_config import TrainConfig
from regraft.core.machine import n_threads
from regraft.core.reporter import SILENT, Reporter
from regraft.core.text import counted
from regraft.errors import ConfigError, DiskFullError, StoreError, StoreWarning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples
    from regraft.features.compute import Compute
    from regraft.features.extract import StoredRows
    from regraft.features.features import Features
    from regraft.features.store.store import FeatureStore


class Extractor:
    """Reads the features of images with frozen networks, or another version of the only one.

    Rows are kept in the user's store, which is opened at the first read. If it is switched off or
    cannot be used, they are kept in a temporary one. Only reading needs the ``with`` block: it
    removes the temporary store at its end.
    """

    def __init__(
        self,
        networks: Sequence[Backbone],
        compute: Compute,
        config: TrainConfig,
        reporter: Reporter = SILENT,
    ) -> None:
        self.networks = tuple(networks)  # each at the image size for the data
        self.compute = compute  # device, precision and batch size
        self.config = config  # with the augmentation chosen
        self.reporter = reporter
        self._cleanup = ExitStack()
        self._store: FeatureStore | None = None
        self._temporary: FeatureStore | None = None

    @property
    def backbone(self) -> Backbone:
        """Return the first network: the only one in a training that changes it."""
        return self.networks[0]

    @classmethod
    def for_samples(
        cls,
        networks: Sequence[Backbone],
        samples: Samples,
        config: TrainConfig,
        reporter: Reporter = SILENT,
    ) -> Self:
        """Choose image sizes, augmentation, device and precision; report each with its reason.

        Raises ConfigError if the device is missing or a network does not take the image size.
        """
        from regraft.features.compute import choose_compute, images_at_once

        for note in _name_notes(config.model):
            reporter.say(note)
        sized = [_at_size(network, samples, config, reporter) for network in networks]
        chosen = choose_augmentation(config, samples)
        if chosen.tta:
            reporter.say(
                f"features are the mean over each image and {counted(chosen.views, 'view')} of it "
                f"(augment {chosen.augment}): {1 + chosen.views} times slower, also in predictions"
            )
        largest = max(network.preprocess.image_size for network in sized)
        at_once = images_at_once(chosen.batch_size, largest)
        compute = choose_compute(chosen.device, chosen.precision, at_once)
        reporter.say(f"forward pass on {compute.device} in {compute.precision}")
        return cls([_with_views(each, chosen) for each in sized], compute, chosen, reporter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()
        self._store = self._temporary = None

    def read(self, dataset: Dataset, backbone: Backbone | None = None) -> Features:
        """Return the features of all parts, and those of augmented views of the training part.

        Only rows that the store does not have are extracted. ``backbone`` is another version of the
        only network, such as the fine-tuned one. Raises FrozenError if a parameter or a buffer of a
        network has changed during the pass.
        """
        from regraft.backbones.freeze import frozen

        networks = self.networks if backbone is None else (backbone,)
        with ExitStack() as watched:
            for network in networks:
                watched.enter_context(frozen(network.module))
            if self.config.cache:
                try:
                    return self._extract(self._kept_store(), dataset, networks)
                except (StoreError, DiskFullError) as error:
                    text = f"{error.message}; features of this run are not kept"
                    warnings.warn(text, StoreWarning, stacklevel=2)
            return self._extract(self._temporary_store(), dataset, networks)

    def _kept_store(self) -> FeatureStore:
        from regraft.features.store.store import open_store

        if self._store is None:
            self._store = open_store(self.config.cache_dir)
            self._cleanup.callback(self._store.trim)  # also if the run fails
        return self._store

    def _temporary_store(self) -> FeatureStore:
        from regraft.features.store.store import temporary_store

        if self._temporary is None:
            self._temporary = self._cleanup.enter_context(temporary_store())
        return self._temporary

    def _extract(
        self, store: FeatureStore, dataset: Dataset, networks: Sequence[Backbone]
    ) -> Features:
        """Read the images, then each view of the training images."""
        from regraft.features.extract import RowExtractor, extract
        from regraft.features.features import Features

        threads = n_threads(self.config.workers)

        def rows_of(network: Backbone, indices: NDArray[np.int64], view: int) -> StoredRows:
            preprocess, label = network.preprocess, "extract"
            if len(networks) > 1:
                label += f" by {network.name}"
            if view:
                preprocess = dataclasses.replace(preprocess, view=view, augment=self.config.augment)
                label += f" view {view}"
            seen = dataclasses.replace(network, preprocess=preprocess)
            rows = RowExtractor(dataset.samples, seen, self.compute, threads, label)
            return extract(rows, indices, store, self.reporter)

        def extracted(indices: NDArray[np.int64], view: int = 0) -> Features:
            return Features.of(*(rows_of(network, indices, view) for network in networks))

        features = extracted(dataset.used)
        if self.config.tta or not self.config.views:  # with tta, a row is the mean over views
            return features
        kept = np.setdiff1d(dataset.train, list(features.refused))
        views = [extracted(kept, view) for view in range(1, self.config.views + 1)]
        return features.with_views(views)


def _name_notes(model: str) -> list[str]:
    from regraft.backbones import registry
    from regraft.backbones.sums import split_sum

    notes = [registry.name_note(name) for name in split_sum(model)]
    return [note for note in notes if note is not None]


def _at_size(
    network: Backbone, samples: Samples, config: TrainConfig, reporter: Reporter
) -> Backbone:
    """Return a network at the image size for the data; report what it is."""
    from regraft.backbones.image_size import adapt_to_images

    if network.no_bundle is not None:
        reporter.say(f"no bundle will be written: {network.no_bundle}")
    automatic = config.image_size == "auto"
    sized, reason = adapt_to_images(network, samples.sizes, automatic=automatic)
    preprocess = sized.preprocess
    reporter.say(
        f"{sized.name}, weights {sized.weights} (sha256 {sized.weights_sha256[:12]}, "
        f"licence {sized.licence or 'not stated'}), "
        f"mean {preprocess.mean}, std {preprocess.std}"
    )
    reporter.say(reason)
    return sized


def _with_views(backbone: Backbone, config: TrainConfig) -> Backbone:
    """Return the network whose every feature is a mean over views, where the settings say so."""
    if not config.tta:
        return backbone
    preprocess = dataclasses.replace(
        backbone.preprocess, views=config.views, augment=config.augment
    )
    return dataclasses.replace(backbone, preprocess=preprocess)


def split_model(settings: Mapping[str, Any]) -> tuple[Backbone | None, dict[str, Any]]:
    """Return a network that a user gives as ``model``, and the settings with its name instead.

    A configuration holds plain values only. The label of the weights is the network's own, so that
    a configuration that is used again never means other weights of the same architecture.
    """
    from regraft.backbones.backbone import Backbone

    given, plain = settings.get("model"), dict(settings)
    if not isinstance(given, Backbone):
        return None, plain
    if plain.get("weights", TrainConfig.weights) != TrainConfig.weights:
        raise ConfigError(
            f"weights is {plain['weights']}, and model is a Backbone, which has weights already",
            hint="leave weights out",
        )
    return given, plain | {"model": given.name, "weights": given.weights}


def load_networks(config: TrainConfig, given: Backbone | None = None) -> tuple[Backbone, ...]:
    """Load the networks that the settings name, each at its own image size or the given one.

    ``given`` is the only network if a user has given it as an object.
    """
    from regraft.backbones import registry
    from regraft.backbones.image_size import at_image_size
    from regraft.backbones.sums import split_sum

    size = None if config.image_size == "auto" else int(config.image_size)
    if given is not None:
        return (given if size is None else at_image_size(given, size),)
    weights = "none" if config.strategy == "scratch" else config.weights
    return tuple(
        registry.load_backbone(name, weights, image_size=size, seed=config.seed)
        for name in split_sum(config.model)
    )


def choose_augmentation(config: TrainConfig, samples: Samples) -> TrainConfig:
    """Return the settings with a choice of augmentation instead of "auto".

    It is "digits" for characters, which must not be mirrored, and else "light".
    """
    if config.augment != "auto":
        return config
    characters = samples.source.location == "kmnist" or all(
        len(name) == 1 or name.isdecimal() for name in samples.classes
    )
    return config.replace(augment="digits" if characters else "light")
