"""How many images a second does fine-tuning learn from, against the plain loop of the tutorials?

    python benchmarks/bench_finetune.py DATA [--size 224] [--batch 32] [--steps 8] [--rounds 2]

Each variant runs in processes of its own, in turn, ROUNDS times; the median is printed as JSON.

- plain: float32, default layout, default allocator, whole network, images ready in memory
- bare: bfloat16 where the processor has it, channels_last, tuned allocator, images in memory
- ours: `regraft`'s loop with all that it does: decoding, light augmentation, clipping, checks; the
  whole network, its last two stages, or the head alone
"""

# ruff: noqa: PLC0415 - the allocator is tuned before torch is imported

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIANTS = ("plain all", "bare all", "ours all", "plain 1", "ours 1", "ours 2")


def prepared(data: str, size: int, batch: int, unfreeze: str, precision: str):
    from regraft.backbones.registry import at_image_size, load_backbone
    from regraft.config import TrainConfig
    from regraft.data.scan import scan
    from regraft.data.split import split
    from regraft.features.compute import choose_compute
    from regraft.features.taps import select_blocks
    from regraft.finetune.network import random_head
    from regraft.model import Model

    config = TrainConfig(
        strategy="finetune", unfreeze=unfreeze, batch_size=batch, precision=precision, epochs=1
    )
    samples = scan(data, config)
    parts = split(samples, test_fraction=0.2, seed=0, val_fraction=0.1)
    backbone = at_image_size(load_backbone("embedded"), size, crop=False)
    blocks = select_blocks(backbone, "last")
    head = random_head(backbone.n_features, len(samples.classes), 0)
    model = Model(backbone, blocks, head, 1.0, samples.classes, config.max_pixels)
    return model, samples, parts, choose_compute("cpu", config.precision, batch), config


class Enough(Exception):  # noqa: N818
    """No error: the steps that were asked for are done."""


def ours(data: str, size: int, batch: int, steps: int, unfreeze: str) -> float:
    from regraft.process import tune_process

    tune_process()
    from regraft.finetune.start import finetune

    times: list[float] = []

    class Clock:
        def on_batch_end(self, _loop):
            times.append(time.perf_counter())
            if len(times) > steps:
                raise Enough

    model, samples, parts, compute, config = prepared(data, size, batch, unfreeze, "auto")
    parts = type(parts)(parts.train, parts.val[:batch], parts.test, {})
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "x"
        with contextlib.suppress(Enough):
            finetune(model, samples, parts, compute, config, checkpoints, None, [Clock()])
    return batch * steps / (times[-1] - times[0])


def by_hand(data: str, size: int, batch: int, steps: int, unfreeze: str, *, fast: bool) -> float:
    if fast:
        from regraft.process import tune_process

        tune_process()
    import torch

    from regraft.backbones.preprocess import normalise
    from regraft.finetune.network import TrainableNetwork

    precision = "auto" if fast else "float32"
    model, _, _, compute, _ = prepared(data, size, batch, unfreeze, precision)
    network = TrainableNetwork(model, unfreeze=unfreeze, train_norms=not fast)
    layout = torch.channels_last if fast else torch.contiguous_format
    network.to(memory_format=layout)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    labels = torch.arange(batch) % len(model.classes)
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
        x = normalise(pixels.contiguous(memory_format=layout), model.backbone.preprocess)
        low = fast and compute.precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits = network(x)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return batch * steps / (time.perf_counter() - started)


def measure(variant: str, data: str, size: int, batch: int, steps: int) -> float:
    kind, unfreeze = variant.split()
    if kind == "ours":
        return ours(data, size, batch, steps, unfreeze)
    return by_hand(data, size, batch, steps, unfreeze, fast=kind == "bare")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variant")
    given = parser.parse_args()
    if given.variant:
        print(measure(given.variant, given.data, given.size, given.batch, given.steps))
        return
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    words = ["--size", given.size, "--batch", given.batch, "--steps", given.steps]
    for _ in range(given.rounds):
        for variant, speeds in found.items():
            command = [sys.executable, __file__, given.data, *map(str, words), "--variant", variant]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            speeds.append(float(done.stdout.split()[-1]))
    medians = {variant: round(statistics.median(speeds), 1) for variant, speeds in found.items()}
    result = {
        **vars(given),
        "images a second": medians,
        "all, against the plain loop": round(medians["ours all"] / medians["plain all"], 2),
        "last stage, against the plain loop": round(medians["ours 1"] / medians["plain 1"], 2),
        "all, against the bare loop": round(medians["ours all"] / medians["bare all"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
