"""What does reading a transformer cost on a processor, beside the embedded network?

    python benchmarks/bench_transformers.py [--rounds 5] [--threads 1] [--images 16]
                                            [--only vit_small_patch14_dinov2:224:16]

Random weights, whose values do not change the speed: nothing is downloaded. Each variant is a
network at an image size, with so many images in one pass, read at all taps (every stage at every
grid, and the pooled features) or pooled alone, in float32. Each measurement is a process of its
own: one pass to warm up, then passes until all images are read (as many pixels as ``--images`` of
224 have). All variants take turns, round after round. Prints Markdown: medians over the rounds with
the smallest and largest; ratios are taken in each round before their median. Images per second are
by the processor time of all threads, divided by their number, so other work on the machine moves
them less. The peak is the resident memory of the whole process, with Python, torch and timm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

DINO, EMBEDDED = "timm/vit_small_patch14_dinov2", "embedded"
#: Networks with their image sizes, and images in one pass.
SETTINGS = (
    (EMBEDDED, 224, (1, 16)),
    ("timm/vit_tiny_patch16_224", 224, (16,)),
    (DINO, 112, (16,)),
    (DINO, 224, (1, 16)),
    (DINO, 518, (1, 4)),
)
READ = ("all taps", "pooled")
BESIDE = 16  # images in a pass of the embedded network that all are compared with


class Variant(NamedTuple):
    """What is measured."""

    network: str
    side: int  # pixels
    batch: int  # images in one pass
    read: str

    def __str__(self) -> str:
        return f"{self.network.removeprefix('timm/')}:{self.side}:{self.batch}"


def measure(variant: Variant, n_images: int, n_threads: int) -> dict[str, float]:
    """Return seconds an image and the peak of memory in megabytes, of this process."""
    import torch  # noqa: PLC0415 - only in the processes that measure

    from regraft.backbones.registry import load_backbone  # noqa: PLC0415
    from regraft.features.compute import Compute  # noqa: PLC0415
    from regraft.features.taps import POOLED, Block, TapReader, row_blocks  # noqa: PLC0415

    torch.set_num_threads(n_threads)
    backbone = load_backbone(variant.network, "none", image_size=variant.side)
    blocks = row_blocks(backbone) if variant.read == READ[0] else (Block(POOLED),)
    reader = TapReader(backbone, blocks, Compute("cpu", "float32", variant.batch))
    shape = (variant.batch, 3, variant.side, variant.side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    reader(images)
    passes = max(1, round(n_images * (224 / variant.side) ** 2 / variant.batch))
    start = time.process_time()
    for _ in range(passes):
        reader(images)
    seconds = (time.process_time() - start) / n_threads / (passes * variant.batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return {"seconds": seconds, "megabytes": peak / (1e6 if sys.platform == "darwin" else 1e3)}


def in_a_process(variant: Variant, n_images: int, n_threads: int) -> dict[str, float]:
    """Measure in a process of its own."""
    words = [sys.executable, __file__, "--measure", json.dumps(variant)]
    words += ["--images", str(n_images), "--threads", str(n_threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def processor() -> str:
    """Return the name of the processor, and what torch uses of it."""
    import torch  # noqa: PLC0415

    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if os.name == "posix" else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def spread(values: list[float], digits: int) -> str:
    """Return the median with the smallest and the largest value."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def row(variant: Variant, found: dict[Variant, list[dict[str, float]]]) -> str:
    """Return the row of the table of a variant."""
    own = [each["seconds"] for each in found[variant]]

    def times(other: Variant) -> str:
        if other == variant or other not in found:
            return ""
        pairs = zip(own, found[other], strict=True)
        return spread([seconds / each["seconds"] for seconds, each in pairs], 2)

    cells = [
        variant.network.removeprefix("timm/"), str(variant.side), str(variant.batch), variant.read,
        spread([1 / seconds for seconds in own], 1),
        times(variant._replace(read="pooled")),
        times(variant._replace(network=EMBEDDED, side=224, batch=BESIDE)),
        f"{statistics.median(each['megabytes'] for each in found[variant]):.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--only", default="")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        variant = Variant(*json.loads(given.measure))
        print(json.dumps(measure(variant, given.images, given.threads)))
        return
    variants = [
        Variant(network, side, batch, read)
        for network, side, batches in SETTINGS
        for batch in batches
        for read in READ
    ]
    variants = [each for each in variants if given.only in str(each)]
    found: dict[Variant, list[dict[str, float]]] = {each: [] for each in variants}
    load = os.getloadavg()[0]
    for number in range(given.rounds):
        for variant in variants if number % 2 == 0 else reversed(variants):
            found[variant].append(in_a_process(variant, given.images, given.threads))
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    print(
        f"{processor()}; float32, {given.threads} thread(s), {given.images} images of 224 pixels a "
        f"measurement, {given.rounds} rounds; load of the machine {load:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after.\n"
    )
    print(
        "| network | pixels | images in a pass | read | images/s | time beside pooled alone | "
        f"time beside {EMBEDDED}, {BESIDE} | peak, MB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for variant in variants:
        print(row(variant, found), flush=True)


if __name__ == "__main__":
    main()
