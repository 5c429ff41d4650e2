"""How accurate is `regraft train`, how long do its phases take, and does the store change results?

    python benchmarks/bench_train.py [DATA [FLAGS...]]

For seeds 0, 1 and 2: a run with an empty store, one with the filled store, one without a store,
each in a separate process. Prints one JSON line for each run and a summary: test accuracy with its
interval, the spread over seeds, seconds of each phase, peak memory of the process, and whether the
three runs of a seed agree to the last digit. Without DATA: the digits of scikit-learn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = (0, 1, 2)
VARIANTS = {"empty store": [], "filled store": [], "no store": ["--no-cache"]}


def train(data: str, flags: list[str], out: Path, store: Path) -> dict:
    command = [sys.executable, "-m", "regraft", "train", data, "--out", str(out), *flags]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "REGRAFT_CACHE": str(store)},
    )
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(errors)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return {**metrics, "peak_mib": usage.ru_maxrss // 1024}


def same(runs: list[dict]) -> bool:
    """Return whether all figures of the runs are equal to the last digit."""
    return all(run["test"] == runs[0]["test"] and run["head"] == runs[0]["head"] for run in runs)


def main() -> None:
    data, *flags = sys.argv[1:] or ["digits"]
    accuracies, agree = [], True
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            runs = []
            for variant, more in VARIANTS.items():
                out = Path(folder) / f"{seed}-{variant.replace(' ', '-')}"
                # Rows do not depend on the seed, so each seed has its own store, empty at first.
                store = Path(folder) / f"store-{seed}"
                run = train(data, [*flags, *more, "--seed", str(seed)], out, store)
                runs.append(run)
                line = {
                    "data": data, "flags": flags, "seed": seed, "variant": variant,
                    "accuracy": run["test"]["accuracy"], "n": run["test"]["n"],
                    "log_loss": run["test"]["log_loss"]["value"], "ece": run["test"]["ece"],
                    "knn": run["baselines"]["knn"]["accuracy"]["value"],
                    **run["features"], "seconds": run["seconds"], "peak_mib": run["peak_mib"],
                }  # fmt: skip
                print(json.dumps(line), flush=True)
            accuracies.append(runs[0]["test"]["accuracy"]["value"])
            agree = agree and same(runs)
    print(
        json.dumps(
            {
                "data": data,
                "flags": flags,
                "mean_accuracy": statistics.mean(accuracies),
                "spread": statistics.stdev(accuracies),
                "the three variants agree to the last digit": agree,
                "compute": run["compute"],
                "regraft": run["regraft"],
            }
        )
    )


if __name__ == "__main__":
    main()
