"""A trained classifier put to work: measured on labelled images, or asked about images.

Both read the bundle that the run wrote, as whoever deploys it does.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import: that happens while files are being listed

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.commands.steps import extract_features, n_workers, tell_refused
from regraft.config.settings import some_settings
from regraft.core.background import in_background
from regraft.core.reporter import Reporter
from regraft.data.refused import note_refused
from regraft.data.scan import scan
from regraft.data.sources.registry import open_unlabelled
from regraft.splits.matching import choose_unseen, match_classes, missing_classes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.bundle.predictor import Prediction


def evaluate(
    run: Path | str, data: Any, *, reporter: Reporter | None = None, **settings: Any
) -> dict[str, Any]:
    """Measure a trained classifier on labelled images that it was not fitted on.

    Parameters
    ----------
    run : Path or str
        Run folder, or the bundle in it.
    data : str, Path or tuple of arrays
        As for ``train``. Of data with parts, the test part is measured. Classes are matched by
        name; images that the run was fitted on (the same bytes) are left out and counted.
    reporter : Reporter, optional
        Silent where not given.
    **settings
        Fields of TrainConfig that say how images are read and computed.

    Returns
    -------
    dict
        As ``test`` in metrics.json, with ``data`` and what was left out.

    Raises
    ------
    DataError
        Where a class has a name that the run does not know; it lists them. Where too many images
        cannot be read, or with ``strict``, one.
    BundleError
        Where the bundle is not what it says.
    """
    config, reporter, run = some_settings(settings, "evaluate"), reporter or Reporter(), Path(run)
    from regraft.bundle.predictor import Predictor
    from regraft.evaluation.metrics import measure_classification
    from regraft.probe.fit import score
    from regraft.runs.summary import describe_test

    predictor = Predictor.load(
        run, device=config.device, precision=config.precision, batch_size=config.batch_size
    )
    if "max_pixels" not in settings:  # as the run was trained
        config = config.replace(max_pixels=predictor.model.max_pixels)
    samples = scan(data, config, reporter, least_classes=1)
    labels = match_classes(samples, predictor.classes)
    chosen, notes = choose_unseen(samples, run)
    for note in (*samples.source.notes, *samples.notes, *notes):
        reporter.say(note)
    n_told = len(notes)
    with ExitStack() as stack:
        features = extract_features(
            samples, chosen, predictor.model.backbone, predictor.compute, config, stack, reporter
        )
        samples = note_refused(samples, chosen, features.refused, strict=config.strict)
        chosen = np.asarray([i for i in chosen if int(i) not in features.refused], dtype=np.int64)
        probabilities = score(predictor.model, features, chosen)
    notes += missing_classes(labels[chosen], predictor.classes)
    results = measure_classification(
        probabilities, labels[chosen], predictor.classes, seed=config.seed
    )
    entries = samples.ledger.entries
    refused = {e.path: f"{e.kind}: {e.reason}" for e in entries if e.status == "refused"}
    tell_refused(samples.ledger, reporter, "among the figures")
    for line in (*notes[n_told:], *results["warnings"], *describe_test(results)):
        reporter.say(line)
    told = {"source": samples.source.location, "notes": notes, "refused": refused}
    return {"run": str(run), "data": told, **results}


def predict(
    run: Path | str,
    paths: Sequence[str],
    *,
    topk: int = 1,
    reporter: Reporter | None = None,
    **settings: Any,
) -> Iterator[Prediction]:
    """Classify images.

    Parameters
    ----------
    run : Path or str
        Run folder, or the bundle in it.
    paths : sequence of str
        Files, folders, patterns, zip or tar files, ``-`` for standard input.
    topk : int
        How many classes each answer lists.
    reporter : Reporter, optional
        Silent where not given.
    **settings
        Fields of TrainConfig that say how images are read and computed.

    Yields
    ------
    Prediction
        In the order of the images; with ``error`` where one cannot be read.
    """
    with in_background(_import_predictor) as importing:
        config = some_settings(settings, "predict")
        source = open_unlabelled(paths)
    for note in source.notes:
        (reporter or Reporter()).say(note)
    predictor = importing.result().load(
        run, device=config.device, precision=config.precision, batch_size=config.batch_size
    )
    if "max_pixels" in settings:
        predictor.model = dataclasses.replace(predictor.model, max_pixels=config.max_pixels)
    yield from predictor.stream(source, workers=n_workers(config), top_k=topk)


def _import_predictor() -> Any:
    from regraft.bundle.predictor import Predictor

    return Predictor
