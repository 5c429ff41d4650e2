"""Hostile split.csv files: each ends in parts that are sound, or in an error with what to do."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attacks.watching import watched
from regraft.config.train_config import TrainConfig
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.errors import InputError
from regraft.splits.split import split
from regraft.splits.split_csv import write_split

if TYPE_CHECKING:
    from regraft.data.samples import Samples

CELLS = (
    "", "train", "val", "test", "TRAIN", "train ", "0", "../secret.png", "\0", "\u202e", "\x1b[2J",
    "rose", "x" * 5_000, "x" * 140_000, '"', '"a', "a,b", "a\nb", "f" * 64, "0" * 63, "F" * 64,
    "\ufeff", "=1+1", "e\u0301",
)  # fmt: skip


@cache
def good() -> tuple[Samples, str, Path]:
    """Return samples, the text of their split.csv, and a folder for hostile ones."""
    folder = Path(tempfile.mkdtemp(prefix="regraft-attack-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4), dtype=np.uint8)
    images[5] = images[4]  # a copy
    samples = scan((images, ["rose", "tulip", "daisy"] * 8), TrainConfig(workers=1))
    parts = split(samples, test_fraction=0.3, val_fraction=0.2, seed=0)
    write_split(folder / "good.csv", Dataset(samples, parts))
    split(samples, split_file=folder / "good.csv", test_fraction=0.3, seed=0)  # what it imports
    return samples, (folder / "good.csv").read_text(encoding="utf-8"), folder


def attack(seed: int, number: int) -> str:
    """Split by one hostile file."""
    chance = random.Random(f"split {seed} {number}")
    samples, text, folder = good()
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(chance.choice((1, 1, 2, 8))):
        row = chance.choice(rows)
        match chance.randrange(6):
            case 0 | 1 | 2 if row:
                row[chance.randrange(len(row))] = chance.choice(CELLS)
            case 3:
                row.append(chance.choice(CELLS))
            case 4:
                del row[chance.randrange(len(row) + 1) :]
            case 5:  # the same image twice, perhaps in two parts
                rows.insert(chance.randrange(len(rows) + 1), list(chance.choice(rows)))
    data = bytearray("\n".join(",".join(row) for row in rows).encode("utf-8"))
    if chance.random() < 0.2 and data:
        data[chance.randrange(len(data))] = chance.randrange(256)
    path = folder / "odd.csv"
    path.write_bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.1 else data)
    with watched(folder):
        return check(samples, path)


def check(samples: Samples, path: Path) -> str:
    """Split; return "parts" or the name of the typed error, and raise for anything else."""
    try:
        parts = split(samples, split_file=path, test_fraction=0.3, seed=0)
    except InputError as error:
        if len(str(error)) > 2_000:
            raise AssertionError(f"cannot be printed: {str(error)[:200]!r}") from error
        return type(error).__name__
    every = np.concatenate([parts.train, parts.val, parts.test, list(parts.left_out)])
    if sorted(every.astype(int).tolist()) != list(range(len(samples))):
        raise AssertionError("an image is in no part, or in two")
    of_content: dict[bytes, set[str]] = {}
    for name in ("train", "val", "test"):
        for index in getattr(parts, name):
            of_content.setdefault(samples.hashes[index], set()).add(name)
    if any(len(names) > 1 for names in of_content.values()):
        raise AssertionError("copies are in two parts")
    if any(len(note) > 2_000 for note in parts.notes):
        raise AssertionError("a note cannot be printed")
    return "parts"
