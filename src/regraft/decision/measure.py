"""What was measured of decisions on labelled images, each with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.decision.costs import ABSTAIN, ABSTAINED, IS_UNKNOWN, UNKNOWN
from regraft.decision.policy import USUAL_LEVEL
from regraft.evaluation.metrics import mean_estimate, share_estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.decision.costs import Costs
    from regraft.decision.policy import Decided, Levels


def measure_decisions(
    decided: Decided,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    levels: Levels,
    most_probable: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Return what was aimed at and what was measured, ready for JSON.

    Parameters
    ----------
    decided : Decided
        About N images.
    labels : array of shape (N,), int64
        True classes.
    classes : sequence of str
        K names.
    levels : Levels
        What was aimed at.
    most_probable : array of shape (N,), int64, optional
        Most probable class of each image, to compare costs with.

    Returns
    -------
    dict
        ``sets``, and where they were decided ``unknown``, ``answers`` and ``costs``.
    """
    measured: dict[str, Any] = {"n": len(labels), "sets": _of_sets(decided, labels, levels)}
    each = [(name, labels == k) for k, name in enumerate(classes)]
    covered = _covered(decided, labels)
    measured["sets"]["per_class"] = [_in_class(name, covered[of]) for name, of in each]
    if decided.unknown is not None:
        unknown = decided.unknown
        measured["unknown"] = {
            "level": USUAL_LEVEL if levels.unknown is None else levels.unknown,
            "share": share_estimate(int(unknown.sum()), len(unknown), "no image"),
            "per_class": [_in_class(name, unknown[of]) for name, of in each],
        }
    if levels.min_precision is not None and decided.abstained is not None:
        aimed = {"aimed_at": levels.min_precision}
        measured["answers"] = aimed | _of_answers(decided, labels)
    if levels.costs is not None:
        measured["costs"] = _of_costs(decided, labels, most_probable, levels.costs)
    return measured


def _in_class(name: str, hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share of a class's images (n,) of which something is true."""
    n = len(hits)
    return {"class": name, "n": n, **share_estimate(int(hits.sum()), n, "no image")}


def _covered(decided: Decided, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    return decided.sets[np.arange(len(labels)), labels]


def _of_sets(decided: Decided, labels: NDArray[np.int64], levels: Levels) -> dict[str, Any]:
    covered, sizes = _covered(decided, labels), decided.sets.sum(1).astype(np.float64)
    most = decided.sets.shape[1]
    return {
        "aimed_at": levels.coverage,
        "by": levels.coverage_by,
        "coverage": share_estimate(int(covered.sum()), len(labels), "no image"),
        "size": mean_estimate(sizes, float(most), "no image"),
        "with_one_class": share_estimate(int((sizes == 1).sum()), len(labels), "no image"),
    }


def _of_answers(decided: Decided, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return the share that is answered, and how many of these answers are right.

    What is called unknown is not answered either.
    """
    given, right = decided.actions >= 0, decided.actions == labels
    return {
        "answered": share_estimate(int(given.sum()), len(labels), "no image"),
        "precision": share_estimate(int(right.sum()), int(given.sum()), "nothing is answered"),
    }


def costs_of(decided: Decided, labels: NDArray[np.int64], costs: Costs) -> NDArray[np.float64]:
    """Return what the decision about each image costs (N,).

    "unknown" costs as the table says, else as "abstain"; if the table has neither, the cheapest
    class is the answer, and such images do not occur.
    """
    columns = decided.actions.copy()
    abstain, unknown = costs.column(ABSTAIN), costs.column(UNKNOWN)
    unknown = abstain if unknown is None else unknown
    for action, column in ((ABSTAINED, abstain), (IS_UNKNOWN, unknown)):
        if column is not None:
            columns[columns == action] = column
    return costs.table[labels, columns]


def _of_costs(
    decided: Decided,
    labels: NDArray[np.int64],
    most_probable: NDArray[np.int64] | None,
    costs: Costs,
) -> dict[str, Any]:
    paid = costs_of(decided, labels, costs)
    most = float(max(costs.table.max(), 1e-12))
    expected = {"expected": mean_estimate(paid, most, "no image")}
    measured = expected | _of_answers(decided, labels)
    if most_probable is not None:
        always = costs.table[labels, most_probable]
        measured["most_probable"] = mean_estimate(always, most, "no image")
    return measured
