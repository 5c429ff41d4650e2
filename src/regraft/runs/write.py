"""The run folder: every file of it, written once, from one result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.bundle.format import write_bundle
from regraft.check.near_duplicates import duplicate_headline, duplicate_notes
from regraft.config.yaml_file import to_yaml
from regraft.core.files import write_atomic
from regraft.core.machine import n_threads
from regraft.core.version import __version__
from regraft.decision.answers import plain
from regraft.errors import ImageError, RegraftError
from regraft.images.decode import DECODER_VERSION
from regraft.plots.confusion import draw_confusion
from regraft.plots.decisions import DrawnDecisions, KnownAnswers, draw_decisions
from regraft.plots.epochs import draw_epochs
from regraft.plots.grid import Item, draw_grid
from regraft.plots.pairs import Shown, pair_grid
from regraft.plots.penalties import draw_penalties
from regraft.runs.metrics_file import write_csv, write_metrics
from regraft.runs.summary import where_aimed
from regraft.splits.split_csv import write_split
from regraft.task import SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.check.near_duplicates import NearDuplicate
    from regraft.core.reporter import Stopwatch
    from regraft.data.samples import Samples
    from regraft.decision.policy import Decided
    from regraft.runs.logs.registry import Logs
    from regraft.runs.reserve import Reservation
    from regraft.runs.result import Result

_PICTURES = 24  # in predictions.png
_MISTAKES = 12  # in mistakes.png
_MOST_COLUMNS = 100  # classes with a column in predictions.csv
_GONE = "could not be read again"


def write_result(
    reserved: Reservation, result: Result, logs: Logs, seconds: Stopwatch
) -> dict[str, Any]:
    """Write the run folder, finish the logs, and rename the folder to its path.

    Returns
    -------
    dict
        As a reader of metrics.json gets it.

    Raises
    ------
    DiskFullError
        There is no space left.
    """
    with reserved.new_folder() as folder:
        write_files(folder, result)
        metrics = write_metrics(
            folder, {**metrics_of(result), **result.measured, "seconds": seconds.so_far()}
        )
        logs.finish(folder, metrics)
    return metrics


def write_files(folder: Path, result: Result) -> None:
    """Write every file of a run but metrics.json, which holds the seconds that all this took."""
    trained = result.trained
    # What repeats the run and not its path: given to -c it must not replace this folder.
    repeatable = result.config.replace(out=None, overwrite=False, resume=False, log="none")
    write_atomic(folder / "config.yaml", to_yaml(repeatable).encode())
    result.dataset.ledger().write(folder / "ledger.json")
    write_split(folder / "split.csv", result.dataset)
    _write_history(folder / "history.csv", trained.fitted.history)
    _write_predictions(folder / "predictions.csv", result)
    if trained.model.no_bundle is None:
        write_bundle(folder / "bundle", trained.model, result.compute, result.decisions)
    _draw_figures(folder, result)
    _draw_predictions(folder, result)
    if result.pairs:
        path, n_tested = folder / "duplicates.png", len(result.scores.tested)
        draw_pairs(path, result.pairs, result.dataset.samples, n_tested)


def metrics_of(result: Result) -> dict[str, Any]:
    """Return what metrics.json says besides figures and seconds, JSON-ready."""
    samples, parts, n_tested = (
        result.dataset.samples,
        result.dataset.parts,
        len(result.scores.tested),
    )
    model, record = result.trained.model, dict(result.trained.fitted.record)
    candidates = record.pop("candidates", [])
    if result.config.strategy == "probe":  # what is fitted are rows: images and their views
        record["rows"] = record["n"]
    record["n"] = len(parts.train)
    duplicates = duplicate_notes(result.pairs, samples, n_tested)
    return {
        "regraft": __version__,
        "task": SINGLE_LABEL,
        "data": {
            "source": samples.source.location,
            "kind": samples.source.kind,
            "revision": samples.source.revision,
            "n": {"train": len(parts.train), "val": len(parts.val), "test": n_tested},
            "classes": list(samples.classes),
            "refused": sum(entry.status == "refused" for entry in samples.ledger.entries),
            "left_out": len(parts.left_out),
            "notes": [*samples.notes, *parts.notes, *duplicates],
        },
        # Hashed again after extraction: a difference would have been an error.
        "backbone": model.backbone.record() | {"frozen": record.get("best_epoch", 0) == 0},
        **({"other_networks": [each.record() for each in model.others]} if model.others else {}),
        "head": {"blocks": [str(block) for block in model.blocks], **record},
        "candidates": candidates,  # what was tried, with seconds: no two runs have the same ones
        "features": {
            "extracted": result.trained.features.n_extracted,
            "reused": result.trained.features.n_reused,
        },
        "compute": {**result.compute.fingerprint(), "decoder": DECODER_VERSION},
    }


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    header = list(history[0]) if history else ["step"]
    write_csv(path, header, (list(row.values()) for row in history))


def _write_predictions(path: Path, result: Result) -> None:
    samples, scores, classes = result.dataset.samples, result.scores, result.dataset.classes
    shown = classes if len(classes) <= _MOST_COLUMNS else ()

    def rows() -> Iterator[list[object]]:
        for k, (index, p) in enumerate(zip(scores.tested, scores.probabilities, strict=True)):
            best = int(p.argmax())  # p: (K,)
            yield [
                samples.ids[index],
                classes[samples.labels[index]],
                classes[best],
                f"{p[best]:.6f}",
                *(() if scores.round_of is None else (int(scores.round_of[k]),)),
                *(f"{value:.6f}" for value in p[: len(shown)]),
            ]

    header = ["id", "true", "predicted", "probability"]
    header += [] if scores.round_of is None else ["round"]
    write_csv(path, [*header, *(f"p({name})" for name in shown)], rows())


def _draw_figures(folder: Path, result: Result) -> None:
    """Draw the confusion matrix, the curves and the decisions."""
    confusion = np.asarray(result.measured["test"]["confusion"])  # (K, K)
    draw_confusion(folder / "confusion.png", confusion, result.dataset.classes)
    draw_curves = draw_penalties if result.config.strategy == "probe" else draw_epochs
    draw_curves(folder / "curves.png", result.trained.fitted.history)
    if result.scores.decided is not None:
        draw_decisions(folder / "decisions.png", _drawn_decisions(result, result.scores.decided))


def _drawn_decisions(result: Result, decided: Decided) -> DrawnDecisions:
    decisions, p = result.decisions, result.scores.probabilities  # (n, K)
    truth, best = result.dataset.labels(result.scores.tested), p.argmax(1)
    confidence = plain(p, decisions.class_weights)[np.arange(len(p)), best]
    fitted = "validation images" if decisions.held_out else "training images, out of fold"
    measured = result.measured["decisions"]
    sets, answers = measured["sets"], measured.get("answers") or measured.get("costs")
    answered = None
    if answers is not None:
        right = answers["precision"]["value"]
        answered = answers["answered"]["value"], 1 - (np.nan if right is None else right)
    share = f"{sets['coverage']['value']:.3f} of the sets hold the true one"
    return DrawnDecisions(
        tested=KnownAnswers("test images", confidence, best == truth),
        fitted=KnownAnswers(fitted, decisions.answers.confidence, decisions.answers.right),
        answered=answered,
        promised=decisions.levels.min_precision,
        sizes=decided.sets.sum(1),
        held=f"{share},\n{sets['aimed_at']:g} aimed at{where_aimed(sets)}",
        p_values=decided.p_values,
        level=measured["unknown"]["level"] if "unknown" in measured else None,
    )


def _draw_predictions(folder: Path, result: Result) -> None:
    """Draw some test images at random, and the most confident mistakes."""
    p = result.scores.probabilities  # (n, K)
    truth, predicted = result.dataset.labels(result.scores.tested), p.argmax(1)
    some = np.random.default_rng(result.config.seed).permutation(len(truth))[:_PICTURES]
    wrong = np.flatnonzero(predicted != truth)
    worst = wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")][:_MISTAKES]
    images = _read_images(result, np.concatenate([some, worst]))
    mistakes = f"The most confident of {len(wrong):,} mistakes" if len(wrong) else "No mistakes"
    for name, chosen, title in (
        ("predictions.png", some, f"{len(some)} of {len(truth):,} test images, drawn at random"),
        ("mistakes.png", worst, f"{mistakes} among {len(truth):,} test images"),
    ):
        items = [_item(result, int(k), images.get(int(k), _GONE)) for k in chosen]
        draw_grid(folder / name, items, title)


def _item(result: Result, k: int, image: NDArray[np.uint8] | str) -> Item:
    """Return what is drawn of the k-th tested image."""
    samples, classes = result.dataset.samples, result.dataset.classes
    index, p = result.scores.tested[k], result.scores.probabilities[k]  # p: (K,)
    return Item(
        None if isinstance(image, str) else image,
        predicted=classes[p.argmax()],
        true=classes[samples.labels[index]],
        probability=float(p.max()),
        name=samples.ids[index],
        reason=image if isinstance(image, str) else "",
    )


def _read_images(result: Result, chosen: NDArray[np.int64]) -> dict[int, NDArray[np.uint8] | str]:
    """Decode some tested images, by their position in the test; a word for one that is gone.

    The result is computed by now: it must not be lost if the data have been moved away meanwhile.
    """
    positions = {int(result.scores.tested[k]): int(k) for k in chosen}
    threads = n_threads(result.config.workers)
    found: dict[int, NDArray[np.uint8] | str] = {}
    try:
        for index, pixels in result.dataset.samples.pixels(sorted(positions), threads):
            found[positions[index]] = _reason(pixels) if isinstance(pixels, ImageError) else pixels
    except (RegraftError, OSError):
        pass  # the archive itself: images that were not reached have no entry
    return found


def _reason(error: ImageError) -> str:
    return "changed since it was read" if error.kind == "changed" else _GONE


def draw_pairs(path: Path, pairs: list[NearDuplicate], samples: Samples, n_tested: int) -> None:
    """Draw the pairs that are most similar."""
    shown = [
        Shown(*pair.pictures, f"test: {samples.ids[pair.test]}", samples.ids[pair.other])
        for pair in pairs
        if pair.pictures is not None
    ]
    pair_grid(path, shown, duplicate_headline(pairs, n_tested))
