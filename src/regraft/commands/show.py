"""Labelled images before any training: classes, sizes, and a picture of some of them.

With an augmentation, the picture shows what a training would see of a few images: each as it is
measured, and as the first epochs would render it, to the bit.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.config.settings import some_settings
from regraft.core.machine import n_threads
from regraft.core.reporter import SILENT, Reporter
from regraft.core.text import columns
from regraft.data.scan import scan
from regraft.errors import ConfigError, ImageError
from regraft.features.extractor import choose_augmentation
from regraft.plots import grid as plots
from regraft.runs.names import picture_path

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.data.samples import Samples
    from regraft.images.render import Preprocess

VIEWS = 4  # augmented ones of an image, in epochs 1 to 4


def show(
    data: Any,
    out: Path | None = None,
    augmentation: str | None = None,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> str:
    """Draw labelled images, and count classes and sizes.

    Parameters
    ----------
    data : str, Path or tuple of arrays
        As for ``regraft.train``.
    out : Path, optional
        PNG file that is not there yet; else ``regraft-runs/show.png``, which is replaced.
    augmentation : str, optional
        A name in ``regraft.images.augment.AUGMENTATIONS``: draw fewer images, each in the
        rendering that is measured and in those of the first four epochs.
    reporter : Reporter, optional
        Silent where not given.
    **settings
        Fields of TrainConfig that say how images are read and drawn.

    Returns
    -------
    str
        What to print: counts, sizes, notes, and where the picture is.

    Raises
    ------
    DataError
        Where the data cannot be used.
    RunError
        Where the picture cannot be written there.
    ConfigError
        Where an augmentation or a setting is unknown.

    Examples
    --------
    ::

        print(show("photos", augmentation="standard"))
    """
    config = some_settings(settings, "show")
    if augmentation is not None:
        _check_augmentation(augmentation)
    path = picture_path(out, "show.png", data)
    samples = scan(data, config, reporter, least_classes=1)
    if augmentation == "auto":
        augmentation = choose_augmentation(config, samples).augment
    n_images = plots.SHOWN if augmentation is None else plots.SHOWN // (1 + VIEWS)
    chosen = choose_examples(samples, n_images, config.seed)
    images = _read(samples, chosen, n_threads(config.workers))
    title = f"{len(chosen):,} of {len(samples):,} images, of as many classes as fit"
    if augmentation is None:
        items = [_item(images[index], samples, index) for index in chosen]
    else:
        preprocess = _preprocess(samples, config.model, config.image_size)
        title = f"As measured, then as epochs 1 to {VIEWS} see it: augment {augmentation}"
        title += f", {preprocess.image_size} pixels"
        items = [
            item
            for index in chosen
            for item in _views(images[index], samples, index, augmentation, preprocess, config.seed)
        ]
    plots.draw_grid(path, items, title)
    return "\n".join([*_lines(samples), f"picture: {path}"])


def choose_examples(samples: Samples, n_images: int, seed: int) -> list[int]:
    """Draw images, as many of each class as of every other where there are enough.

    Parameters
    ----------
    samples : Samples
        To draw from.
    n_images : int
        How many at most.
    seed : int
        Of the draw.

    Returns
    -------
    list of int
        Indices into the samples, by class; of more classes than images, some have none.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(samples))
    turn = np.empty(len(samples), dtype=np.int64)  # the how-manieth of its class an image is
    met: Counter[int] = Counter()
    for index in order:
        label = int(samples.labels[index])
        turn[index] = met[label]
        met[label] += 1
    first = order[np.argsort(turn[order], kind="stable")][:n_images]
    return sorted(first.tolist(), key=lambda index: (int(samples.labels[index]), index))


def _check_augmentation(name: str) -> None:
    from regraft.images.augment import AUGMENTATIONS  # noqa: PLC0415 - imports torch

    known = ("auto", *AUGMENTATIONS)
    if name not in known:
        raise ConfigError(f"augment is {name}; it must be one of {', '.join(known)}")


def _preprocess(samples: Samples, model: str, image_size: str) -> Preprocess:
    """Return the rendering of the default network at the size that a training would take."""
    from regraft.backbones import registry  # noqa: PLC0415 - imports torch
    from regraft.backbones.image_size import adapt_to_images  # noqa: PLC0415

    size = None if image_size == "auto" else int(image_size)
    backbone = registry.load_backbone(model, "none", image_size=size)  # no weight is used
    backbone, _ = adapt_to_images(backbone, samples.sizes, automatic=size is None)
    return backbone.preprocess


def _read(
    samples: Samples, chosen: list[int], n_threads: int
) -> dict[int, NDArray[np.uint8] | str]:
    """Decode some images; a word in place of an image whose pixels cannot be read."""
    return {
        index: pixels.kind if isinstance(pixels, ImageError) else pixels
        for index, pixels in samples.pixels(chosen, n_threads)
    }


def _item(image: NDArray[np.uint8] | str, samples: Samples, index: int) -> plots.Item:
    return plots.Item(image, None, samples.classes[samples.labels[index]], None, samples.ids[index])


def _views(
    image: NDArray[np.uint8] | str,
    samples: Samples,
    index: int,
    augmentation: str,
    preprocess: Preprocess,
    seed: int,
) -> list[plots.Item]:
    """Return an image as it is measured, and as a training would see it in its first epochs."""
    from regraft.core.keyed_random import generator  # noqa: PLC0415
    from regraft.images.augment import AUGMENTATIONS, augment  # noqa: PLC0415
    from regraft.images.render import render  # noqa: PLC0415 - imports torch

    true, name = samples.classes[samples.labels[index]], samples.ids[index]
    if isinstance(image, str):
        return [plots.Item(image, None, true, None, name)] * (1 + VIEWS)
    items = [plots.Item(render(image, preprocess).permute(1, 2, 0).numpy(), None, true, None, name)]
    for epoch in range(1, VIEWS + 1):
        random = generator(seed, "augment", epoch, samples.hashes[index])
        view = augment(image, preprocess, AUGMENTATIONS[augmentation], random)
        pixels = view.permute(1, 2, 0).numpy()
        items.append(plots.Item(pixels, None, true, None, f"epoch {epoch}"))
    return items


def _lines(samples: Samples) -> list[str]:
    """Return counts, sizes and notes."""
    given = [part for part in ("train", "val", "test") if part in samples.parts]
    labels = samples.labels.tolist()
    counts = Counter(zip(labels, samples.parts, strict=True))
    totals = Counter(labels)
    rows = [
        [name, f"{totals[label]:,}", *(f"{counts[label, part]:,}" for part in given)]
        for label, name in enumerate(samples.classes)
    ]
    refused = sum(entry.status == "refused" for entry in samples.ledger.entries)
    copies = len(samples) - len(set(samples.hashes))
    return [
        f"{samples.source.location}: {len(samples):,} images of {len(samples.classes):,} classes",
        f"{refused:,} refused, {copies:,} byte-identical to another",
        columns(["class", "images", *given], rows, right=set(range(1, 2 + len(given)))),
        _sizes(samples),
        *samples.notes,
    ]


def _sizes(samples: Samples) -> str:
    """Say how large the images are, as width times height."""
    sizes = Counter((int(width), int(height)) for height, width in samples.sizes)
    (width, height), times = sizes.most_common(1)[0]
    if len(sizes) == 1:
        return f"all are of {width} x {height} pixels"
    short = np.min(samples.sizes, axis=1)
    return (
        f"{len(sizes):,} sizes, most often {width} x {height} pixels ({times:,} images); short "
        f"side {short.min():,} to {short.max():,}, median {np.median(short):g}"
    )
