"""``regraft lr-find``: the way of a training up to its first step, then a trial of rates."""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.commands.steps import (
    check_names,
    compute_of,
    configured,
    divide,
    extract_features,
    load_backbone,
    n_workers,
    probing,
    suited,
    tell_refused,
)
from regraft.core.background import in_background
from regraft.core.reporter import Reporter
from regraft.data.refused import drop_refused
from regraft.data.scan import scan
from regraft.errors import ImageError
from regraft.runs.reserve import picture_place

if TYPE_CHECKING:
    from regraft.backbones.backbone import Backbone
    from regraft.config.train_config import TrainConfig
    from regraft.data.samples import Parts, Samples
    from regraft.finetune.rate_trial import Rates
    from regraft.model import Model


def find_rate(
    data: Any,
    config: TrainConfig | None = None,
    reporter: Reporter | None = None,
    *,
    out: Path | str | None = None,
    **settings: Any,
) -> Rates:
    """Suggest a learning rate for ``train`` with the same data and settings.

    Only images of the training part are read. Only the plot is written; where a probe is fitted
    first, since it is what the training begins with, features of the training part go into the
    store, where the training finds them.

    Parameters
    ----------
    data : str, Path or tuple of arrays
        As for ``train``.
    config : TrainConfig, optional
        Every setting; strategy "probe" counts as "finetune".
    reporter : Reporter, optional
        Silent where not given.
    out : Path or str, optional
        PNG file to write, which must not exist; else ``regraft-runs/lr-find.png``, replaced.
    **settings
        Fields of TrainConfig, in place of those of ``config``.

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
    config, reporter = configured(config, settings), reporter or Reporter()
    if config.strategy == "probe":  # what only a probe reads may come from its config.yaml
        config = config.replace(strategy="finetune", views=0, tta=False)
    place = picture_place(None if out is None else Path(out), "lr-find.png", data)
    with ExitStack() as stack:
        with in_background(load_backbone, config) as loading:
            samples = scan(data, config, reporter)
            parts = divide(samples, config)
        for note in dict.fromkeys((*samples.source.notes, *samples.notes, *parts.notes)):
            reporter.say(note)
        backbone, config = suited(loading.result(), samples, config, reporter)
        from regraft.finetune.train import Job, try_rates_from
        from regraft.plots.rates import draw_rates
        from regraft.probe.fit import fit_probe

        check_names(backbone, config)
        compute = compute_of(backbone, config)
        begin = _without_probe(backbone, samples, config)
        if begin is None:
            features = extract_features(
                samples, parts.train, backbone, compute, config, stack, reporter
            )
            refused = features.refused
        else:
            refused = _unreadable(samples, parts, backbone, config, reporter)
        samples, parts = drop_refused(samples, parts, refused, strict=config.strict)
        tell_refused(samples.ledger, reporter, "in the ledger.json of a training")
        if begin is None:
            probe = fit_probe(features, samples, parts, backbone, probing(config), reporter)
            begin = probe.model
        found = try_rates_from(Job(begin, samples, parts, compute, config, reporter))
    draw_rates(place, found.rates, found.losses, found.smooth, found.limit, found.suggestion)
    reporter.say(f"picture: {place}")
    return found


def _without_probe(backbone: Backbone, samples: Samples, config: TrainConfig) -> Model | None:
    """Return what a training begins with where a probe has no say; None where it has.

    A head that is drawn at random needs none, unless a probe chooses the blocks that it reads: one
    that weighs features keeps those that are worth it.
    """
    from regraft.features.taps import block_widths, select_blocks
    from regraft.finetune.network import random_head
    from regraft.model import Model
    from regraft.probe.fit import WEIGHING

    if config.strategy != "scratch" and config.start == "probe":
        return None
    weighs = probing(config).head in WEIGHING
    taps = "last" if config.taps == "auto" and not weighs else config.taps
    blocks = select_blocks(backbone, taps, config.grids)
    if weighs and len(blocks) > 1:
        return None
    width = sum(block_widths(backbone, blocks).values())
    head = random_head(width, len(samples.classes), config.seed)
    return Model(backbone, blocks, head, 1.0, samples.classes, config.max_pixels)


def _unreadable(
    samples: Samples, parts: Parts, backbone: Backbone, config: TrainConfig, reporter: Reporter
) -> dict[int, ImageError]:
    """Decode the training part, which no network has read, and return what cannot be used."""
    from regraft.images.ahead import render_ahead

    refused: dict[int, ImageError] = {}
    with (
        reporter.track("read", len(parts.train)) as advance,
        closing(
            render_ahead(
                samples.stream(parts.train), backbone.preprocess, n_workers(config),
                config.max_pixels, samples.hashes,
            )
        ) as rendered,
    ):  # fmt: skip
        for index, image in rendered:
            if isinstance(image, ImageError):
                refused[index] = image
            advance(1)
    return refused
