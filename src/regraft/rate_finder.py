"""``regraft lr-find``: the way of a training up to its first step, then a trial of rates."""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being hashed

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.background import in_background
from regraft.claims import picture_place
from regraft.data.refused import drop_refused
from regraft.data.scan import scan
from regraft.report import Reporter
from regraft.steps import (
    check_names,
    compute_of,
    configured,
    divide,
    extract_features,
    load_backbone,
    probing,
    suited,
)

if TYPE_CHECKING:
    from regraft.config import TrainConfig
    from regraft.finetune.rates import Rates


def find_rate(
    data: Any,
    config: TrainConfig | None = None,
    reporter: Reporter | None = None,
    *,
    out: Path | str | None = None,
    **settings: Any,
) -> Rates:
    """Suggest a learning rate for ``train`` with the same data and settings.

    Only images of the training part go through the network. Only the plot is written, and features
    of the training part go into the store, where the training finds them.

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
        With ``suggestion``; print ``told()``.

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
        from regraft.finetune.rates import draw_rates
        from regraft.finetune.start import find
        from regraft.probe import fit_probe

        check_names(backbone, config)
        compute = compute_of(backbone, config)
        features = extract_features(
            samples, parts.train, backbone, compute, config, stack, reporter
        )
        samples, parts = drop_refused(samples, parts, features.refused, strict=config.strict)
        probe = fit_probe(features, samples, parts, backbone, probing(config), reporter)
        found = find(probe.model, samples, parts, compute, config, reporter)
    draw_rates(place, found)
    reporter.say(f"picture: {place}")
    return found
