"""``regraft lr-find``: a training up to its first step, then a trial of learning rates."""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.commands.checks import check_first, load_checked
from regraft.config.settings import configured
from regraft.core.background import in_background
from regraft.core.machine import n_threads
from regraft.core.reporter import SILENT, Reporter
from regraft.data.notes import report_notes, report_refused
from regraft.data.scan import scan
from regraft.errors import ImageError
from regraft.features.extractor import Extractor, split_model
from regraft.runs.names import picture_path
from regraft.splits.split import split_by_config

if TYPE_CHECKING:
    from regraft.config.train_config import TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.features.features import Features
    from regraft.finetune.rate_trial import Rates
    from regraft.model import Model


def find_rate(
    data: Any,
    config: TrainConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    out: Path | str | None = None,
    **settings: Any,
) -> Rates:
    """Suggest a learning rate for ``train`` with the same data and settings.

    Only images of the training part are read. Only the picture is written. If a probe is fitted
    first, because the training begins with it, features of the training part go into the store,
    and the training finds them there.

    Parameters
    ----------
    data : str, Path or tuple of arrays
        As for ``train``.
    config : TrainConfig, optional
        Every setting; strategy "probe" counts as "finetune".
    reporter : Reporter
        Follows the work; silent by default.
    out : Path or str, optional
        PNG file to write, which must not exist; else ``regraft-runs/lr-find.png``, replaced.
    **settings
        Fields of TrainConfig, instead of those of ``config``; ``model`` as for ``train``.

    Returns
    -------
    Rates
        With ``suggestion``; print ``summary()``.

    Raises
    ------
    RegraftError
        What is wrong, where, and what to do.

    Examples
    --------
    ::

        found = regraft.find_rate("photos", unfreeze="all")
        regraft.train("photos", strategy="finetune", unfreeze="all", lr=found.suggestion)
    """
    given, settings = split_model(settings)  # a network as an object, or none
    asked = _in_steps(configured(config, settings))
    path = picture_path(None if out is None else Path(out), "lr-find.png", data)
    check_first(asked)
    with in_background(load_checked, asked, given) as loading:  # its error ends the scan
        samples = scan(data, asked, reporter, meanwhile=loading)
        found = split_by_config(samples, asked)
    report_notes(found, reporter)
    networks = loading.result()
    with Extractor.for_samples(networks, found.samples, asked, reporter) as extractor:
        start, dataset = _start(found, extractor)
        rates = _try_rates(start, dataset, extractor)
    _draw(path, rates)
    reporter.say(f"picture: {path}")
    return rates


def _in_steps(config: TrainConfig) -> TrainConfig:
    """Return the settings of a training in steps; what only a probe reads may be in its file."""
    if config.strategy != "probe":
        return config
    return config.replace(strategy="finetune", views=0, tta=False)


def _start(found: Dataset, extractor: Extractor) -> tuple[Model, Dataset]:
    """Return what the training starts from, and the dataset without images that cannot be read."""
    random = _random_start(found, extractor)
    if random is not None:
        return random, _without(found, _unreadable(found, extractor), extractor)
    features = extractor.read(found.only_train())
    dataset = _without(found, features.refused, extractor)
    return _fit(features, dataset, extractor), dataset


def _fit(features: Features, dataset: Dataset, extractor: Extractor) -> Model:
    from regraft.probe.fit import fit_by

    return fit_by(extractor, features, dataset).model


def _without(found: Dataset, refused: dict[int, ImageError], extractor: Extractor) -> Dataset:
    dataset = found.without(refused, strict=extractor.config.strict)
    where = "in the ledger.json of a training"
    report_refused(dataset.samples.ledger, extractor.reporter, where)
    return dataset


def _random_start(found: Dataset, extractor: Extractor) -> Model | None:
    """Return the model with a random head that the training starts from; None if it needs a probe.

    Also with a random head, a probe may choose the blocks that the head reads: a head that weighs
    features keeps only the blocks that are worth it.
    """
    from regraft.features.taps import block_widths, select_blocks
    from regraft.finetune.network import random_head
    from regraft.model import Model
    from regraft.probe.fit import ProbeSettings

    config, backbone = extractor.config, extractor.backbone
    if config.strategy != "scratch" and config.start == "probe":
        return None
    weighs = ProbeSettings.of(config).weighs
    taps = "last" if config.taps == "auto" and not weighs else config.taps
    blocks = select_blocks((backbone,), taps, config.grids)
    if weighs and len(blocks) > 1:
        return None
    width = sum(block_widths((backbone,), blocks).values())
    head = random_head(width, len(found.classes), config.seed)
    return Model(backbone, blocks, head, 1.0, found.classes, found.samples.max_pixels)


def _unreadable(found: Dataset, extractor: Extractor) -> dict[int, ImageError]:
    """Decode the training part, which no network has read; return the unreadable images."""
    refused: dict[int, ImageError] = {}
    threads = n_threads(extractor.config.workers)
    with extractor.reporter.track("read", len(found.train)) as advance:
        for index, pixels in found.samples.pixels(found.train, threads):
            if isinstance(pixels, ImageError):
                refused[index] = pixels
            advance(1)
    return refused


def _try_rates(start: Model, dataset: Dataset, extractor: Extractor) -> Rates:
    from regraft.finetune.train import try_rates_from

    return try_rates_from(start, dataset, extractor)


def _draw(path: Path, rates: Rates) -> None:
    from regraft.plots.rates import draw_rates

    draw_rates(path, rates.rates, rates.losses, rates.smooth, rates.limit, rates.suggestion)
