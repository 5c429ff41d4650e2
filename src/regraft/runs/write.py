"""What a run leaves behind: the files of the run folder, each written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.bundle.format import write_bundle
from regraft.check import near_duplicates
from regraft.config.yaml_file import to_yaml
from regraft.core.files import write_atomic
from regraft.core.version import __version__
from regraft.errors import RegraftError
from regraft.images.decode import DECODER_VERSION, decode, hash_payload
from regraft.plots.confusion import draw_confusion
from regraft.plots.epochs import draw_epochs
from regraft.plots.grid import Item, draw_grid
from regraft.plots.penalties import draw_penalties
from regraft.runs.metrics_file import write_csv
from regraft.splits.split import write_split
from regraft.task import SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.check.near_duplicates import Pair
    from regraft.config.train_config import TrainConfig
    from regraft.data.samples import Parts, Samples
    from regraft.features.compute import Compute
    from regraft.features.extract import Features
    from regraft.heads.fitted import FittedHead
    from regraft.images.payload import Load
    from regraft.model import Model, Statistics
    from regraft.probe.score import Scored

_PICTURES = 24  # on predictions.png
_MISTAKES = 12  # on mistakes.png


@dataclass(frozen=True)
class Outcome:
    """Everything that a training has found out, ready to be written.

    ``scored`` are the answers on what was tested, ``near`` its near duplicates in training;
    ``results`` are the evaluated parts and baselines as metrics.json has them.
    """

    config: TrainConfig
    samples: Samples
    parts: Parts
    features: Features
    compute: Compute
    model: Model
    fitted: FittedHead
    statistics: Statistics
    scored: Scored
    results: dict[str, Any]
    near: list[Pair]


def write_artefacts(folder: Path, outcome: Outcome) -> None:
    """Write every file of a run but metrics.json, which says how long this took.

    Parameters
    ----------
    folder : Path
        Exists and is empty.
    outcome : Outcome
        What to write.

    Raises
    ------
    DiskFullError
        Where there is no space left.
    """
    samples, parts = outcome.samples, outcome.parts
    # What repeats the run and not where it went: given to -c it must not replace this folder.
    repeatable = outcome.config.replace(out=None, overwrite=False, resume=False, log="none")
    write_atomic(folder / "config.yaml", to_yaml(repeatable).encode())
    samples.ledger.write(folder / "ledger.json")
    write_split(folder / "split.csv", samples, parts)
    _write_history(folder / "history.csv", outcome.fitted.history)
    _write_predictions(folder / "predictions.csv", outcome)
    write_bundle(folder / "bundle", outcome.model, outcome.compute, outcome.statistics)
    _draw(folder, outcome)
    if outcome.near:
        n_test = len(outcome.scored.tested)
        near_duplicates.draw(folder / "duplicates.png", outcome.near, samples, n_test)


def describe(outcome: Outcome) -> dict[str, Any]:
    """Return what metrics.json says besides results and seconds, JSON-ready."""
    samples, parts, model = outcome.samples, outcome.parts, outcome.model
    backbone, record = model.backbone, dict(outcome.fitted.record)
    near = near_duplicates.describe(outcome.near, samples, len(outcome.scored.tested))
    candidates = record.pop("candidates", [])
    if outcome.config.strategy == "probe":  # what is fitted are rows: images and their views
        record["rows"] = record["n"]
    record["n"] = len(parts.train)
    return {
        "regraft": __version__,
        "task": SINGLE_LABEL,
        "data": {
            "source": samples.source.location,
            "kind": samples.source.kind,
            "revision": samples.source.revision,
            "n": {
                "train": len(parts.train),
                "val": len(parts.val),
                "test": len(outcome.scored.tested),
            },
            "classes": list(samples.classes),
            "refused": sum(entry.status == "refused" for entry in samples.ledger.entries),
            "left_out": len(parts.left_out),
            "notes": [*samples.source.notes, *samples.notes, *parts.notes, *near],
        },
        "backbone": {
            "name": backbone.name,
            "weights": backbone.weights,
            "weights_sha256": backbone.weights_sha256,
            # Hashed again after extraction: a difference would have been an error.
            "frozen": outcome.fitted.record.get("best_epoch", 0) == 0,
            "licence": backbone.licence,
            **backbone.preprocess.recorded(),
        },
        "head": {"blocks": [str(block) for block in model.blocks], **record},
        "candidates": candidates,  # what was tried, with seconds: no two runs have the same ones
        "features": {
            "extracted": outcome.features.n_extracted,
            "reused": outcome.features.n_reused,
        },
        "compute": {**outcome.compute.fingerprint(), "decoder": DECODER_VERSION},
    }


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    header = list(history[0]) if history else ["step"]
    write_csv(path, header, (list(row.values()) for row in history))


def _write_predictions(path: Path, outcome: Outcome) -> None:
    samples, classes = outcome.samples, outcome.samples.classes
    shown = classes if len(classes) <= 100 else ()
    scored = outcome.scored

    def rows() -> Iterator[list[object]]:
        for k, (index, p) in enumerate(zip(scored.tested, scored.probabilities, strict=True)):
            best = int(p.argmax())
            yield [
                samples.ids[index],
                classes[samples.labels[index]],
                classes[best],
                f"{p[best]:.6f}",
                *(() if scored.round_of is None else (int(scored.round_of[k]),)),
                *(f"{value:.6f}" for value in p[: len(shown)]),
            ]

    header = ["id", "true", "predicted", "probability"]
    header += [] if scored.round_of is None else ["round"]
    write_csv(path, [*header, *(f"p({name})" for name in shown)], rows())


def _draw(folder: Path, outcome: Outcome) -> None:
    samples, p = outcome.samples, outcome.scored.probabilities
    tested = outcome.scored.tested
    truth, predicted = samples.labels[tested], p.argmax(1)
    draw_confusion(
        folder / "confusion.png",
        np.asarray(outcome.results["test"]["confusion"]),
        samples.classes,
    )
    draw_curves = draw_penalties if outcome.config.strategy == "probe" else draw_epochs
    draw_curves(folder / "curves.png", outcome.fitted.history)
    some = np.random.default_rng(outcome.config.seed).permutation(len(truth))[:_PICTURES]
    wrong = np.flatnonzero(predicted != truth)
    worst = wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")][:_MISTAKES]
    images = _read_images(outcome, np.concatenate([some, worst]))
    mistakes = f"The most confident of {len(wrong):,} mistakes" if len(wrong) else "No mistakes"
    for name, chosen, title in (
        ("predictions.png", some, f"{len(some)} of {len(truth):,} test images, drawn at random"),
        ("mistakes.png", worst, f"{mistakes} among {len(truth):,} test images"),
    ):
        items = [
            Item(
                images.get(int(k), "could not be read again"),
                predicted=samples.classes[predicted[k]],
                true=samples.classes[truth[k]],
                probability=float(p[k, predicted[k]]),
                name=samples.ids[tested[k]],
            )
            for k in chosen
        ]
        draw_grid(folder / name, items, title)


def _read_images(outcome: Outcome, chosen: NDArray[np.int64]) -> dict[int, NDArray[np.uint8] | str]:
    """Decode some test images, by position in the test part; a word in place of one that is gone.

    The run is computed by now: that its data have been moved away meanwhile must not cost it.
    """
    samples = outcome.samples
    positions = {int(outcome.scored.tested[k]): int(k) for k in chosen}
    found: dict[int, NDArray[np.uint8] | str] = {}
    try:
        for index, load in samples.stream(sorted(positions)):
            found[positions[index]] = _read_again(load, samples.hashes[index], outcome.config)
    except (RegraftError, OSError):
        pass  # the archive itself: those that were not reached have no entry
    return found


def _read_again(load: Load, known: bytes, config: TrainConfig) -> NDArray[np.uint8] | str:
    try:
        payload = load()
        if hash_payload(payload) != known:
            return "changed since it was read"
        return decode(payload, config.max_pixels)
    except (RegraftError, OSError):
        return "could not be read again"
