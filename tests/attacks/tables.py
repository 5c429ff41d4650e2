"""Hostile tables: each ends in samples from below its folder, or in an error that names the row."""

from __future__ import annotations

import atexit
import io
import os
import random
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attacks.archives import check_bytes, check_names, images
from attacks.watching import tree_hash, watched
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.errors import DataError, TableError

CONFIG = TrainConfig(workers=1)
GOOD = tuple((f"{label}/{n}.png", label) for n, label in enumerate(("rose", "tulip") * 4))

CELLS = (
    "", " ", "\0", "rose\0.png", "../secret.png", "rose/../../secret.png", "/etc/passwd",
    "/dev/zero", "C:\\secret.png", "C:secret.png", "\\\\server\\share\\1.png", "//server/1.png",
    "rose\\0.png", "rose//0.png", "./rose/0.png", "rose/0.png/", "rose", ".", "..", "/", "~/1.png",
    "rose/link.png", "rose/pipe.png", "rose/gone.png", "deep/../rose/0.png", "a\nb", "a\rb",
    "\x1b[2J", "\u202e", "\ufeff", "\u00e9", "e\u0301", "x" * 5_000, "x" * 140_000, "rose,tulip",
    '"', '""', '"a', "a;b", "a\tb", "nan", "None", "1e309", "-0", "train", "test", "TRAIN", "0",
    "=cmd|' /C calc'!A0", "http://example.org/1.png", "file:///etc/passwd", "rose/" * 900 + "1.png",
)  # fmt: skip
HEADERS = (
    "path,label", "label,path", "path,label,split", "path,label,split,group", "PATH;Label",
    "path\tlabel", "file,class", "path,path,label", "path,file,label", "path", "label", "", "a,b",
    "path,label,label", '"path","label"', "\ufeffpath,label", " path , label ", "path,label,",
)  # fmt: skip
#: Errors of the whole table; all others must name a row.
WHOLE = re.compile(
    "is empty|has no column|columns that could be|is not UTF-8|has no usable row|one class only|"
    "no name that can be seen|name several classes|"
    "cannot be read|images (?:is|are) refused|all images of|is in no part|are in no part|"
    "no training image"
)


def hostile_csv(chance: random.Random) -> bytes:
    """Return a CSV with odd cells, rows, quotes or bytes."""
    header = "path,label" if chance.random() < 0.6 else chance.choice(HEADERS)
    separator = next((one for one in ";\t" if one in header), ",")
    n_columns = header.count(separator) + 1
    rows = []
    for path, label in GOOD:
        cells = [path, label, chance.choice(("train", "test", "val", "")), label[0]]
        if header.startswith("label"):
            cells[:2] = label, path
        rows.append((cells + [""] * n_columns)[:n_columns])
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        row = chance.choice(rows)
        match chance.randrange(8):
            case 0 | 1 | 2 | 3:
                row[chance.randrange(len(row))] = chance.choice(CELLS)
            case 4:
                row.append(chance.choice(CELLS))
            case 5:
                del row[chance.randrange(len(row)) :]
            case 6:  # the same image again, perhaps with another label
                rows.insert(chance.randrange(len(rows)), [*chance.choice(rows)[:1], *row[1:]])
            case 7:
                rows.insert(chance.randrange(len(rows)), [])
        rows = [row or [""] for row in rows]
    quote = chance.choice((lambda cell: cell, _quoted, _quoted))
    end = chance.choice(("\n", "\n", "\r\n", "\r"))
    lines = [header, *(separator.join(quote(cell) for cell in row) for row in rows)]
    text = end.join(lines) + chance.choice(("", end, end * 3, '"', ",", "\0"))
    data = text.encode(chance.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")),
                       "replace")  # fmt: skip
    return _damage(data, chance)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search('[,;"\\s]', cell) else cell


def hostile_parquet(chance: random.Random) -> bytes:
    """Return a Parquet file with odd columns, or with damage."""
    paths = [path for path, _ in GOOD]
    labels = [label for _, label in GOOD]
    columns = {"path": pa.array(paths), "label": pa.array(labels)}
    match chance.randrange(9):
        case 0:
            columns["label"] = pa.array(chance.choice((
                [0, 1] * 4, [0.5] * 8, [None, "a"] * 4, [True, False] * 4, [["a"]] * 8, [b"a"] * 8,
                [{"a": 1}] * 8, [2**63 - 1, 0] * 4, [float("nan"), 1.0] * 4)))  # fmt: skip
        case 1:
            columns["path"] = pa.array(chance.choice(([1] * 8, [None] * 8, [b"rose/0.png"] * 8)))
        case 2:
            columns["split"] = pa.array([chance.choice(CELLS) for _ in paths])
        case 3:
            columns["group"] = pa.array([chance.choice((None, "a", 1, "\0")) for _ in range(1)] * 8)
        case 4:
            paths[chance.randrange(8)] = chance.choice(CELLS)
            columns["path"] = pa.array(paths)
        case 5:
            labels[chance.randrange(8)] = chance.choice(CELLS)
            columns["label"] = pa.array(labels).dictionary_encode()
        case 6:
            columns = {chance.choice(("a", "path", "label")): columns["path"]}
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, row_group_size=chance.choice((1, 3, 100)),
                   compression=chance.choice(("none", "snappy", "gzip")))  # fmt: skip
    return _damage(stream.getvalue(), chance)


def _damage(data: bytes, chance: random.Random) -> bytes:
    match chance.randrange(8):
        case 0:
            changed = bytearray(data)
            for _ in range(chance.choice((1, 2, 8))):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            return bytes(changed)
        case 1:
            return data[: chance.randrange(len(data))]
        case _:
            return data


@cache
def _folders() -> tuple[Path, Path]:
    """Return the folder of the tables, and the folder around it, which must not change."""
    around = Path(tempfile.mkdtemp(prefix="regraft-attack-")).resolve()
    atexit.register(shutil.rmtree, around, ignore_errors=True)
    folder = around / "work"
    for n, (name, label) in enumerate(GOOD):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(images()[n])
    (around / "secret.png").write_bytes(images()[39])
    if os.name != "nt":
        (folder / "rose" / "link.png").symlink_to(around / "secret.png")
        os.mkfifo(folder / "rose" / "pipe.png")
    return folder, around


def attack(seed: int, number: int) -> str:
    """Read one hostile table, and check that it did nothing else."""
    chance = random.Random(f"table {seed} {number}")
    folder, around = _folders()
    make, name = hostile_csv, "odd.csv"
    if chance.random() < 0.2:
        make, name = hostile_parquet, "odd.parquet"
    path = folder / name
    path.write_bytes(make(chance))
    before = tree_hash(around)
    with watched(folder):
        outcome = check(path)
    if tree_hash(around) != before:
        raise AssertionError("the tree around the table has changed")
    path.unlink()
    return outcome


def check(path: Path) -> str:
    """Scan; return "samples" or the name of the typed error, and raise for anything else."""
    try:
        samples = scan(path, CONFIG)
    except DataError as error:
        if not re.search(r"\brow \d+", error.message) and not WHOLE.search(error.message):
            raise AssertionError(f"names no row: {error}") from error
        if re.search("[\0\x1b\u202e]", str(error)) or len(str(error)) > 40_000:
            raise AssertionError(f"cannot be printed: {str(error)[:200]!r}") from error
        return "TableError" if isinstance(error, TableError) else "DataError"
    check_names(samples.ids, samples.classes, samples.ledger)
    check_bytes(samples)
    return "samples"
