"""Does a fine-tuning that is killed at random moments end in the same bits?

    python benchmarks/bench_resume.py [DATA [RUNS [SEED]]]

Trains undisturbed, then RUNS times: each run is killed (-9) at a random moment and continues with
`--resume`, with 1, 2 and 3 decoding threads in turn; half of the resumed runs are killed again. At
the end, bundle, predictions and history are compared with those of the undisturbed run. A run that
ends before its first kill is not counted. Augmentation, dropout, mixup, averaging and a checkpoint
every second are on. Without DATA, it draws textures. POSIX only: all runs are forked from one
process that has imported everything.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = (
    *("--strategy", "finetune", "--unfreeze", "1", "--epochs", "3", "--taps", "last"),
    *("--image-size", "64", "-b", "8", "--augment", "strong", "--dropout", "0.2", "--mixup", "0.2"),
    *("--ema", "0.9", "--bn", "train", "--save-every", "1", "--lr", "0.002"),
    *("--start", "random-head"),  # the probe has no errors here: nothing would change
)


def paint(folder: Path) -> Path:
    chance = np.random.default_rng(0)
    for name, pace in (("fine", 40), ("medium", 25), ("wide", 12)):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            waves = np.sin(np.arange(48) / 48 * pace + chance.uniform(0, 6))
            noise = chance.normal(0, 60, (48, 48, 3))
            picture = (128 + 40 * waves[:, None, None] + noise).clip(0, 255)
            Image.fromarray(picture.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def start(words: list[str], told: Path) -> int:
    """Fork a run; its stderr goes to a file."""
    number = os.fork()
    if number == 0:
        from regraft.cli import main as cli  # noqa: PLC0415

        descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = error.code
        os._exit(code)
    return number


def ended(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def result(out: Path) -> tuple:
    with (out / "history.csv").open(encoding="utf-8", newline="") as file:
        history = [{k: row[k] for k in row if "second" not in k} for row in csv.DictReader(file)]
    names = ("bundle/network-1.safetensors", "bundle/head.safetensors", "predictions.csv")
    return history, [(out / name).read_bytes() for name in names]


def main() -> None:
    given = sys.argv[1:]
    runs = int(given[1]) if len(given) > 1 else 50
    chance = random.Random(int(given[2]) if len(given) > 2 else 0)
    # Import once for all runs; an import starts no thread.
    from regraft.backbones import registry  # noqa: PLC0415
    from regraft.commands import train  # noqa: F401, PLC0415
    from regraft.finetune import train as _  # noqa: F401, PLC0415

    registry.resolve("minivgg")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = given[0] if given and given[0] else str(paint(folder / "data"))
        os.environ["REGRAFT_CACHE"] = str(folder / "store")
        whole, out, told = folder / "whole", folder / "out", folder / "told"
        words = ["train", data, *WORDS]
        if ended(start([*words, "--out", str(whole)], told)):
            sys.exit(told.read_text(encoding="utf-8"))
        began = time.monotonic()
        if ended(start([*words, "--out", str(folder / "again")], told)):
            sys.exit(told.read_text(encoding="utf-8"))
        seconds = time.monotonic() - began
        expected = result(whole)
        if result(folder / "again") != expected:
            sys.exit("two undisturbed runs differ")
        kills, completed, equal, saves, starts, hurt = 0, 0, 0, 0, 0, False
        while completed < runs:
            starts += 1
            more = ["--resume", "--out", str(out), "--workers", str(1 + starts % 3)]
            number = start([*words, *more], told)
            if not hurt or chance.random() < 0.5:
                time.sleep(chance.uniform(0, seconds))
                os.kill(number, signal.SIGKILL)
            code = ended(number)
            if code == -signal.SIGKILL:
                hurt, kills = True, kills + 1
                saves += out.with_name("out.checkpoints").exists()
            elif code:
                sys.exit(told.read_text(encoding="utf-8"))
            if (out / "metrics.json").exists():
                completed += hurt
                equal += hurt and result(out) == expected
                hurt = False
                shutil.rmtree(out)
        print(
            json.dumps(
                {
                    "data": data if given and given[0] else "painted",
                    "seconds of a run": round(seconds, 1),
                    "best epoch": json.loads((whole / "metrics.json").read_text())["head"][
                        "best_epoch"
                    ],
                    "kills": kills,
                    "kills that left checkpoints": saves,
                    "runs killed and resumed": completed,
                    "of them equal to the bit": equal,
                }
            )
        )


if __name__ == "__main__":
    main()
