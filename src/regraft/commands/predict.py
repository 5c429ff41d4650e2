"""``regraft predict``: a trained classifier asked about images."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from regraft.commands.keep_unknown import UnknownImages, check_keep_unknown, require_level
from regraft.commands.predictors import import_of, level_notes, load_answering
from regraft.config.settings import some_settings
from regraft.core.background import in_background
from regraft.core.machine import n_threads
from regraft.core.reporter import SILENT, Reporter
from regraft.data.sources.recorded import Recorded
from regraft.data.sources.unlabelled import open_unlabelled
from regraft.decision.levels import chosen_levels
from regraft.images.losses import losses_lines
from regraft.runs.names import made_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from regraft.bundle.prediction import Prediction
    from regraft.commands.predictors import Engine


def predict(
    run: Path | str,
    paths: Sequence[str],
    *,
    topk: int = 1,
    keep_unknown: Path | str | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
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
    keep_unknown : Path or str, optional
        Folder for copies of images that are called unknown, with a table and a picture of clusters.
        Images that are in it are not asked about.
    overwrite : bool
        Replace the table and the picture that are already there.
    reporter : Reporter
        Follows the work; silent by default.
    **settings
        Fields of TrainConfig that say how images are read, computed and decided about; ``engine``:
        "torch" (the bundle) or "onnx" (what ``export`` has written into the run).

    Yields
    ------
    Prediction
        In the order of the images; with ``error`` for an image that cannot be read.
    """
    folder = None
    if keep_unknown is not None:
        folder = check_keep_unknown(keep_unknown, paths, overwrite=overwrite)
    engine: Engine = settings.pop("engine", "torch")
    with in_background(import_of(engine)) as importing:
        config = some_settings(settings, "predict")
        source = open_unlabelled(paths, without=folder)
    for note in source.notes:
        reporter.say(note)
    importing.result()
    predictor = load_answering(run, engine, config, settings)
    levels = chosen_levels(settings)
    rules = predictor.rules(**levels)
    for note in level_notes(predictor, rules):
        reporter.say(note)
    answers = partial(predictor.stream, workers=n_threads(config.workers), top_k=topk, **levels)
    if folder is None:
        yield from _with_losses(answers(source), reporter)
        return
    typicality, limit = require_level(rules), predictor.max_pixels
    kept = UnknownImages(folder, typicality, limit, overwrite=overwrite)
    with made_folder(folder), closing(kept) as keeping:
        recorded = Recorded(source, bytes)
        found = answers(recorded.source, keep_pooled=True)
        for index, prediction in enumerate(_with_losses(found, reporter)):
            keeping.add(prediction, recorded.take(index))
            yield dataclasses.replace(prediction, pooled=None)
        reporter.say(keeping.finish())


def _with_losses(answers: Iterator[Prediction], reporter: Reporter) -> Iterator[Prediction]:
    """Yield predictions; at the end, say what decoding left out."""
    names: dict[str, list[str]] = defaultdict(list)
    for prediction in answers:
        yield prediction
        for note in prediction.notes:
            names[note].append(prediction.id)
    for line in losses_lines(names):
        reporter.say(line)
