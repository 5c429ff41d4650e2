"""Measures of a classifier on labelled images, each with its interval.

===============  ===================================================================================
accuracy, top5   share of images whose class is the most probable one, or among the five most
                 probable; if probabilities are equal, the first class by name wins; Wilson interval
log_loss         mean of -log p(true class), p at least 2.2e-16; Student interval, corrected for
                 skewness (Hall 1992)
brier            mean over images of the squared distance between probabilities and truth, summed
                 over classes: 0 to 2 (Brier 1950); the same interval
precision, ...   per class: precision, recall and F1, with intervals by Wilson's
macro_...        mean over the classes that have test images; a class that is never predicted counts
                 with precision 0; score intervals (``intervals.py``)
ece              expected calibration error of the most probable class: mean over 15 bins of
                 |accuracy - confidence|, weighted by images (Guo et al. 2017). The bins hold equal
                 numbers of images, because confidences are mostly near 1 and bins of equal width
                 would be nearly empty below (Nixon et al. 2019, adaptive calibration error).
                 Beside it, what models with exactly right probabilities would show
===============  ===================================================================================

Where no interval is honest, there is the reason in place of it: ``docs/design/intervals.md`` has
the simulations.

Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 1950.
Guo et al., On calibration of modern neural networks, ICML 2017.
Nixon et al., Measuring calibration in deep learning, CVPR workshops 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from regraft.core.text import counted, listed
from regraft.errors import InputError
from regraft.evaluation.calibration import calibration_error
from regraft.evaluation.intervals import (
    ClassCounts,
    of_difference,
    of_f1,
    of_macro_f1,
    of_mean,
    of_mean_share,
    wilson,
)
from regraft.task import check_labels, check_n_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Estimate: TypeAlias = dict[str, Any]  # value, low, high; and a reason if one is None

FEW_IMAGES = 100  # with fewer, the 95 % interval of an accuracy reaches more than 0.1 to each side
FEW_OF_A_CLASS = 10
LEAST_WRONG = 3  # answers, for an interval of a loss: the large losses are those of wrong answers
#: A class with fewer images says nothing about its own precision. In a mean over many classes, most
#: of which are so small, that error does not average out: no interval covered.
LEAST_OF_A_CLASS = 3
_MOST_SMALL_CLASSES = 4
_MOST_SMALL_SHARE = 0.25
_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)
_LARGEST_LOSS = -float(np.log(_LEAST_PROBABILITY))
_ROWS_AT_ONCE = 4_000_000  # probabilities; 32 MB in float64


def measure_classification(
    probabilities: NDArray[np.floating],  # (N, K), each row sums to 1 but for rounding
    labels: NDArray[np.int64],  # (N,), a class may have no image
    classes: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure predicted probabilities against the truth.

    The result is ready for JSON, without NaN. ``accuracy``, ``top5`` (with more than five classes),
    ``log_loss``, ``brier``, ``macro_f1``, ``macro_precision`` and ``macro_recall`` are
    ``{"value", "low", "high"}`` with the ends of a 95 % interval. Beside them: ``n``; ``ece``
    (``value``, ``bins`` and ``calibrated``, drawn with ``seed``); ``per_class``; ``confusion`` (K
    lists of K counts, rows are true classes); ``warnings``, sentences if there are too few images.
    An undefined value, and ends that cannot be had, are None with a ``reason``.

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
        "accuracy": share_estimate(int(counts.hits.sum()), len(labels)),
        "log_loss": mean_loss(outcomes.losses, _LARGEST_LOSS, outcomes.hits),
        "brier": mean_loss(outcomes.squares, 2.0, outcomes.hits),
        "ece": calibration_error(outcomes.confidences, outcomes.hits, seed),
        **macro_averages(confusion, counts),
        "per_class": class_scores(counts, classes),
        "confusion": confusion.tolist(),
        "warnings": _warnings(counts.actual, classes),
    }
    if len(classes) > 5:
        result["top5"] = share_estimate(int((outcomes.ranks < 5).sum()), len(labels))
    return result


def accuracy_gain(
    probabilities: NDArray[np.float32],  # (n, K)
    others: NDArray[np.float32],  # (n, K), of the same images
    labels: NDArray[np.int64],
) -> dict[str, float]:
    """Return how much more often one model is right than another, image by image.

    "value" has the ends "low" and "high" of Tango's 95 % interval of the paired difference.

    Examples
    --------
    >>> one_hot = np.eye(2, dtype=np.float32)
    >>> gain = accuracy_gain(one_hot[[0, 1]], one_hot[[0, 0]], np.array([0, 1]))
    >>> {name: round(value, 3) for name, value in gain.items()}
    {'value': 0.5, 'low': -0.486, 'high': 0.905}
    """
    right, others_right = probabilities.argmax(1) == labels, others.argmax(1) == labels
    only = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    low, high = of_difference(*only, len(labels))
    return {"value": (only[0] - only[1]) / len(labels), "low": low, "high": high}


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
    check_n_classes(n_classes)
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
                np.abs(np.log(np.maximum(of_truth[:, 0], _LEAST_PROBABILITY))),
                np.square(p).sum(axis=1) + 1 - 2 * of_truth[:, 0],
            )
        )
    return _Outcomes(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))


def macro_averages(confusion: NDArray[np.int64], counts: ClassCounts) -> dict[str, Estimate]:
    """Return the means of precision, recall and F1 over the classes that have images."""
    hits, actual, predicted = (column[counts.actual > 0] for column in counts)
    precision, recall, f1 = (
        float((hits / np.maximum(of, 1)).mean())
        for of in (predicted, actual, (actual + predicted) / 2)
    )
    named = {"macro_recall": _estimate(recall, *of_mean_share(hits, actual))}
    small = int((actual < LEAST_OF_A_CLASS).sum())
    if small > max(_MOST_SMALL_CLASSES, _MOST_SMALL_SHARE * len(actual)):
        reason = f"{small} of {len(actual)} classes have fewer than {LEAST_OF_A_CLASS} test images"
        return {
            **named,
            "macro_precision": _without_interval(precision, reason),
            "macro_f1": _without_interval(f1, reason),
        }
    known = predicted > 0
    if known.any():
        # The precision of a class that is never predicted is unknown: 0, or like the others'.
        low, high = of_mean_share(hits[known], predicted[known])
        low = min(low * float(known.mean()), precision)
        named["macro_precision"] = _estimate(precision, low, max(high, precision))
    else:
        reason = "no class that has test images is ever predicted"
        named["macro_precision"] = _without_interval(precision, reason)
    return {**named, "macro_f1": _estimate(f1, *of_macro_f1(confusion))}


def class_scores(counts: ClassCounts, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class."""
    both = counts.actual + counts.predicted
    met = np.flatnonzero(both)
    ends = of_f1(ClassCounts(*(column[met] for column in counts)))
    values = 2 * counts.hits[met] / both[met]
    f1 = {int(label): _estimate(*each) for label, *each in zip(met, values, *ends, strict=True)}
    return [
        {
            "name": name,
            "n": actual,
            "precision": share_estimate(hits, predicted, "never predicted"),
            "recall": share_estimate(hits, actual, "no test image"),
            "f1": f1.get(label, _undefined("no test image and never predicted")),
        }
        for label, (name, hits, actual, predicted) in enumerate(
            zip(classes, *(column.tolist() for column in counts), strict=True)
        )
    ]


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


def share_estimate(successes: int, trials: int, reason: str = "") -> Estimate:
    """Return a share with its interval; ``reason`` is why there is none if nothing was tried."""
    if trials == 0:
        return _undefined(reason)
    share = successes / trials
    low, high = wilson(np.array([share]), np.array([float(trials)]))
    return _estimate(share, low[0], high[0])


def mean_loss(values: NDArray[np.float64], most: float, hits: NDArray[np.bool_]) -> Estimate:
    """Return the mean of the images' losses, which are at most ``most``."""
    mean, n, wrong = float(values.mean()), len(values), int((~hits).sum())
    if n < LEAST_WRONG:
        return _without_interval(mean, f"n = {n}")
    if wrong < LEAST_WRONG:
        return _without_interval(mean, f"{counted(wrong, 'wrong answer')} of {n:,}")
    return mean_estimate(values, most)


def mean_estimate(values: NDArray[np.float64], most: float, reason: str = "") -> Estimate:
    """Return the mean of values in [0, most]; ``reason`` is why there is none if there are none."""
    if not len(values):
        return _undefined(reason)
    ends = of_mean(values, most)
    if ends is None:
        why = "it is the same for every image" if len(values) > 1 else "n = 1"
        return _without_interval(float(values.mean()), why)
    return _estimate(float(values.mean()), *ends)


def _estimate(value: float, low: float, high: float) -> Estimate:
    return {"value": float(value), "low": float(low), "high": float(high)}


def _without_interval(value: float, reason: str) -> Estimate:
    return {"value": value, "low": None, "high": None, "reason": reason}


def _undefined(reason: str) -> Estimate:
    return {"value": None, "low": None, "high": None, "reason": reason}
