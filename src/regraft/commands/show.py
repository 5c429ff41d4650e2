"""``regraft show``: the classes and sizes of labelled images, and a picture of some of them.

With an augmentation, the picture shows the input of a training for a few images: each as it is
measured, and exactly as the first epochs would render it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.config.settings import some_settings
from regraft.core.machine import n_threads
from regraft.core.reporter import SILENT, Reporter
from regraft.core.text import columns, shortened
from regraft.data.scan import scan
from regraft.errors import ConfigError, DataError, ImageError
from regraft.features.extractor import choose_augmentation
from regraft.plots.grid import SHOWN, Item, draw_grid
from regraft.runs.names import picture_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.data.samples import Samples
    from regraft.images.render import Preprocess

VIEWS = 4  # augmented views of an image, of epochs 1 to 4
_REFUSED_SHOWN = 5
_LONGEST_NAME = 60  # columns of a class in the table


def show(
    data: Any,
    out: Path | None = None,
    augmentation: str | None = None,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> str:
    """Draw labelled images; return counts, sizes, notes and the path of the picture.

    ``out`` is a PNG file that does not exist; by default ``regraft-runs/show.png``, which is
    replaced. With ``augmentation``, "auto" or a name in ``regraft.images.augment.AUGMENTATIONS``,
    fewer images are drawn, each as it is measured and as the first four epochs would render it.
    """
    config = some_settings(settings, "show")
    _check_augmentation(augmentation)
    path = picture_path(out, "show.png", data)
    samples = scan(data, config, reporter, least_classes=1)
    n_images = SHOWN if augmentation is None else SHOWN // (1 + VIEWS)
    images = _read(samples, choose_examples(samples, n_images, config.seed), config.workers)
    refused = {index: each for index, each in images.items() if isinstance(each, ImageError)}
    if config.strict and refused:
        index = min(refused)
        raise DataError(f"{samples.ids[index]}: {refused[index]}")
    if augmentation is None:
        items = [_item(image, samples, index) for index, image in images.items()]
        title = f"{len(items):,} of {len(samples):,} images, of as many classes as fit"
    else:
        chosen = choose_augmentation(config, samples).augment
        name = chosen if augmentation == "auto" else augmentation
        preprocess = _preprocess(samples, config.model, config.image_size)
        items, title = _augmented_images(images, samples, name, preprocess, config.seed)
    draw_grid(path, items, title)
    return "\n".join([*_lines(samples, len(images), refused), f"picture: {path}"])


def _augmented_images(
    images: Mapping[int, NDArray[np.uint8] | ImageError],
    samples: Samples,
    name: str,
    preprocess: Preprocess,
    seed: int,
) -> tuple[list[Item], str]:
    """Return a few images, each with some views of it, and the title of their picture."""
    views = [_views(image, samples, i, name, preprocess, seed) for i, image in images.items()]
    title = f"As measured, then as epochs 1 to {VIEWS} see it: augment {name}"
    return [item for each in views for item in each], f"{title}, {preprocess.image_size} pixels"


def choose_examples(samples: Samples, n_images: int, seed: int) -> list[int]:
    """Return at most ``n_images`` indices into the samples, by class.

    Classes have equal numbers if they have enough images; of many classes, some have none.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(samples))
    rank = np.empty(len(samples), dtype=np.int64)  # of each image in its class, from 0
    counts: Counter[int] = Counter()
    for index in order:
        label = int(samples.labels[index])
        rank[index] = counts[label]
        counts[label] += 1
    first = order[np.argsort(rank[order], kind="stable")][:n_images]
    return sorted(first.tolist(), key=lambda index: (int(samples.labels[index]), index))


def _check_augmentation(name: str | None) -> None:
    if name is None:
        return
    from regraft.images.augment import AUGMENTATIONS  # noqa: PLC0415 - imports torch

    known = ("auto", *AUGMENTATIONS)
    if name not in known:
        raise ConfigError(f"augment is {name}; it must be one of {', '.join(known)}")


def _preprocess(samples: Samples, model: str, image_size: str) -> Preprocess:
    """Return the rendering for the configured network, at the size that a training would choose."""
    from regraft.backbones import registry  # noqa: PLC0415 - imports torch
    from regraft.backbones.image_size import adapt_to_images  # noqa: PLC0415

    size = None if image_size == "auto" else int(image_size)
    backbone = registry.load_backbone(model, "none", image_size=size)  # no weight is used
    backbone, _ = adapt_to_images(backbone, samples.sizes, automatic=size is None)
    return backbone.preprocess


def _read(
    samples: Samples, chosen: list[int], workers: int
) -> dict[int, NDArray[np.uint8] | ImageError]:
    """Decode some images; for an image that cannot be read, return the error instead."""
    found = dict(samples.pixels(chosen, n_threads(workers)))
    return {index: found[index] for index in chosen}


def _item(image: NDArray[np.uint8] | ImageError, samples: Samples, index: int) -> Item:
    true, name = samples.classes[samples.labels[index]], samples.ids[index]
    if isinstance(image, ImageError):
        return Item(None, None, true, None, name, reason=image.kind)
    return Item(image, None, true, None, name)


def _views(
    image: NDArray[np.uint8] | ImageError,
    samples: Samples,
    index: int,
    augmentation: str,
    preprocess: Preprocess,
    seed: int,
) -> list[Item]:
    """Return an image as it is measured, and as the first epochs of a training would render it."""
    from regraft.core.keyed_random import generator  # noqa: PLC0415
    from regraft.images.augment import AUGMENTATIONS, augment  # noqa: PLC0415
    from regraft.images.render import render  # noqa: PLC0415 - imports torch

    true, name = samples.classes[samples.labels[index]], samples.ids[index]
    if isinstance(image, ImageError):
        return [Item(None, None, true, None, name, reason=image.kind)] * (1 + VIEWS)
    items = [Item(render(image, preprocess).permute(1, 2, 0).numpy(), None, true, None, name)]
    for epoch in range(1, VIEWS + 1):
        random = generator(seed, "augment", epoch, samples.hashes[index])
        view = augment(image, preprocess, AUGMENTATIONS[augmentation], random)
        pixels = view.permute(1, 2, 0).numpy()
        items.append(Item(pixels, None, true, None, f"epoch {epoch}"))
    return items


def _lines(samples: Samples, n_read: int, refused: Mapping[int, ImageError]) -> list[str]:
    """Return counts, sizes and notes.

    Only the ``n_read`` images of the picture were decoded; those of them that could not be are
    ``refused``, by index.
    """
    given = [part for part in ("train", "val", "test") if part in samples.parts]
    used = [index for index in range(len(samples)) if index not in refused]
    labels = [int(samples.labels[index]) for index in used]
    counts = Counter(zip(labels, (samples.parts[index] for index in used), strict=True))
    totals = Counter(labels)
    rows = [
        [name, f"{totals[label]:,}", *(f"{counts[label, part]:,}" for part in given)]
        for label, name in enumerate(shortened(samples.classes, _LONGEST_NAME))
    ]
    errors = {samples.ids[index]: error for index, error in refused.items()}
    lost = [e for e in samples.ledger.with_refused(errors).entries if e.status == "refused"]
    drawn = f" ({len(refused)} of the {n_read} that were decoded)" if refused else ""
    copies = len(used) - len({samples.hashes[index] for index in used})
    return [
        f"{samples.source.location}: {len(used):,} images of {len(samples.classes):,} classes",
        f"{len(lost):,} refused{drawn}, {copies:,} byte-identical to another",
        *(f"  {each.path}: {each.kind}: {each.reason}" for each in lost[:_REFUSED_SHOWN]),
        *([f"  and {len(lost) - _REFUSED_SHOWN:,} more"] if len(lost) > _REFUSED_SHOWN else []),
        columns(["class", "images", *given], rows, right=set(range(1, 2 + len(given)))),
        _sizes(samples),
        *samples.notes,
    ]


def _sizes(samples: Samples) -> str:
    """Return a line about the sizes, as width times height."""
    sizes = Counter((int(width), int(height)) for height, width in samples.sizes)
    (width, height), times = sizes.most_common(1)[0]
    if len(sizes) == 1:
        return f"all are of {width} x {height} pixels"
    short = np.min(samples.sizes, axis=1)
    return (
        f"{len(sizes):,} sizes, most often {width} x {height} pixels ({times:,} images); short "
        f"side {short.min():,} to {short.max():,}, median {np.median(short):g}"
    )
