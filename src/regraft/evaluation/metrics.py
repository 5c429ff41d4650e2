"""Measures of a classifier on labelled images, each with its interval.

===============  ===================================================================================
accuracy, top5   share of images whose class is the most probable one, or among the five most
                 probable; if probabilities are equal, the first class by name wins; Wilson interval
log_loss         mean of -log p(true class), p at least 2.2e-16; Student interval
brier            mean over images of the squared distance between probabilities and truth, summed
                 over classes: 0 to 2 (Brier 1950); Student interval
precision, ...   per class: precision and recall with Wilson, F1 with bootstrap intervals
macro_...        mean over the classes that have test images; a class that is never predicted counts
                 with precision 0; bootstrap interval
ece              expected calibration error of the most probable class: mean over 15 bins of
                 |accuracy - confidence|, weighted by images (Guo et al. 2017). The bins hold equal
                 numbers of images, because confidences are mostly near 1 and bins of equal width
                 would be nearly empty below (Nixon et al. 2019, adaptive calibration error)
===============  ===================================================================================

Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 1950.
Guo et al., On calibration of modern neural networks, ICML 2017.
Nixon et al., Measuring calibration in deep learning, CVPR workshops 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from regraft.core.text import listed
from regraft.errors import InputError
from regraft.evaluation.intervals import ClassCounts, bootstrap, of_mean, wilson
from regraft.task import check_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Estimate: TypeAlias = dict[str, Any]  # value, low, high; and a reason if value is None

BINS = 15  # of the calibration error: the customary number
FEW_IMAGES = 100  # with fewer, the 95 % interval of an accuracy reaches more than 0.1 to each side
FEW_OF_A_CLASS = 10
_ROWS_AT_ONCE = 4_000_000  # probabilities; 32 MB in float64


def measure_classification(
    probabilities: NDArray[np.floating],  # (N, K), each row sums to 1 but for rounding
    labels: NDArray[np.int64],  # (N,), a class may have no image
    classes: Sequence[str],
    *,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """Measure predicted probabilities against the truth.

    The result is ready for JSON, without NaN. ``accuracy``, ``top5`` (with more than five classes),
    ``log_loss``, ``brier``, ``macro_f1``, ``macro_precision`` and ``macro_recall`` are
    ``{"value", "low", "high"}`` with the ends of a 95 % interval. Beside them: ``n``; ``ece``
    (``value`` and ``bins``); ``per_class``; ``confusion`` (K lists of K counts, rows are true
    classes); ``warnings``, sentences if there are too few images. An undefined value is None and
    has a ``reason``.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> result = measure_classification(p, np.array([0, 0, 1, 1]), ("cat", "dog"))
    >>> result["accuracy"]["value"], result["confusion"]
    (0.75, [[2, 0], [1, 1]])
    """
    labels = np.asarray(labels, dtype=np.int64)
    _check(probabilities, labels, len(classes))
    outcomes = _outcomes(probabilities, labels)
    # Not by scikit-learn, which takes 1.5 s to import: a thirtieth of a training.
    n_classes = len(classes)
    confusion = np.bincount(labels * n_classes + outcomes.predicted, minlength=n_classes**2)
    confusion = confusion.reshape(n_classes, n_classes)
    counts = ClassCounts(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    result: dict[str, Any] = {
        "n": len(labels),
        "accuracy": _share(int(counts.hits.sum()), len(labels)),
        "log_loss": _mean(outcomes.losses, most=None),
        "brier": _mean(outcomes.squares, most=2.0),
        "ece": {"value": _calibration_error(outcomes), "bins": BINS},
        **_scores(confusion, counts, classes, n_bootstrap, seed),
        "confusion": confusion.tolist(),
        "warnings": _warnings(counts.actual, classes),
    }
    if len(classes) > 5:
        result["top5"] = _share(int((outcomes.ranks < 5).sum()), len(labels))
    return result


def accuracy_gain(
    probabilities: NDArray[np.float32],  # (n, K)
    others: NDArray[np.float32],  # (n, K), of the same images
    labels: NDArray[np.int64],
) -> dict[str, float | None]:
    """Return how much more often one model is right than another, image by image.

    "value" has the ends "low" and "high" of Student's 95 % interval of the paired difference. If
    every image has the same difference, that interval would be a point. Then the ends come from the
    largest share of other images, 1 - 0.025 ** (1 / n), that n images can miss (Clopper and
    Pearson, 1934).

    Examples
    --------
    >>> one_hot = np.eye(2, dtype=np.float32)
    >>> accuracy_gain(one_hot[[0, 1, 0, 1]], one_hot[[0, 0, 0, 0]], np.array([0, 1, 0, 1]))["value"]
    0.5
    """
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    difference = right - (others.argmax(1) == labels)
    low, high = of_mean(difference)
    value = float(difference.mean())
    if low == high and len(difference):
        missed = (1 - 0.025 ** (1 / len(difference))) * (1 + abs(value))
        low, high = max(-1.0, value - missed), min(1.0, value + missed)
    return {"value": value, "low": low, "high": high}


class _Outcomes(NamedTuple):
    """What the measures need of each of N images."""

    predicted: NDArray[np.int64]
    ranks: NDArray[np.int64]  # number of classes before the true one
    confidences: NDArray[np.float64]  # of the predicted class
    hits: NDArray[np.bool_]
    losses: NDArray[np.float64]
    squares: NDArray[np.float64]  # Brier's


def _check(probabilities: NDArray[np.floating], labels: NDArray[np.int64], n_classes: int) -> None:
    if len(labels) == 0:
        raise InputError("there is no image to evaluate")
    if probabilities.shape != (len(labels), n_classes):
        raise InputError(
            f"probabilities of shape {probabilities.shape} do not fit "
            f"{len(labels)} labels and {n_classes} classes"
        )
    check_labels(labels, n_classes)


def _outcomes(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> _Outcomes:
    """Read the rows in blocks: 100,000 by 1,000 need no second copy in float64."""
    blocks = []
    step = max(1, _ROWS_AT_ONCE // probabilities.shape[1])
    for start in range(0, len(labels), step):
        p = probabilities[start : start + step].astype(np.float64)  # (n, K)
        truth = labels[start : start + step]
        sums = p.sum(axis=1)
        if not (p >= 0).all() or not (np.abs(sums - 1) < 1e-2).all():  # NaN fails both
            raise InputError("each row of probabilities must be at least 0 and sum to 1")
        p /= sums[:, None]
        of_truth = np.take_along_axis(p, truth[:, None], axis=1)  # (n, 1)
        predicted = p.argmax(axis=1)
        earlier = np.arange(p.shape[1]) < truth[:, None]  # (n, K)
        blocks.append(
            _Outcomes(
                predicted,
                ((p > of_truth) | ((p == of_truth) & earlier)).sum(axis=1),
                p.max(axis=1),
                predicted == truth,
                np.abs(np.log(np.maximum(of_truth[:, 0], np.finfo(np.float64).eps))),
                np.square(p).sum(axis=1) + 1 - 2 * of_truth[:, 0],
            )
        )
    return _Outcomes(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))


def _scores(
    confusion: NDArray[np.int64],
    counts: ClassCounts,
    classes: Sequence[str],
    repeats: int,
    seed: int,
) -> dict[str, Any]:
    """Return precision, recall and F1 of each class, and their means."""
    met = counts.actual + counts.predicted > 0  # (K,)

    def score(of: ClassCounts) -> NDArray[np.float64]:  # (B, 3 + number of classes met)
        return np.column_stack([_macro(of), _f1(of)[:, met]])

    low, high = bootstrap(confusion, score, repeats=repeats, seed=seed)
    value = score(ClassCounts(*(np.atleast_2d(column) for column in counts)))[0]
    estimates = [_estimate(*ends) for ends in zip(value, low, high, strict=True)]
    f1 = dict(zip(np.flatnonzero(met).tolist(), estimates[3:], strict=True))
    per_class = []
    for label, name in enumerate(classes):
        hits, actual, predicted = (int(column[label]) for column in counts)
        per_class.append(
            {
                "name": name,
                "n": actual,
                "precision": _share(hits, predicted, "never predicted"),
                "recall": _share(hits, actual, "no test image"),
                "f1": f1.get(label, _undefined("no test image and never predicted")),
            }
        )
    names = ("macro_precision", "macro_recall", "macro_f1")
    return {**dict(zip(names, estimates[:3], strict=True)), "per_class": per_class}


def _f1(of: ClassCounts) -> NDArray[np.float64]:
    """Return F1 by class, (B, K); NaN for a class without images that is never predicted."""
    both = of.actual + of.predicted
    return np.where(both > 0, 2 * of.hits / np.maximum(both, 1), np.nan)


def _macro(of: ClassCounts) -> NDArray[np.float64]:
    """Return means of precision, recall and F1 over the classes that have images, (B, 3)."""
    present = of.actual > 0
    columns = (
        of.hits / np.maximum(of.predicted, 1),
        of.hits / np.maximum(of.actual, 1),
        2 * of.hits / np.maximum(of.actual + of.predicted, 1),
    )
    return np.column_stack([np.mean(column, axis=1, where=present) for column in columns])


def _calibration_error(outcomes: _Outcomes) -> float:
    # Bins are by value, not by rank: equal confidences share a bin in any order of the images.
    inner = np.quantile(outcomes.confidences, np.arange(1, BINS) / BINS)
    bins = np.searchsorted(np.unique(inner), outcomes.confidences, side="left")
    gaps = np.bincount(bins, weights=outcomes.hits - outcomes.confidences, minlength=BINS)
    return float(np.abs(gaps).sum() / len(outcomes.hits))


def _warnings(actual: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Return sentences about too few images; ``actual`` is their number by class, (K,)."""
    n = int(actual.sum())
    sentences = []
    if n < FEW_IMAGES:
        sentences.append(
            f"{n} test images are too few for a claim about accuracy: see the width of the interval"
        )
    few = [
        f"{name} ({count})"
        for name, count in zip(classes, actual.tolist(), strict=True)
        if count < FEW_OF_A_CLASS
    ]
    if few:
        sentences.append(
            f"fewer than {FEW_OF_A_CLASS} test images of a class say little about that class: "
            f"{listed(few)}"
        )
    return sentences


def _share(successes: int, trials: int, reason: str = "") -> Estimate:
    if trials == 0:
        return _undefined(reason)
    low, high = wilson(np.array([successes]), np.array([trials]))
    return _estimate(successes / trials, low[0], high[0])


def _mean(values: NDArray[np.float64], most: float | None) -> Estimate:
    low, high = of_mean(values)
    if low is None or high is None:
        return {"value": float(values.mean()), "low": None, "high": None, "reason": "one image"}
    return _estimate(values.mean(), max(low, 0.0), high if most is None else min(high, most))


def _estimate(value: float, low: float, high: float) -> Estimate:
    return {"value": float(value), "low": float(low), "high": float(high)}


def _undefined(reason: str) -> Estimate:
    return {"value": None, "low": None, "high": None, "reason": reason}
