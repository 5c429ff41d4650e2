"""How fast is `regraft train`, compared with usual code and with the limit of the machine?

    python benchmarks/bench_speed.py DATA [--rounds 3] [--tutorial 800] [--only NAME,...]

DATA is a folder with one folder per class, or a zip of one. Every variant is a whole process with
its imports. All variants have the same frozen network (the embedded EfficientNet-Lite0), the same
preprocessing and the same 80 % for training. They run in turn, ROUNDS times. Medians and ratios are
printed as JSON, one line for each variant and one at the end.

- regraft: the command, with an empty store
- regraft last: the same with --taps last
- filled: the command with a store that is already filled
- timm: features in one pass (float32, DataLoader with two workers), then scikit-learn's
  cross-validated logistic regression
- timm tuned: the same with the allocator tuned
- tutorial: the usual loop. The frozen network runs in each of 20 epochs on RandomResizedCrop and
  mirror images, batches of 32, Adam 0.001 on the head. One epoch of TUTORIAL images is measured and
  scaled to all images and epochs, plus one pass over the test part
- decoding, forward: the lower bound. All images are decoded and prepared by two threads; the same
  number of random images goes through the network on the fastest path, without hooks and pooling
- forward with taps: the same with all stages pooled to 1x1, 2x2 and 4x4
"""

# ruff: noqa: PLC0415 - imports are part of what is measured, and the allocator is tuned before

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

EPOCHS = 20
INSIDE = ("timm", "timm tuned", "tutorial", "decoding", "forward", "forward with taps")
VARIANTS = ("regraft", "regraft last", "filled", *INSIDE)


def network():
    """Return the frozen network as a plain torch module, and its backbone."""
    from regraft.backbones.registry import load_backbone

    backbone = load_backbone("embedded")
    return backbone.module.eval(), backbone


class Images:
    """A dataset for a torch DataLoader: files of class folders, with a transform."""

    def __init__(self, root: Path, transform, paths=None):
        self.paths = paths or sorted(p for p in root.rglob("*") if p.is_file())
        self.transform = transform
        names = sorted({p.parent.name for p in self.paths})
        self.labels = [names.index(p.parent.name) for p in self.paths]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        from PIL import Image

        image = self.transform(Image.open(self.paths[index]).convert("RGB"))
        return image, self.labels[index]


def transforms(backbone, *, train: bool):
    from regraft.core.torchvision_shim import load_functional

    load_functional()  # makes torchvision usable with this torch
    import torch
    from torchvision.transforms import v2 as t

    p = backbone.preprocess
    end = [t.ToImage(), t.ToDtype(torch.float32, scale=True), t.Normalize(p.mean, p.std)]
    if train:
        return t.Compose([t.RandomResizedCrop(p.image_size), t.RandomHorizontalFlip(), *end])
    bicubic = t.InterpolationMode.BICUBIC
    return t.Compose([t.Resize(p.resize_size, bicubic), t.CenterCrop(p.image_size), *end])


def divided(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return training and test images: every fifth image is a test image."""
    return [p for i, p in enumerate(paths) if i % 5], paths[::5]


def timm(root: Path, *, tuned: bool) -> dict:
    """Extract features in one pass, then fit a cross-validated logistic regression."""
    if tuned:
        from regraft.cli.tuning import tune_process

        tune_process()
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from torch.utils.data import DataLoader

    module, backbone = network()
    images = Images(root, transforms(backbone, train=False))
    loader = DataLoader(images, batch_size=64, num_workers=2)
    with torch.inference_mode():
        rows = [(module(x).numpy(), y.numpy()) for x, y in loader]
    x, y = (np.concatenate(part) for part in zip(*rows, strict=True))
    train, test = np.arange(len(y)) % 5 > 0, np.arange(len(y)) % 5 == 0
    head = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=10, cv=5, max_iter=1000, n_jobs=2, scoring="neg_log_loss",
            l1_ratios=(0,), use_legacy_attributes=False,
        ),
    )  # fmt: skip
    head.fit(x[train], y[train])
    right = head.predict(x[test]) == y[test]
    return {"n": len(y), "accuracy": float(right.mean()), "n_test": len(right)}


def tutorial(root: Path, count: int) -> dict:
    """Run one epoch of the usual loop on ``count`` images; the caller scales the seconds."""
    import torch
    from torch.utils.data import DataLoader

    module, backbone = network()
    paths = sorted(p for p in root.rglob("*") if p.is_file())
    train, test = divided(paths)
    some = train[:: max(1, len(train) // count)][:count]
    head = torch.nn.Linear(backbone.n_features, len({p.parent.name for p in paths}))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.001)
    images = Images(root, transforms(backbone, train=True), some)
    loader = DataLoader(images, batch_size=32, shuffle=True, num_workers=2)
    began = time.perf_counter()
    for x, y in loader:
        with torch.no_grad():
            features = module(x)
        loss = torch.nn.functional.cross_entropy(head(features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - began
    return {"n": len(some), "n_train": len(train), "n_test": len(test), "loop_seconds": seconds}


def decoding(root: Path) -> dict:
    """Decode and prepare all images in threads, as the extraction does, without a network."""
    from regraft.cli.tuning import tune_process

    tune_process()
    from regraft.backbones.registry import load_backbone
    from regraft.config.train_config import TrainConfig
    from regraft.data.scan import scan
    from regraft.images.ahead import render_ahead

    config = TrainConfig()
    samples = scan(str(root), config)
    preprocess = load_backbone("embedded").preprocess
    began = time.perf_counter()
    stream = samples.stream(range(len(samples)))
    for _ in render_ahead(stream, preprocess, os.cpu_count() or 1, config.max_pixels):
        pass
    return {"n": len(samples), "loop_seconds": time.perf_counter() - began}


def forward(count: int, *, taps: bool) -> dict:
    """Run the network on random pixels on its fastest path."""
    from regraft.cli.tuning import tune_process

    tune_process()
    import torch

    from regraft.backbones.registry import load_backbone
    from regraft.features.compute import choose_compute
    from regraft.features.taps import POOLED, Block, TapReader, row_blocks

    backbone = load_backbone("embedded")
    compute = choose_compute("cpu", "auto", 16)
    blocks = row_blocks(backbone) if taps else (Block(POOLED),)
    reader = TapReader(backbone, blocks, compute)
    side = backbone.preprocess.image_size
    x = torch.randint(0, 256, (16, 3, side, side), dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    reader(x)
    began = time.perf_counter()
    for _ in range(-(-count // 16)):
        reader(x)
    return {"n": -(-count // 16) * 16, "loop_seconds": time.perf_counter() - began}


def inside(name: str, root: Path, count: int, n_images: int) -> dict:
    if name.startswith("timm"):
        return timm(root, tuned=name.endswith("tuned"))
    if name == "tutorial":
        return tutorial(root, count)
    if name == "decoding":
        return decoding(root)
    return forward(n_images, taps=name.endswith("taps"))


def outside(name: str, root: Path, given, store: Path, n_images: int) -> dict:
    """Run one variant as a process; return its whole seconds and its figures."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if name in INSIDE:
            command = [sys.executable, __file__, str(root), "--inside", name]
            command += ["--tutorial", str(given.tutorial), "--images", str(n_images)]
        else:
            command = [sys.executable, "-m", "regraft", "train", str(root), "--out", str(out)]
            command += ["--taps", "last"] if name == "regraft last" else []
        place = store if name == "filled" else Path(folder) / "store"
        environment = {**os.environ, "REGRAFT_CACHE": str(place)}
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            sys.exit(done.stderr)
        if name in INSIDE:
            return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        return {
            "seconds": seconds,
            "n": sum(metrics["data"]["n"].values()),
            "extract_seconds": metrics["seconds"]["extract"],
            "accuracy": metrics["test"]["accuracy"]["value"],
            "n_test": metrics["test"]["n"],
        }


def unpacked(data: Path, folder: Path) -> Path:
    """Return a folder of the images, which all variants read."""
    if data.is_dir():
        return data
    with zipfile.ZipFile(data) as archive:
        archive.extractall(folder)
    tops = [p for p in folder.iterdir() if p.is_dir()]
    return tops[0] if len(tops) == 1 else folder


def summarise(runs: dict[str, list[dict]]) -> dict:
    """Return medians over rounds, and ratios."""
    seconds = {name: statistics.median(r["seconds"] for r in rows) for name, rows in runs.items()}
    summary: dict = {"seconds": {name: round(value, 2) for name, value in seconds.items()}}
    if "tutorial" in runs:
        # Seconds an image; all epochs over the training part, and the test part once.
        one = statistics.median(r["loop_seconds"] / r["n"] for r in runs["tutorial"])
        sizes = runs["tutorial"][0]
        seconds["tutorial"] = one * (EPOCHS * sizes["n_train"] + sizes["n_test"])
        summary["tutorial, scaled"] = round(seconds["tutorial"], 1)
    ours = seconds.get("regraft")
    if ours:
        others = ("tutorial", "timm", "timm tuned", "regraft last", "filled")
        summary["times"] = {n: round(seconds[n] / ours, 2) for n in others if n in seconds}
    if {"decoding", "forward", "regraft"} <= runs.keys():
        floor = sum(
            statistics.median(r["loop_seconds"] / r["n"] for r in runs[name])
            for name in ("decoding", "forward")
        )
        extraction = statistics.median(r["extract_seconds"] / r["n"] for r in runs["regraft"])
        summary["floor images/s"] = round(1 / floor, 1)
        summary["extraction images/s"] = round(1 / extraction, 1)
        summary["share of the floor"] = round(floor / extraction, 3)
    if {"forward", "forward with taps"} <= runs.keys():
        plain, taps = (
            statistics.median(r["loop_seconds"] / r["n"] for r in runs[name])
            for name in ("forward", "forward with taps")
        )
        summary["taps cost"] = round(taps / plain - 1, 4)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tutorial", type=int, default=800)
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--inside")
    parser.add_argument("--images", type=int, default=0)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(inside(given.inside, given.data, given.tutorial, given.images)))
        return
    wanted = [name for name in VARIANTS if name in given.only.split(",")]
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = unpacked(given.data, Path(folder) / "images")
        n_images = sum(p.is_file() for p in root.rglob("*"))
        store = Path(folder) / "filled"
        if "filled" in wanted:
            outside("filled", root, given, store, n_images)
        for number in range(given.rounds):
            for name in wanted:
                row = outside(name, root, given, store, n_images)
                runs.setdefault(name, []).append(row)
                print(json.dumps({"round": number, "variant": name, **row}), flush=True)
    print(json.dumps({"processor": platform.processor(), **summarise(runs)}))


if __name__ == "__main__":
    main()
