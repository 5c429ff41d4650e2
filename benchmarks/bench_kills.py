"""Does a killed extraction end with the same rows as an undisturbed one?

    python benchmarks/bench_kills.py [DATA [KILLS]]

Runs `regraft train DATA --taps last` undisturbed. Then runs the same command with an empty store,
kills it (-9) at KILLS (200) random moments of the extraction (seed 0), and finally runs it to its
end. A run that ends before it is killed is not counted; a full store is emptied. Prints one line:
kills, and whether all rows and all metrics are equal to the bit. POSIX only.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path


def start(data: str, out: Path, store: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "regraft", "train", data, "--taps", "last"),
            *("--out", str(out), "--overwrite"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "REGRAFT_CACHE": str(store)},
    )


def rows(store: Path) -> dict[bytes, bytes]:
    """Read all rows, after the rollback that may be necessary after a kill."""
    found: dict[bytes, bytes] = {}
    for file in store.glob("features-*.sqlite"):
        with closing(sqlite3.connect(file)) as connection:
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                found.update(connection.execute("SELECT key, data FROM keys JOIN rows USING (id)"))
    return found


def measured(out: Path) -> dict:
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return {key: metrics[key] for key in ("test", "head", "baselines")}


def finish(process: subprocess.Popen) -> str:
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(errors)
    return errors


def killed(process: subprocess.Popen, seconds: float) -> bool:
    """Kill a run some time after its extraction began; return False if it ended before that."""
    for line in process.stderr:
        if "extract" in line:
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.stderr.close()
    return process.wait() == -signal.SIGKILL


def main() -> None:
    data, wanted = (*sys.argv[1:], *("digits", "200")[len(sys.argv) - 1 :])
    chance, kills, finished, warned = random.Random(0), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        finish(start(data, place / "a", place / "store-a"))
        seconds = json.loads((place / "a" / "metrics.json").read_text())["seconds"]["extract"]
        expected = rows(place / "store-a")
        wrong = 0
        while kills < int(wanted):
            # Kill some in their first commit, and some near their end before the store is full.
            if killed(start(data, place / "b", place / "store-b"), chance.uniform(0, seconds / 5)):
                kills += 1
            else:
                finished += 1
            left = rows(place / "store-b")
            wrong += any(expected.get(key) != row for key, row in left.items())
            if len(left) == len(expected):
                shutil.rmtree(place / "store-b")
        warned += "warning" in finish(start(data, place / "b", place / "store-b"))
        result = {
            "data": data,
            "kills": kills,
            "runs that finished": finished,
            "stores with a wrong row": wrong,
            "warnings of the last run": warned,
            "rows equal to the bit": expected == rows(place / "store-b"),
            "metrics equal to the last digit": measured(place / "a") == measured(place / "b"),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
