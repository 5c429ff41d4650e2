"""Do exported files answer as the bundle does, how large are they, and how fast?

    python benchmarks/bench_export.py agree RUN... [--weights none,float16,int8]
    python benchmarks/bench_export.py speed RUN [--rounds 5] --image FILE

``agree`` exports each run with each kind of weights into a temporary folder, with resizing in the
graph beside it, and prints what its proof measured on the run's own test images. ``speed`` compares
the predictor in float32 with onnxruntime, in turns: images a second in batches of 16 and one by
one, of squares that are rendered already, and the processor-seconds of one answer from the shell.
Prints Markdown; quote medians of a machine where nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.cli.tuning import tune_process

tune_process()

import numpy as np  # noqa: E402 - after the process was tuned
import torch  # noqa: E402

import regraft  # noqa: E402
from regraft.bundle.exported import ExportedPredictor  # noqa: E402
from regraft.exports.onnx_file import example_pixels  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print()


def agree(given: argparse.Namespace) -> None:
    """Print what the proofs of some exports measured."""
    head = (
        "run", "weights", "MB", "gzip MB", "images", "largest difference", "labels differ",
        "decisions differ", "accuracy", "difference (95 %)", "largest with resizing",
    )  # fmt: skip
    table(head, (_agreed(run, each) for run in given.runs for each in given.weights))


def _agreed(run: Path, quantize: str) -> list[object]:
    with tempfile.TemporaryDirectory() as work:
        place = Path(work, "out")
        try:
            found = regraft.export(run, out=place, quantize=quantize, with_resize=True)
        except regraft.RegraftError as error:
            return [run.name, quantize, *[""] * 8, str(error)]
        model = place / "model.onnx"
        size, packed = model.stat().st_size, _packed(model)
    parity: dict[str, Any] = found["parity"]
    accuracy = parity["accuracy"] or dict.fromkeys(("exported", "difference", "low", "high"), 0.0)
    decisions = parity["decisions"]["differ"] if parity["decisions"] else {}
    interval = "{difference:+.4f} ({low:+.4f} to {high:+.4f})".format(**accuracy)
    return [
        run.name, quantize, f"{size / 1e6:.1f}", f"{packed / 1e6:.1f}", parity["n"],
        f"{parity['largest']:.2g}", parity["labels"]["differ"],
        ", ".join(f"{name} {n}" for name, n in decisions.items()),
        f"{accuracy['exported']:.4f}", interval, f"{parity['with_resize']['largest']:.2g}",
    ]  # fmt: skip


def _packed(path: Path) -> int:
    import zlib  # noqa: PLC0415

    return len(zlib.compress(path.read_bytes(), 9))


def speed(given: argparse.Namespace) -> None:
    """Print rates of the predictor and of onnxruntime, measured in turns."""
    (run,) = given.runs
    predictor = regraft.Predictor.load(run, precision="float32")
    exported = ExportedPredictor.load(run, threads=torch.get_num_threads())
    rows = []
    for count in (16, 1):
        squares = [torch.cat([each] * 8)[:count] for each in example_pixels(predictor.model)]
        arrays = [each.numpy() for each in squares]
        names = [each["name"] for each in exported.meta["inputs"]]
        fed = dict(zip(names, arrays, strict=True))
        works: dict[str, Callable[[], object]] = {
            "torch": lambda s=squares: predictor.model.probabilities(predictor.read(s)[0]),
            "onnxruntime": lambda f=fed: exported._session.run(["probabilities"], f),  # noqa: SLF001
        }
        rates = _in_turns(works, count, given.rounds)
        ratios = np.array(rates["onnxruntime"]) / np.array(rates["torch"])
        rows.append(
            [count, *(f"{statistics.median(each):.1f}" for each in rates.values()),
             f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"]
        )  # fmt: skip
    threads = torch.get_num_threads()
    print(f"{threads} threads, load {os.getloadavg()[0]:.1f}\n")
    table(("images at once", "torch, images/s", "onnxruntime, images/s", "ratio (range)"), rows)
    _shell(run, given)


def _in_turns(
    works: dict[str, Callable[[], object]], count: int, rounds: int
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in works}
    repeats = max(3, 48 // count)
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            for _ in range(repeats):
                work()
            rates[name].append(count * repeats / (time.perf_counter() - began))
    return rates


def _shell(run: Path, given: argparse.Namespace) -> None:
    """Print the processor-seconds and the seconds of one answer from the shell."""
    regraft_command = [sys.executable, "-m", "regraft", "predict", str(run), str(given.image)]
    commands = {
        "regraft predict": regraft_command,
        "regraft predict --engine onnx": [*regraft_command, "--engine", "onnx"],
        "python predict.py": [
            sys.executable, str(run / "export" / "onnx" / "predict.py"), str(given.image),
        ],
    }  # fmt: skip
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(given.rounds):
        for name, words in commands.items():
            before, began = _used(), time.perf_counter()
            subprocess.run(words, check=True, capture_output=True)
            seconds[name].append((_used() - before, time.perf_counter() - began))
    rows = [
        [name, *(f"{statistics.median(each):.2f}" for each in zip(*found, strict=True))]
        for name, found in seconds.items()
    ]
    table(("one image", "processor-seconds", "seconds"), rows)


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=["agree", "speed"])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument(
        "--weights", type=lambda text: text.split(","), default=["none", "float16", "int8"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", type=Path, help="for speed: an image file")
    given = parser.parse_args()
    (agree if given.part == "agree" else speed)(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
