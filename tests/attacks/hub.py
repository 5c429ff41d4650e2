"""Hostile Parquet files of images: each ends in samples, or in an error that can be printed."""

from __future__ import annotations

import atexit
import json
import random
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from attacks.archives import check_bytes, check_names, images
from attacks.tables import CELLS
from attacks.watching import tree_hash, watched
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.data.sources.hub_tables import choose_tables, open_tables
from regraft.errors import DataError
from stand_ins import STRUCT, parquet

CONFIG = TrainConfig(workers=1)
TABLES = choose_tables("hf:a/b", ["train.parquet"], None)
CLASS = {"_type": "ClassLabel", "names": ["rose", "tulip"]}


def hostile(chance: random.Random, secret: Path) -> bytes:
    """Return a file with odd columns, odd metadata or damage."""
    rows: list[Any] = [{"bytes": images()[n], "path": f"{n}.png"} for n in range(8)]
    labels: list[Any] = [0, 1] * 4
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": CLASS}
    names = ["image", "label"]
    match chance.randrange(10):
        case 0:
            paths = (str(secret), "../secret.png", "\0")
            odd = [None, *({"bytes": None, "path": each} for each in paths)]
            rows[chance.randrange(8)] = chance.choice(odd)
        case 1:
            labels = chance.choice((
                [2**62, -(2**62)] * 4, [0.5] * 8, [None, 1] * 4, [[0]] * 8, [b"a"] * 8,
                [True] * 8, ["a", chance.choice(CELLS)] * 4))  # fmt: skip
        case 2:
            odd = [[], ["a"], [chance.choice(CELLS)] * 2, [1, None], {"0": "a"}, "ab", 7]
            features["label"] = {**CLASS, "names": chance.choice(odd)}
        case 3:
            features = chance.choice(({}, {"image": None}, {"label": []}, {"other": CLASS}))
        case 4:
            names = [chance.choice((*CELLS, "a.b", "label", "image")) for _ in names]
        case 5:
            rows = chance.choice(([b"x"] * 8, [images()[0]] * 8, ["x"] * 8, [1] * 8))
    column = pa.array(rows, STRUCT) if isinstance(rows[-1], dict) else pa.array(rows)
    columns = dict(zip(names, (column, labels), strict=True))
    data = parquet(columns, features, chance.choice((1, 3, 100)))
    return _damage(data, chance)


def _damage(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    match chance.randrange(4):
        case 0:  # often in the metadata at the end
            for _ in range(chance.choice((1, 2, 8))):
                first = chance.choice((0, max(0, len(data) - 900)))
                changed[chance.randrange(first, len(data))] = chance.randrange(256)
        case 1:
            del changed[chance.randrange(len(data)) :]
    return bytes(changed)


@cache
def _folders() -> tuple[Path, Path]:
    """Return the folder of the files, and the folder around it, which must not change."""
    around = Path(tempfile.mkdtemp(prefix="regraft-attack-")).resolve()
    atexit.register(shutil.rmtree, around, ignore_errors=True)
    (around / "work").mkdir()
    (around / "secret.png").write_bytes(images()[39])
    return around / "work", around


def attack(seed: int, number: int) -> str:
    """Read one hostile file, and check that it did nothing else."""
    chance = random.Random(f"hub {seed} {number}")
    folder, around = _folders()
    path = folder / "train.parquet"
    try:
        path.write_bytes(hostile(chance, around / "secret.png"))
    except (pa.ArrowException, TypeError, ValueError, json.JSONDecodeError):
        return "cannot be written"
    before = tree_hash(around)
    with watched(folder):
        outcome = check(folder)
    if tree_hash(around) != before:
        raise AssertionError("the tree around the file has changed")
    return outcome


def check(folder: Path) -> str:
    """Scan; return "samples" or "DataError", and raise for anything else."""
    try:
        source = open_tables("hf:a/b", folder, TABLES, None)
        samples = scan(source, CONFIG)  # type: ignore[arg-type]
    except DataError as error:
        if re.search("[\0\x1b\u202e]", error.message) or len(str(error)) > 40_000:
            raise AssertionError(f"cannot be printed: {str(error)[:200]!r}") from error
        return "DataError"
    check_names(samples.ids, samples.classes, samples.ledger)
    check_bytes(samples)
    if images()[39] in [load() for _, load in samples.stream(range(len(samples)))]:
        raise AssertionError("a file was read that has nothing to do with the data")
    return "samples"
