"""How many images a second does fine-tuning train on, compared with the tutorials' plain loop?

    python benchmarks/bench_finetune.py DATA [--model embedded] [--size 224] [--batch 32]
        [--last 1] [--steps 8] [--rounds 2]

Each variant runs in separate processes, in turn, ROUNDS times; the median is printed as JSON.

- plain: float32, default layout, default allocator, images ready in memory, the whole forward pass
  at every step
- bare: bfloat16 if the processor has it, channels_last, tuned allocator, images ready in memory
  (for "cached": the output of the frozen stages)
- ours: regraft's complete loop, with decoding, light augmentation, clipping and checks
- all: the whole network is trained
- last: its last stages are trained
- cached: the last stages are trained on the output of the frozen stages in the first epoch, read
  from the file, without augmentation (median of epochs 2 to 6; the time that an epoch takes besides
  its steps, such as validation, is not included)

With the defaults it takes about four minutes on two idle cores.
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

VARIANTS = (
    *("plain all", "bare all", "ours all"),
    *("plain last", "bare last", "ours last", "bare cached", "ours cached"),
)
EPOCHS = 6  # of "ours cached"


def prepared(given, precision: str):
    """Return all arguments of a training except its folder."""
    from regraft.backbones.image_size import at_image_size
    from regraft.backbones.registry import load_backbone
    from regraft.config.train_config import TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.data.samples import Parts
    from regraft.data.scan import scan
    from regraft.features.compute import choose_compute
    from regraft.features.extractor import Extractor
    from regraft.features.taps import select_blocks
    from regraft.finetune.network import random_head
    from regraft.model import Model
    from regraft.splits.split import split

    what = given.variant.split()[1]
    cached = what == "cached"
    config = TrainConfig(
        strategy="finetune", unfreeze="all" if what == "all" else given.last,
        batch_size=given.batch, precision=precision,
        epochs=EPOCHS, augment="none" if cached else "light",
    )  # fmt: skip
    samples = scan(given.data, config)
    parts = split(samples, test_fraction=0.2, seed=0, val_fraction=0.1)
    count = given.batch * given.steps
    train = parts.train[:: max(len(parts.train) // count, 1)][:count] if cached else parts.train
    parts = Parts(train, parts.val[: given.batch], parts.test, {})
    backbone = at_image_size(load_backbone(given.model), given.size, crop=False)
    blocks = select_blocks((backbone,), "last")
    head = random_head(backbone.n_features, len(samples.classes), 0)
    model = Model(backbone, blocks, head, 1.0, samples.classes, config.max_pixels)
    compute = choose_compute("cpu", config.precision, given.batch)
    return model, Dataset(samples, parts), Extractor([backbone], compute, config)


class Enough(Exception):  # noqa: N818
    """Not an error: the required number of steps is done."""


class Clock:
    """Stop after a number of steps if one is given; else record the speed of each epoch."""

    def __init__(self, steps: int = 0):
        self.steps, self.times, self.speeds = steps, [], []

    def on_batch_end(self, _loop):
        """Record the time of a step."""
        self.times.append(time.perf_counter())
        if self.steps and len(self.times) > self.steps:
            raise Enough

    def on_epoch_end(self, loop):
        """Record the speed of an epoch."""
        self.speeds.append(loop.state.progress.history[-1]["images_per_second"])


def ours(given) -> float:
    from regraft.cli.tuning import tune_process

    tune_process()
    from regraft.finetune.train import Job, run_loop

    cached = given.variant == "ours cached"
    model, dataset, extractor = prepared(given, "auto")
    clock = Clock(0 if cached else given.steps)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "x"
        with contextlib.suppress(Enough):
            _, fitted = run_loop(Job(model, dataset, extractor), place, [clock])
    if cached:
        if not fitted.record["frozen_stages"]["once"]:
            raise SystemExit(fitted.record["frozen_stages"]["reason"])
        return statistics.median(clock.speeds[2:])  # epoch 0 only measures, epoch 1 fills the file
    return given.batch * given.steps / (clock.times[-1] - clock.times[0])


def by_hand(given, *, fast: bool) -> float:
    if fast:
        from regraft.cli.tuning import tune_process

        tune_process()
    import torch

    from regraft.finetune.network import TrainableNetwork
    from regraft.images.render import normalise_pixels

    model, _, extractor = prepared(given, "auto" if fast else "float32")
    compute, config = extractor.compute, extractor.config
    network = TrainableNetwork(model, unfreeze=config.unfreeze, train_norms=not fast)
    layout = torch.channels_last if fast else torch.contiguous_format
    network.to(memory_format=layout)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    pixels = torch.randint(0, 256, (given.batch, 3, given.size, given.size), dtype=torch.uint8)
    labels = torch.arange(given.batch) % len(model.classes)
    low = torch.autocast("cpu", torch.bfloat16, enabled=fast and compute.precision == "bfloat16")
    kept = None
    if given.variant == "bare cached":
        network.cut()
        with low:
            kept = network.front(
                normalise_pixels(pixels.contiguous(memory_format=layout), model.backbone.preprocess)
            )
    steps = given.steps * (EPOCHS - 1 if kept else 1)
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
        x = kept or normalise_pixels(
            pixels.contiguous(memory_format=layout), model.backbone.preprocess
        )
        with low:
            logits = network(x)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return given.batch * steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--last", default="1", help="stages, as --unfreeze takes them")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variant")
    given = parser.parse_args()
    if given.variant:
        kind = given.variant.split()[0]
        print(ours(given) if kind == "ours" else by_hand(given, fast=kind == "bare"))
        return
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    options = {key: value for key, value in vars(given).items() if key not in {"data", "variant"}}
    words = [f"--{key}={value}" for key, value in options.items()]
    for _ in range(given.rounds):
        for variant, speeds in found.items():
            command = [sys.executable, __file__, given.data, *words, "--variant", variant]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            speeds.append(float(done.stdout.split()[-1]))
    medians = {variant: round(statistics.median(speeds), 1) for variant, speeds in found.items()}

    def against(one: str, other: str) -> float:
        return round(medians[one] / medians[other], 2)

    result = {
        **options,
        "images a second": medians,
        "all, against the plain loop (goal 2.4)": against("ours all", "plain all"),
        "last stages on a cached cut, against the plain loop (goal 12)": against(
            "ours cached", "plain last"
        ),
        "against the bare loop (goal 0.95)": {
            what: against(f"ours {what}", f"bare {what}") for what in ("all", "last", "cached")
        },
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
