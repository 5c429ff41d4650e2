"""Does it help to read every stage, on which data, and how much time does it take?

    python benchmarks/bench_probe.py RESULTS.jsonl FOLDER [NAME...]

FOLDER has flowers.zip, cifar10.zip and mnist/. For each data set, it runs the probe with its
defaults, the same network with random weights, and logistic regression on raw pixels; for the
smaller ones also another network, and views. The command itself fits the last stage alone beside
every probe. Seeds are 0, 1 and 2, or only 0 if the data have a test part. Every run is a separate
process; the first run of each way begins with an empty store. A line that is already in
RESULTS.jsonl is not run again, so the script can be stopped and started. At the end it prints the
table of means, in Markdown.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.evaluation.metrics import measure_classification
from regraft.heads.fit import fit_head
from regraft.images.decode import decode
from regraft.splits.folds import assign_folds
from regraft.splits.split import split

SEEDS = (0, 1, 2)
#: Additional arguments of `regraft train`.
WAYS = {
    "as it comes": [],
    "random weights": ["--weights", "none"],
    "ResNet-18, random weights": ["--model", "timm/resnet18", "--weights", "none"],
    "4 views": ["--views", "4"],
    "2 views, averaged": ["--views", "2", "--tta"],
}
PIXELS = "raw pixels"
ALL = (*WAYS, PIXELS)
SOME = ("as it comes", "random weights", PIXELS)  # with many images, the others take an hour
#: Name: the arguments of `regraft train`, the seeds, and the ways.
DATA = {
    "digits": (["digits"], SEEDS, ALL),
    "flowers": (["flowers.zip"], SEEDS, ALL),
    "cifar10": (["cifar10.zip"], (0,), SOME),
    "mnist": (["mnist", "--data-root", "mnist"], (0,), SOME),
}


def train(arguments: list[str], folder: Path, store: Path) -> dict:
    """Run the command; return its metrics and the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "regraft", "train", *arguments, "--out", str(out)],
            cwd=folder,
            env={**os.environ, "REGRAFT_CACHE": str(store)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        seconds = time.perf_counter() - began
        return json.loads((out / "metrics.json").read_text()) | {"process_seconds": seconds}


def kept(metrics: dict) -> dict:
    """Return the figures of the table, and those that explain it."""
    return {
        "n": metrics["test"]["n"],
        "accuracy": metrics["test"]["accuracy"],
        "log_loss": metrics["test"]["log_loss"]["value"],
        "last_stage": metrics["baselines"].get("last_stage"),
        "candidates": metrics["candidates"],
        "blocks": metrics["head"]["blocks"],
        "image_size": metrics["backbone"]["image_size"],
        "process_seconds": round(metrics["process_seconds"], 2),
        "seconds": metrics["seconds"],
        "extracted": metrics["features"]["extracted"],
        "regraft": metrics["regraft"],
        "compute": metrics["compute"],
    }


def raw_pixels(arguments: list[str], seed: int, folder: Path) -> dict:
    """Fit the same head on at most 32 by 32 raw pixels."""
    began = time.perf_counter()
    root = folder / arguments[2] if len(arguments) > 2 else None
    data = folder / arguments[0] if "." in arguments[0] else arguments[0]
    samples = scan(data, TrainConfig(data_root=root))
    parts = split(samples, test_fraction=0.2, seed=seed)
    pixels = []
    for _, load in samples.stream(range(len(samples))):
        image = Image.fromarray(decode(load(), 40_000_000))
        if min(image.size) > 32 or image.size[0] != image.size[1]:
            image = image.resize((32, 32), Image.Resampling.BICUBIC, reducing_gap=3)
        pixels.append(np.asarray(image, np.float32).ravel() / 255)
    x = np.stack(pixels)
    y, train_part = samples.labels, parts.train
    keys = [samples.hashes[i] for i in train_part]
    folds = assign_folds(y[train_part], train_part, 5, seed, keys)
    fitted = fit_head(x[train_part], y[train_part], folds=folds, n_classes=len(samples.classes))
    logits = fitted.head(torch.from_numpy(x[parts.test])) / fitted.temperature
    result = measure_classification(logits.softmax(1).numpy(), y[parts.test], samples.classes)
    seconds = time.perf_counter() - began
    return {
        "n": result["n"],
        "accuracy": result["accuracy"],
        "log_loss": result["log_loss"]["value"],
        "process_seconds": round(seconds, 2),
    }


def table(lines: list[dict]) -> str:
    """Return means over seeds, and the paired gain over the last stage, in Markdown."""
    columns = ("data", "way", "n", "accuracy", "last stage", "gain (95 %)", "log-loss", "seconds")
    rows = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for name, (_, _, ways) in DATA.items():
        for way in ways:
            some = [line for line in lines if line["data"] == name and line["way"] == way]
            if some:
                rows.append(f"| {name} | {way} | {' | '.join(row(some))} |")
    return "\n".join(rows)


def row(lines: list[dict]) -> list[str]:
    """Return the cells of one way on one data set."""
    mean = statistics.mean
    beside, gained = "", ""
    if compared := [line for line in lines if "last_stage" in line]:
        pairs = [(line, line["last_stage"]) for line in compared]
        beside = f"{mean((last or line)['accuracy']['value'] for line, last in pairs):.4f}"
        nothing = {"value": 0.0, "low": 0.0, "high": 0.0}  # the last stage was chosen
        gains = [last["gain"] if last else nothing for _, last in pairs]
        gain = mean(each["value"] for each in gains)
        # The halves of the intervals of independent test parts add up as squares.
        half = sum(((g["high"] - g["low"]) / 2) ** 2 for g in gains) ** 0.5 / len(gains)
        gained = f"{gain:+.4f} ({gain - half:+.4f} to {gain + half:+.4f})"
    first = max(lines, key=lambda line: line.get("extracted", 0))
    return [
        ", ".join(str(line["n"]) for line in lines),
        f"{mean(line['accuracy']['value'] for line in lines):.4f}",
        beside,
        gained,
        f"{mean(line['log_loss'] for line in lines):.4f}",
        f"{first['process_seconds']:.0f}",
    ]


def main() -> None:
    results, folder = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    names = sys.argv[3:] or list(DATA)
    lines = [json.loads(line) for line in results.open()] if results.exists() else []
    done = {(line["data"], line["way"], line["seed"]) for line in lines}
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            arguments, seeds, ways = DATA[name]
            for way in ways:
                for seed in seeds:
                    if (name, way, seed) in done:
                        continue
                    if way == PIXELS:
                        figures = raw_pixels(arguments, seed, folder)
                    else:
                        flags = [*arguments, *WAYS[way], "--seed", str(seed)]
                        figures = kept(train(flags, folder, Path(place) / f"{name} {way}"))
                    lines.append({"data": name, "way": way, "seed": seed, **figures})
                    with results.open("a") as file:
                        file.write(json.dumps(lines[-1]) + "\n")
                    print(name, way, seed, figures["accuracy"], flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
