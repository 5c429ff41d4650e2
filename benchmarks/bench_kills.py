"""Does a killed extraction finish with the rows of an undisturbed one?

    python benchmarks/bench_kills.py [DATA [KILLS]]

Runs `regraft train DATA` undisturbed, then again into an empty store, killed (-9) at KILLS random
moments of the extraction, always the same command, and at last to its end. Prints how many rows
each kill left, and whether all rows and all metrics are equal to the bit. POSIX only.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lmdb


def start(data: str, out: Path, store: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "regraft", "train", data, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "REGRAFT_CACHE": str(store)},
    )


def rows(store: Path) -> dict[bytes, bytes]:
    """Read all rows in a process of its own: one that was killed may still hold the lock here."""
    if not (store / "data.mdb").exists():
        return {}
    with lmdb.open(str(store), max_dbs=2, map_size=2**34, readonly=True, lock=False) as environment:
        try:
            table = environment.open_db(b"rows", create=False)
        except lmdb.NotFoundError:
            return {}
        with environment.begin() as transaction:
            return {bytes(k): bytes(v) for k, v in transaction.cursor(db=table)}


def measured(out: Path) -> dict:
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return {key: metrics[key] for key in ("test", "head", "baselines")}


def main() -> None:
    data, kills = (*sys.argv[1:], "digits", "20")[:2] if len(sys.argv) < 3 else sys.argv[1:3]
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        undisturbed = start(data, place / "a", place / "store-a")
        began = None
        for line in undisturbed.stderr:
            if began is None and "extract" in line:
                began = time.perf_counter()
        if undisturbed.wait():
            sys.exit("the undisturbed run failed")
        extraction = json.loads((place / "a" / "metrics.json").read_text())["seconds"]["extract"]
        left = []
        while len(left) < int(kills):
            process = start(data, place / "b", place / "store-b")
            for line in process.stderr:
                if "extract" in line:
                    break
            # Each run starts where the last one was killed: moments of what is left.
            time.sleep(chance.uniform(0, extraction / int(kills) * 1.5))
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break
            left.append(len(rows(place / "store-b")))
        last = start(data, place / "b", place / "store-b")
        _, errors = last.communicate()
        if last.returncode:
            sys.exit(errors)
        equal = rows(place / "store-a") == rows(place / "store-b")
        result = {
            "data": data,
            "kills": len(left),
            "rows after each kill": left,
            "rows in the end": len(rows(place / "store-b")),
            "rows equal to the bit": equal,
            "metrics equal to the last digit": measured(place / "a") == measured(place / "b"),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
