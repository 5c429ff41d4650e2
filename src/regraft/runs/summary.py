"""The summary of a run: the result, the baselines, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regraft.core.text import counted, listed
from regraft.runs.metrics_file import networks_of

if TYPE_CHECKING:
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
    within = " in each class" if sets["by"] == "class" else ""
    aimed = f"{sets['aimed_at']:g} aimed at{within}"
    covered = f"{interval(sets['coverage'])}, {aimed}"
    size = f"classes in a set: {interval(sets['size'])}"
    lines = [f"sets of classes that hold the true one: {covered}; {size}"]
    if "fitted_on" in measured:
        fitted = measured["fitted_on"]
        part = "validation" if fitted["held_out"] else "training"
        lines.insert(
            0,
            f"decisions are fitted on {counted(fitted['answers'], 'answer')} for "
            f"images of the {part} part, one for each group or set of copies",
        )
    if "unknown" in measured:
        unknown = measured["unknown"]
        worst = max(unknown["per_class"], key=lambda one: one["value"] or 0)
        most = ""
        if len(unknown["per_class"]) > 1 and worst["value"]:
            most = f"; most of all in {worst['class']}, {worst['value']:.3f}"
        lines.append(
            f"called unknown: {interval(unknown['share'])}, {unknown['level']:g} aimed at{most}"
        )
    if "answers" in measured:
        answers = measured["answers"]
        lines.append(
            f"answered: {interval(answers['answered'])}; of these right: "
            f"{interval(answers['precision'])}, {answers['aimed_at']:g} aimed at"
        )
    if "costs" in measured:
        costs = measured["costs"]
        lines.append(
            f"cost of an answer: {interval(costs['expected'])}; of always the most probable class: "
            f"{interval(costs['most_probable'])}; answered: {interval(costs['answered'])}"
        )
    return lines


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
