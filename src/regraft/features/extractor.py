"""The extractor: one frozen network that is ready to read features, and the store they are kept in.

It chooses image size, augmentation, device and precision for the data. From there on only its own
``config`` is used: that is what config.yaml records and what a resumed training compares.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

import dataclasses
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import numpy as np

from regraft.core.machine import n_threads
from regraft.core.reporter import SILENT, Reporter
from regraft.errors import DiskFullError, StoreError, StoreWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.config.train_config import TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples
    from regraft.features.compute import Compute
    from regraft.features.extract import Features
    from regraft.features.store.store import FeatureStore


class Extractor:
    """Reads the features of images with one frozen network; a context manager.

    Rows are kept in the user's store, which is opened at the first read, or in a temporary one
    where that is switched off or cannot be used. Leaving the block removes the temporary store.

    Attributes
    ----------
    backbone : Backbone
        The network, with the image size that suits the data.
    compute : Compute
        Device, precision and batch size.
    config : TrainConfig
        The settings with every automatic choice made.
    reporter : Reporter
        Follows the images.
    """

    def __init__(
        self, backbone: Backbone, compute: Compute, config: TrainConfig, reporter: Reporter = SILENT
    ) -> None:
        self.backbone = backbone
        self.compute = compute
        self.config = config
        self.reporter = reporter
        self._open = ExitStack()
        self._temporary: FeatureStore | None = None

    @classmethod
    def for_samples(
        cls, backbone: Backbone, samples: Samples, config: TrainConfig, reporter: Reporter = SILENT
    ) -> Self:
        """Choose how images are read, by the images; report each choice with its reason.

        Raises
        ------
        ConfigError
            Where the device is not there, or the network does not take the image size.
        """
        from regraft.backbones import registry
        from regraft.backbones.image_size import adapt_to_images
        from regraft.features.compute import choose_compute, images_at_once

        note = registry.name_note(config.model)
        if note is not None:
            reporter.say(note)
        automatic = config.image_size == "auto"
        fitted, reason = adapt_to_images(backbone, samples.sizes, automatic=automatic)
        preprocess = fitted.preprocess
        reporter.say(
            f"{fitted.name}, weights {fitted.weights} (sha256 {fitted.weights_sha256[:12]}), "
            f"mean {preprocess.mean}, std {preprocess.std}"
        )
        reporter.say(reason)
        chosen = choose_augmentation(config, samples)
        if chosen.tta:
            reporter.say(
                f"features are the mean over each image and {chosen.views} views of it (augment "
                f"{chosen.augment}): so many times slower, here and in predictions"
            )
            preprocess = dataclasses.replace(preprocess, views=chosen.views, augment=chosen.augment)
            fitted = dataclasses.replace(fitted, preprocess=preprocess)
        at_once = images_at_once(chosen.batch_size, preprocess.image_size)
        compute = choose_compute(chosen.device, chosen.precision, at_once)
        reporter.say(f"forward pass on {compute.device} in {compute.precision}")
        return cls(fitted, compute, chosen, reporter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._temporary = None

    def read(self, dataset: Dataset, backbone: Backbone | None = None) -> Features:
        """Extract the features of all parts, and of the training part its augmented views too.

        Rows that the store holds are not extracted again.

        Parameters
        ----------
        dataset : Dataset
            Its parts are read, and nothing else.
        backbone : Backbone, optional
            Another version of the network, such as the fine-tuned one.

        Raises
        ------
        FrozenError
            Where a parameter or a buffer of the network has changed meanwhile.
        """
        from regraft.backbones.freeze import frozen

        network = backbone or self.backbone
        with frozen(network.module):
            if self.config.cache:
                try:
                    return self._read_into(self._kept_store(), dataset, network)
                except (StoreError, DiskFullError) as error:
                    text = f"{error.message}; features of this run are not kept"
                    warnings.warn(text, StoreWarning, stacklevel=2)
            return self._read_into(self._temporary_store(), dataset, network)

    def _kept_store(self) -> FeatureStore:
        from regraft.features.store.store import open_store

        store = open_store(self.config.cache_dir)
        self._open.callback(store.trim)  # also where the run fails
        return store

    def _temporary_store(self) -> FeatureStore:
        from regraft.features.store.store import temporary_store

        if self._temporary is None:
            self._temporary = self._open.enter_context(temporary_store())
        return self._temporary

    def _read_into(self, store: FeatureStore, dataset: Dataset, network: Backbone) -> Features:
        """Extract the images, then each view of the training images."""
        from regraft.features.extract import RowExtractor, extract

        threads = n_threads(self.config.workers)

        def extracted(indices: NDArray[np.int64], view: int = 0) -> Features:
            preprocess = network.preprocess
            if view:
                preprocess = dataclasses.replace(preprocess, view=view, augment=self.config.augment)
            seen = dataclasses.replace(network, preprocess=preprocess)
            rows = RowExtractor(dataset.samples, seen, self.compute, threads)
            return extract(rows, indices, store, self.reporter)

        features = extracted(dataset.used)
        if self.config.tta or not self.config.views:  # with tta they are part of each row
            return features
        kept = np.setdiff1d(dataset.train, list(features.refused))
        views = [extracted(kept, view) for view in range(1, self.config.views + 1)]
        return features.with_views(views)


def load_network(config: TrainConfig) -> Backbone:
    """Load the network that the settings name, at its own image size or the given one."""
    from regraft.backbones import registry

    size = None if config.image_size == "auto" else int(config.image_size)
    weights = "none" if config.strategy == "scratch" else config.weights
    return registry.load_backbone(config.model, weights, image_size=size, seed=config.seed)


def choose_augmentation(config: TrainConfig, samples: Samples) -> TrainConfig:
    """Return the settings with the automatic augmentation replaced by a choice.

    A mirrored character is another character, or none: characters get "digits", all else "light".
    """
    if config.augment != "auto":
        return config
    characters = samples.source.location == "kmnist" or all(
        len(name) == 1 or name.isdecimal() for name in samples.classes
    )
    return config.replace(augment="digits" if characters else "light")
