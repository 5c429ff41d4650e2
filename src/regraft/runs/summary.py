"""The summary of a run: the result, the baselines, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regraft.core.text import counted, listed
from regraft.runs.metrics_file import networks_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def summarise(folder: Path, metrics: dict[str, Any]) -> str:
    """Return the lines that are printed at the end of a training."""
    test, n = metrics["test"], metrics["data"]["n"]
    accuracy, *others = describe_test(test)
    lines = [f"test {accuracy}", *others]
    lines += [
        f"baseline {name}: accuracy {interval(baseline['accuracy'])}{_gain(baseline)} "
        f"({baseline['description']})"
        for name, baseline in metrics["baselines"].items()
    ]
    lines += describe_decisions(metrics.get("decisions"))
    seconds = metrics["seconds"]
    phases = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
    features = metrics["features"]
    validated = f" {n['val']:,} to validate," if n["val"] else ""
    lines += [
        f"{n['train']:,} images to train,{validated} {n['test']:,} to test: {metrics['protocol']}",
        f"features: {features['extracted']:,} extracted, {features['reused']:,} from the store",
        f"{seconds['total']:.1f} s: {phases}",
        *_hint_for_few(metrics),
        f"run folder: {folder}",
        _next(folder, metrics),
    ]
    return "\n".join(lines)


def _next(folder: Path, metrics: dict[str, Any]) -> str:
    """Return the command to type next, which needs a bundle."""
    if "no_bundle" in metrics["backbone"]:
        return f"without a bundle: {metrics['backbone']['no_bundle']}"
    return f"next: regraft predict {folder} PHOTO.jpg"


def summary_rows(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the result, what to compare it with and what gave it, as names and texts."""
    test, networks = metrics["test"], networks_of(metrics)
    classes = metrics["data"]["classes"]
    rows = [*figures(test)]
    rows += [
        (f"baseline {name}", f"accuracy {interval(baseline['accuracy'])}{_gain(baseline)}")
        for name, baseline in metrics["baselines"].items()
    ]
    return [
        *rows,
        (counted(len(classes), "class", "classes"), listed(classes, 20)),
        ("images", ", ".join(f"{n:,} {part}" for part, n in metrics["data"]["n"].items() if n)),
        *(("network", f"{each['name']} at {each['image_size']} pixels") for each in networks),
        *(
            ("weights", f"{each['weights']} (sha256 {each['weights_sha256'][:12]})")
            for each in networks
        ),
        *(("licence", each["licence"] or "not stated") for each in networks),
    ]


def figures(test: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the figures of a test, which is as ``test`` in metrics.json, as names and texts."""
    return [
        ("test accuracy", interval(test["accuracy"], test["n"])),
        ("macro F1", interval(test["macro_f1"])),
        ("log-loss", interval(test["log_loss"])),
    ]


def describe_test(test: dict[str, Any]) -> list[str]:
    """Return lines with the figures of a test, which is as ``test`` in metrics.json."""
    return [
        f"accuracy {interval(test['accuracy'], test['n'])}",
        f"macro F1 {interval(test['macro_f1'])}",
        f"log-loss {interval(test['log_loss'])}",
        f"calibration error {test['ece']['value']:.3f}{_calibrated(test['ece'])}",
    ]


def describe_decisions(measured: dict[str, Any] | None) -> list[str]:
    """Return lines with what was measured of decisions, each beside what was aimed at.

    ``measured`` is as ``decisions`` in metrics.json.
    """
    if not measured:
        return []
    sets = measured["sets"]
    size = f"classes in a set: {interval(sets['size'])}"
    covered = _aimed(sets["coverage"], sets["aimed_at"], where_aimed(sets))
    least = _extreme(sets["per_class"], "least", lambda one: -one["value"])
    lines = [f"sets of classes that hold the true one: {covered}{least}; {size}"]
    if "fitted_on" in measured:
        fitted = measured["fitted_on"]
        part = "validation" if fitted["held_out"] else "training"
        lines.insert(
            0,
            f"thresholds come from {counted(fitted['answers'], 'answer')} for images of the {part} "
            "part that the answering model had not seen, one for each group or set of copies",
        )
    if "unknown" in measured:
        unknown = measured["unknown"]
        most = _extreme(unknown["per_class"], "most", lambda one: one["value"])
        lines.append(f"called unknown: {_aimed(unknown['share'], unknown['level'])}{most}")
    else:
        lines.append("called unknown: no image, as there is no level")
    if "answers" in measured:
        answers = measured["answers"]
        right = _aimed(answers["precision"], answers["aimed_at"])
        lines.append(f"answered: {interval(answers['answered'])}; of these right: {right}")
    if "costs" in measured:
        costs = measured["costs"]
        right = f"; of these right: {interval(costs['precision'])}" if "precision" in costs else ""
        lines.append(
            f"cost of a decision: {interval(costs['expected'])}; of always the most probable "
            f"class: {interval(costs['most_probable'])}; answered: {interval(costs['answered'])}"
            f"{right}"
        )
    return lines


def where_aimed(sets: dict[str, Any]) -> str:
    """Return " in each class" if coverage is aimed at there, with the number if not in all.

    Examples
    --------
    >>> sets = {"by": "class", "per_class": [{}, {}, {}]}
    >>> [where_aimed(sets | {"own_thresholds": own}) for own in (3, 2, 0)]
    [' in each class', ' in each of 2 classes', '']
    """
    n = len(sets["per_class"])
    own = sets.get("own_thresholds", n)  # a run of an earlier version does not tell
    if sets["by"] != "class" or not own:
        return ""
    return " in each class" if own == n else f" in each of {counted(own, 'class', 'classes')}"


def _aimed(estimate: dict[str, Any], aim: float, where: str = "") -> str:
    """Return an estimate beside what was aimed at, and whether that is outside its interval."""
    low, high = estimate["low"], estimate["high"]
    outside = low is not None and high is not None and not low <= aim <= high
    told = ", outside the interval" if outside else ""
    return f"{interval(estimate)}, {aim:g} aimed at{where}{told}"


def _extreme(
    per_class: list[dict[str, Any]], word: str, key: Callable[[dict[str, Any]], float]
) -> str:
    """Return the class of the largest key, in words; nothing if all classes have the same share."""
    known = [one for one in per_class if one["value"] is not None]
    if len({one["value"] for one in known}) < 2:
        return ""
    found = max(known, key=key)
    n = f" of {found['n']:,}" if "n" in found else ""  # a run of an earlier version has none
    return f"; {word} in {found['class']}, {found['value']:.3f}{n}"


def _calibrated(error: dict[str, Any]) -> str:
    """Return what calibrated models would show of as many images; nothing for an older run."""
    if "calibrated" not in error:
        return ""
    expected = error["calibrated"]
    return (
        f" (calibrated models: {expected['mean']:.3f} on average, "
        f"95 % of them up to {expected['high']:.3f})"
    )


def _hint_for_few(metrics: dict[str, Any]) -> list[str]:
    """Return a hint if few images were tested."""
    if metrics["test"]["n"] >= 100 or metrics.get("rounds") or "probe" in metrics["baselines"]:
        return []
    return ["few images were tested: `folds=5` tests each image once, of data without given parts"]


def _gain(baseline: dict[str, Any]) -> str:
    """Return the paired gain of the model over a baseline; nothing for the model itself."""
    gain = baseline.get("gain")
    if not gain:
        return ""
    if gain["low"] is None:
        return f", gain {gain['value']:+.3f} (no interval)"
    return f", gain {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"


def interval(estimate: dict[str, Any], n: int | None = None) -> str:
    """Return an estimate with its 95 % interval, or with the reason why it has none.

    Examples
    --------
    >>> interval({"value": 0.915, "low": 0.894, "high": 0.932}, 863)
    '0.915 (95 %: 0.894 to 0.932, n = 863)'
    >>> interval({"value": 0.693, "low": None, "high": None, "reason": "n = 2"})
    '0.693 (no interval: n = 2)'
    """
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "undefined"
    if low is None or high is None:
        reason = f": {estimate['reason']}" if estimate.get("reason") else ""
        return f"{value:.3f} (no interval{reason})"
    size = "" if n is None else f", n = {n:,}"
    return f"{value:.3f} (95 %: {low:.3f} to {high:.3f}{size})"
