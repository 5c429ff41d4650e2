"""The summary of a run: the result, the baselines, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
        f"next: regraft predict {folder} PHOTO.jpg",
    ]
    return "\n".join(lines)


def describe_test(test: dict[str, Any]) -> list[str]:
    """Return lines with the figures of a test, which is as ``test`` in metrics.json."""
    return [
        f"accuracy {interval(test['accuracy'], test['n'])}",
        f"macro F1 {interval(test['macro_f1'])}",
        f"log-loss {test['log_loss']['value']:.3f}, calibration error {test['ece']['value']:.3f}",
    ]


def _hint_for_few(metrics: dict[str, Any]) -> list[str]:
    """Return a hint if few images were tested."""
    if metrics["test"]["n"] >= 100 or metrics.get("rounds") or "probe" in metrics["baselines"]:
        return []
    return ["few images were tested: --folds 5 tests each image once"]


def _gain(baseline: dict[str, Any]) -> str:
    """Return the paired gain of the model over a baseline; empty if it has no interval."""
    gain = baseline.get("gain")
    if not gain or gain["low"] is None:
        return ""
    return f", gain {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"


def interval(estimate: dict[str, float | None], n: int | None = None) -> str:
    """Return an estimate with its 95 % interval.

    Examples
    --------
    >>> interval({"value": 0.915, "low": 0.894, "high": 0.932}, 863)
    '0.915 (95 %: 0.894 to 0.932, n = 863)'
    """
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "undefined"
    if low is None or high is None:
        return f"{value:.3f}"
    size = "" if n is None else f", n = {n:,}"
    return f"{value:.3f} (95 %: {low:.3f} to {high:.3f}{size})"
