"""Three shortcuts that cost code, each switched on and off in turn: what would be lost without it?

    python benchmarks/bench_shortcuts.py fuse [--rounds 10]
    python benchmarks/bench_shortcuts.py tangent DATA [--data-root FOLDER] [--rounds 3]
    python benchmarks/bench_shortcuts.py prefix DATA [--rounds 3] [--epochs 5]

fuse: images a second of the frozen network with and without convolutions that clamp their output
(features/fuse.py). tangent: seconds of the fit of a probe, whose features are kept, with and
without the tangents of settled rows (heads/softmax.py). prefix: seconds of a fine-tuning without
augmentation, with and without frozen stages that run once (finetune/frozen). Medians of interleaved
rounds; each figure is paired with the one beside it, so that other work on the machine hits both.
"""

# ruff: noqa: PLC0415, SLF001 - torch's threads are set before it is imported

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from regraft.cli.tuning import tune_process


def medians(pairs: list[tuple[float, float]], unit: str) -> dict[str, object]:
    """Return the medians with and without, and the median of the ratios with its extremes."""
    ratios = [without / with_ for with_, without in pairs]
    return {
        "unit": unit,
        "with": round(statistics.median(each[0] for each in pairs), 3),
        "without": round(statistics.median(each[1] for each in pairs), 3),
        "without / with": [round(f(ratios), 3) for f in (min, statistics.median, max)],
        "rounds": len(pairs),
    }


def fuse(given: argparse.Namespace) -> dict[str, object]:
    import torch

    from regraft.backbones.image_size import at_image_size
    from regraft.backbones.registry import load_backbone
    from regraft.features import compute
    from regraft.features.taps import TapReader, row_blocks

    results = {}
    for name in ("embedded", "torchvision/resnet18"):
        for side, batch in ((128, 48), (224, 16)):
            weights = "default" if name == "embedded" else "none"
            backbone = at_image_size(load_backbone(name, weights), side, crop=False)
            chosen = compute.choose_compute("cpu", "auto", batch)
            kept, readers = compute.fuse_clamps, []
            for function in (kept, lambda *_: 0):
                compute.fuse_clamps = function
                readers.append(TapReader(backbone, row_blocks(backbone), chosen))
            compute.fuse_clamps = kept
            images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
            pairs = []
            for _ in range(given.rounds + 1):
                seconds = []
                for reader in readers:
                    start = time.perf_counter()
                    for _ in range(8):
                        reader(images)
                    seconds.append((time.perf_counter() - start) / (8 * batch) * 1000)
                pairs.append((seconds[0], seconds[1]))
            results[f"{name}, {side} pixels, {chosen.precision}"] = medians(
                pairs[1:], "ms an image"
            )
    return results


def tangent(given: argparse.Namespace) -> dict[str, object]:
    from regraft.config.train_config import TrainConfig
    from regraft.data.scan import scan
    from regraft.features.extractor import Extractor, load_networks
    from regraft.heads import softmax
    from regraft.probe.fit import fit_by
    from regraft.splits.split import split_by_config

    config = TrainConfig(data_root=given.data_root)
    dataset = split_by_config(scan(given.data, config), config)
    kept, pairs, losses = softmax._SETTLED, [], []
    with Extractor.for_samples(load_networks(config), dataset.samples, config) as extractor:
        features = extractor.read(dataset)
        for _ in range(given.rounds):
            seconds = []
            for share in (kept, 0.0):
                softmax._SETTLED = share
                start = time.perf_counter()
                probe = fit_by(extractor, features, dataset)
                seconds.append(time.perf_counter() - start)
                losses.append(round(probe.fitted.record["out_of_fold"]["log_loss"], 6))
            pairs.append((seconds[0], seconds[1]))
    return {given.data: {**medians(pairs, "s a fit"), "n": len(dataset.train), "log_loss": losses}}


def prefix(given: argparse.Namespace) -> dict[str, object]:
    from regraft.commands.train import train
    from regraft.config.train_config import TrainConfig

    results = {}
    for unfreeze in ("1", "2"):
        pairs = []
        for number in range(given.rounds):
            seconds = []
            for views in ("auto", "0"):
                with tempfile.TemporaryDirectory() as folder:
                    config = TrainConfig(
                        strategy="finetune", augment="none", unfreeze=unfreeze, seed=100 + number,
                        epochs=given.epochs, cached_views=views, out=Path(folder) / "run",
                        image_size="160",
                    )  # fmt: skip
                    seconds.append(train(given.data, config).metrics["seconds"]["train"])
            pairs.append((seconds[0], seconds[1]))
        results[f"{given.data}, last {unfreeze}, {given.epochs} epochs"] = medians(
            pairs, "s of training"
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["fuse", "tangent", "prefix"])
    parser.add_argument("data", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--data-root")
    given = parser.parse_args()
    tune_process()
    found = {"fuse": fuse, "tangent": tangent, "prefix": prefix}[given.what](given)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
