"""Is fine-tuning worth it with a few hundred images?

    python benchmarks/bench_few.py DATA [--a-class 60] [--draws 3] [--strategies probe,finetune]
                                   [--lr RATE] [--unfreeze N] [--views N]

Each draw takes some images of each class, trains on them with the defaults of `regraft train`
(including a test part), and measures on all other images of DATA. Prints one JSON line for each
training. Features of the frozen network go into the usual store.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.cli.tuning import tune_process

tune_process()

import regraft  # noqa: E402 - after the process was tuned
from regraft.data.scan import scan  # noqa: E402

if TYPE_CHECKING:
    from regraft.data.samples import Samples


def draw(samples: Samples, a_class: int, seed: int, folder: Path) -> None:
    """Copy some images of each class into a folder."""
    chance = random.Random(seed)
    chosen: list[int] = []
    for label in range(len(samples.classes)):
        chosen += chance.sample([i for i, k in enumerate(samples.labels) if k == label], a_class)
    for index, load in samples.stream(sorted(chosen)):
        path = folder / samples.ids[index]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(load())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--a-class", type=int, default=60)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--strategies", default="probe,finetune")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--unfreeze", default="2")
    parser.add_argument("--views", type=int, default=0, help="of the probe")
    given = parser.parse_args()
    config = regraft.TrainConfig(lr=given.lr, unfreeze=given.unfreeze)
    samples = scan(given.data, config)
    for seed in range(given.draws):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            draw(samples, given.a_class, seed, folder / "images")
            for strategy in given.strategies.split(","):
                began = time.perf_counter()
                settings = config.replace(
                    strategy=strategy, seed=seed, out=folder / strategy,
                    views=given.views if strategy == "probe" else 0,
                )  # fmt: skip
                run = regraft.train(folder / "images", settings)
                seconds = time.perf_counter() - began
                others = regraft.evaluate(run.folder, given.data)
                print(
                    json.dumps(
                        {
                            "draw": seed, "strategy": strategy, "train": run.metrics["data"]["n"],
                            "accuracy": others["accuracy"], "n": others["n"],
                            "log_loss": others["log_loss"]["value"], "seconds": round(seconds, 1),
                            "best_epoch": run.metrics["head"].get("best_epoch"),
                        }
                    ),
                    flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
