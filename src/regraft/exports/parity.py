"""The proof that exported files answer as the bundle does, or why they are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.core.version import __version__
from regraft.evaluation.paired import compare_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.decision.policy import Rules
    from regraft.exports.compare import Compared
    from regraft.exports.options import Weights

#: Largest difference of a probability that is allowed, by how the weights are stored.
TOLERANCE: dict[Weights, float] = {"float32": 5e-4, "float16": 0.02, "int8": 1.0}
#: The same for a graph that resizes in other integers, which moves a square by up to 2 of 255.
RESIZED_TOLERANCE = 0.02
#: Least share of images with the same label.
SAME_LABELS: dict[Weights, float] = {"float32": 1.0, "float16": 0.999, "int8": 0.99}
#: Most accuracy that smaller weights may cost, where so much can be told from nothing.
MOST_LOST = 0.01
_NAMED = 20  # images in the record
_DECIDED = ("decision", "set", "unknown", "abstained")


def judge(found: Compared, rules: Rules | None, weights: Weights) -> dict[str, Any]:
    """Return the record of a comparison, ready for JSON; ``fault`` says why it is no proof."""
    n = len(found.ids)
    record: dict[str, Any] = {
        "schema_version": 1,
        "regraft": __version__,
        "torch": str(torch.__version__),
        "runtime": found.runtime,
        "compared_with": "the bundle in float32",
        "weights": weights,
        "n": n,
        "refused": dict(list(found.refused.items())[:_NAMED]),
        "n_refused": len(found.refused),
        "pixels_differ": found.pixels_differ[:_NAMED],
        "n_pixels_differ": len(found.pixels_differ),
        "tolerance": TOLERANCE[weights],
    }
    if not n:
        return record | {"fault": "no image could be compared"}
    ours, theirs = found.both("probabilities")
    differences = np.abs(ours - theirs).max(1)  # (n,)
    record |= {"largest": float(differences.max()), "mean": float(np.abs(ours - theirs).mean())}
    two = np.sort(ours, axis=1)[:, -2:]
    margins = two[:, 1] - two[:, 0]  # (n,)
    other = ours.argmax(1) != theirs.argmax(1)
    tied = margins <= 2 * TOLERANCE["float32"]
    record["labels"] = {
        "differ": int(other.sum()),
        "outside_ties": int((other & ~tied).sum()),
        "images": [
            {"id": found.ids[k], "margin": float(margins[k])}
            for k in np.flatnonzero(other)[:_NAMED]
        ],
    }
    record["decisions"] = _decisions(found, rules)
    record["accuracy"] = _accuracy(found, ours, theirs)
    record["with_resize"] = _resized(found, theirs)
    record["stages"] = _stages(found)
    record["fault"] = _fault(record, weights)
    return record


def _decisions(found: Compared, rules: Rules | None) -> dict[str, Any] | None:
    """Return how many decisions differ, and how many of these are no close calls."""
    if rules is None:
        return None
    differ = np.zeros(len(found.ids), bool)
    counts = {}
    for name in _DECIDED:
        if found.has(name):
            both = found.both(name)
            unequal = (both[0] != both[1]).reshape(len(differ), -1).any(1)
            counts[name] = int(unequal.sum())
            differ |= unequal
    close = _close_calls(found, rules)
    record = {"differ": counts, "outside_ties": int((differ & ~close).sum())}
    if found.has("typicality"):
        ours, theirs = found.both("typicality")
        record["typicality_largest"] = float(np.abs(ours - theirs).max())
    return record


def _close_calls(found: Compared, rules: Rules) -> NDArray[np.bool_]:
    """Return which images (n,) are so near a threshold that rounding decides."""
    allowed = TOLERANCE["float32"]
    ours, _ = found.both("probabilities")
    two = np.sort(ours, axis=1)[:, -2:]
    nearest = np.abs(ours - rules.sets.thresholds).min(1)
    close: NDArray[np.bool_] = nearest <= allowed
    close |= two[:, 1] - two[:, 0] <= 2 * allowed
    if rules.level is not None and rules.typicality is not None:
        near = 2 / (len(rules.typicality.scores) + 1)
        close |= np.abs(found.both("typicality")[0] - rules.level) <= near
    if rules.promise is not None and rules.promise.threshold is not None:
        close |= np.abs(rules.confidence(ours) - rules.promise.threshold) <= allowed
    if rules.costs is not None:
        expected = np.sort(rules.expected_costs(ours), axis=1)
        most = float(rules.costs.table.max())
        close |= expected[:, 1] - expected[:, 0] <= 2 * allowed * max(most, 1e-12) * ours.shape[1]
    return close


def _resized(found: Compared, theirs: NDArray[np.float32]) -> dict[str, Any] | None:
    """Return how the file that resizes by itself differs from the one that is given squares."""
    if "resized" not in found.theirs[0]:
        return None
    resized = np.concatenate([each["resized"] for each in found.theirs])
    return {
        "largest": float(np.abs(resized - theirs).max()),
        "labels_differ": int((resized.argmax(1) != theirs.argmax(1)).sum()),
        "tolerance": RESIZED_TOLERANCE,
    }


def _accuracy(
    found: Compared, ours: NDArray[np.float32], theirs: NDArray[np.float32]
) -> dict[str, Any] | None:
    """Return both accuracies and their paired difference, where labels are known."""
    labels = np.array(found.labels)
    known = labels >= 0
    if not known.any():
        return None
    right = np.stack([rows.argmax(1)[known] == labels[known] for rows in (theirs, ours)])
    (pair,) = compare_pairs(right)
    return {
        "n": int(known.sum()),
        "bundle": float(right[1].mean()),
        "exported": float(right[0].mean()),
        "difference": pair.value,
        "low": pair.low,
        "high": pair.high,
    }


def _stages(found: Compared) -> dict[str, float | int]:
    """Return the largest difference after each stage, the first ones first."""
    stages: dict[str, float | int] = {"pixels": len(found.pixels_differ)}
    for name in ("features", "logits", "probabilities"):
        ours, theirs = found.both(name)
        stages[name] = float(np.abs(ours - theirs).max())
    return stages


def _fault(record: dict[str, Any], weights: Weights) -> str | None:
    """Return why the exported files do not answer as the bundle does; None if they do."""
    checks = (_fault_of_probabilities, _fault_of_labels, _fault_of_accuracy)
    return next((fault for check in checks if (fault := check(record, weights))), None)


def _fault_of_probabilities(record: dict[str, Any], weights: Weights) -> str | None:
    largest, resized = record["largest"], record["with_resize"]
    if not largest <= TOLERANCE[weights]:
        return f"a probability differs by {largest:.2g}; {TOLERANCE[weights]:g} is allowed"
    if resized and not resized["largest"] <= RESIZED_TOLERANCE:
        return (
            f"with resizing in the graph a probability differs by {resized['largest']:.2g}; "
            f"{RESIZED_TOLERANCE:g} is allowed"
        )
    return None


def _fault_of_labels(record: dict[str, Any], weights: Weights) -> str | None:
    n, labels, decisions = record["n"], record["labels"], record["decisions"]
    same = 1 - labels["outside_ties" if weights == "float32" else "differ"] / n
    # Of few images, one other label may be more than the share that is allowed.
    if labels["differ"] > 1 and same < SAME_LABELS[weights]:
        share = f"{SAME_LABELS[weights]:.1%}"
        return f"{labels['differ']:,} of {n:,} labels differ; {share} must be the same"
    if weights == "float32" and labels["outside_ties"]:
        return f"{labels['outside_ties']:,} of {n:,} labels differ, and are no ties"
    if weights == "float32" and decisions and decisions["outside_ties"]:
        return f"decisions about {decisions['outside_ties']:,} of {n:,} images differ"
    return None


def _fault_of_accuracy(record: dict[str, Any], _weights: Weights) -> str | None:
    accuracy = record["accuracy"]
    if not accuracy or -accuracy["difference"] <= MOST_LOST or accuracy["high"] >= 0:
        return None
    lost = [-accuracy[name] for name in ("difference", "high", "low")]
    return (
        "the accuracy is {:.3f} lower (95 %: {:.3f} to {:.3f}); ".format(*lost)
        + f"{MOST_LOST:g} is allowed"
    )


def where(record: dict[str, Any]) -> str:
    """Return in words at which stage a difference arises."""
    stages = record.get("stages")
    if not stages:
        return "nothing could be compared"
    if stages["pixels"]:
        return (
            f"it arises in the pixels: {stages['pixels']:,} images are decoded or resized otherwise"
        )
    if stages["features"] > 0.05:
        return f"it arises in the features, which differ by up to {stages['features']:.2g}"
    if stages["logits"] > 0.01:
        return f"it arises in the head, whose logits differ by up to {stages['logits']:.2g}"
    return "it arises in the decisions: pixels, features and logits are the same"
