"""How much speed is lost if OpenMP's threads spin while they wait, alone and beside other work?

    python benchmarks/bench_waiting.py [ROUNDS]

Each figure is from one process that reads all blocks of the embedded network for 320 images of 224
pixels, after a warm-up. Spinning (the library's default) and sleeping (OMP_WAIT_POLICY=PASSIVE, as
regraft's own commands set it) alternate, without and with another process that computes on all
processors. Prints the median rate of each in images a second.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

CHILD = """
import time
from regraft.cli.tuning import tune_process
tune_process()
import torch
from regraft.backbones.registry import load_backbone
from regraft.features.compute import choose_compute
from regraft.features.taps import TapReader, row_blocks
backbone = load_backbone("embedded")
reader = TapReader(backbone, row_blocks(backbone), choose_compute("cpu", "auto", 16))
images = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8)
reader(images)
start = time.perf_counter()
for _ in range(20):
    reader(images)
print(320 / (time.perf_counter() - start))
"""
BUSY = "import numpy as np\na = np.ones((2000, 2000))\nwhile True: a @ a"


def rate(policy: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "OMP_WAIT_POLICY": policy},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for beside in (False, True):
        busy = subprocess.Popen([sys.executable, "-c", BUSY]) if beside else None
        try:
            rates = [(rate("ACTIVE"), rate("PASSIVE")) for _ in range(rounds)]
        finally:
            if busy is not None:
                busy.kill()
                busy.wait()
        spinning, sleeping = (statistics.median(column) for column in zip(*rates, strict=True))
        figures = {"beside a busy process": beside, "spinning": spinning, "sleeping": sleeping}
        print(json.dumps({**figures, "ratio": sleeping / spinning, "rounds": rounds}), flush=True)


if __name__ == "__main__":
    main()
