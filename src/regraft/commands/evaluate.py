"""``regraft evaluate``: a trained classifier measured on labelled images.

It reads the bundle that the run wrote, as a user of the bundle does.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.config.settings import some_settings
from regraft.core.reporter import SILENT, Reporter
from regraft.data.dataset import Dataset
from regraft.data.notes import report_refused
from regraft.data.refused import record_refused
from regraft.data.scan import scan
from regraft.splits.matching import choose_unseen, match_classes, missing_classes

if TYPE_CHECKING:
    from regraft.bundle.predictor import Predictor
    from regraft.data.ledger import Ledger


def evaluate(
    run: Path | str, data: Any, *, reporter: Reporter = SILENT, **settings: Any
) -> dict[str, Any]:
    """Measure a trained classifier on labelled images that it was not fitted on.

    Parameters
    ----------
    run : Path or str
        Run folder, or the bundle in it.
    data : str, Path or tuple of arrays
        As for ``train``. If the data have parts, the test part is measured. Classes are matched by
        name; images that the run was fitted on (the same bytes) are left out and counted.
    reporter : Reporter
        Follows the work; silent by default.
    **settings
        Fields of TrainConfig that say how images are read and computed.

    Returns
    -------
    dict
        As ``test`` in metrics.json, with ``data`` and what was left out.

    Raises
    ------
    DataError
        The run does not have all classes of the data; the message lists them. Or too many images
        cannot be read; with ``strict``, one is enough.
    BundleError
        The bundle is damaged or altered, or this machine computes other answers.
    """
    asked, folder = some_settings(settings, "evaluate"), Path(run)
    from regraft.bundle.predictor import Predictor
    from regraft.evaluation.metrics import measure_classification
    from regraft.features.extractor import Extractor
    from regraft.probe.score import calibrated_probabilities
    from regraft.runs.summary import describe_test

    predictor = Predictor.load(
        folder, device=asked.device, precision=asked.precision, batch_size=asked.batch_size
    )
    config = asked if "max_pixels" in settings else _as_trained(asked, predictor)
    samples = scan(data, config, reporter, least_classes=1)
    labels = match_classes(samples, predictor.classes)
    wanted, notes = choose_unseen(samples, folder)
    for note in (*samples.source.notes, *samples.notes, *notes):
        reporter.say(note)
    backbone = predictor.model.backbone
    with Extractor(backbone, predictor.compute, config, reporter) as extractor:
        features = extractor.read(Dataset.only_test(samples, wanted))
        ledger = record_refused(samples, wanted, features.refused, strict=config.strict).ledger
        read = np.asarray([i for i in wanted if int(i) not in features.refused], dtype=np.int64)
        probabilities = calibrated_probabilities(predictor.model, features, read)
    measured = measure_classification(
        probabilities, labels[read], predictor.classes, seed=config.seed
    )
    missing = missing_classes(labels[read], predictor.classes)
    report_refused(ledger, reporter, "among the figures")
    for line in (*missing, *measured["warnings"], *describe_test(measured)):
        reporter.say(line)
    about = {
        "source": samples.source.location,
        "notes": [*notes, *missing],
        "refused": _refused(ledger),
    }
    return {"run": str(folder), "data": about, **measured}


def _as_trained(config: Any, predictor: Predictor) -> Any:
    """Return the settings with the limit of pixels that the run was trained with."""
    return config.replace(max_pixels=predictor.model.max_pixels)


def _refused(ledger: Ledger) -> dict[str, str]:
    return {
        each.path: f"{each.kind}: {each.reason}"
        for each in ledger.entries
        if each.status == "refused"
    }
