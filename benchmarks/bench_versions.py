"""Do two versions of the code give the same figures, and can the later read the earlier's files?

    python benchmarks/bench_versions.py EARLIER_CHECKOUT [DATA...]

For each DATA (default: digits), both versions train, each with its own store, and the script
compares metrics.json (except seconds), predictions.csv, split.csv and ledger.json. Then the later
code trains again with the earlier store, which must extract nothing, and predicts from the earlier
bundle. At last, a fine-tuning that the earlier code began and a signal stopped is resumed by both,
and must end in the same bits. Prints one line for each check; exit code 1 if one fails.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LATER = Path(__file__).parent.parent / "src"
EXPLICIT = ["--workers", "2", "--memory", "4"]
FINETUNE = [
    *("--strategy", "finetune", "--unfreeze", "2", "--epochs", "4", "--image-size", "32"),
    *("--save-every", "1", *EXPLICIT),
]
#: Entries of metrics.json that differ between any two runs, or name the version.
TIMED = {"seconds", "images_per_second", "regraft", "notes"}


class Checks:
    """A counter of failed checks."""

    def __init__(self):
        self.failed = 0

    def add(self, name, good):
        """Print a check, and count it if it failed."""
        self.failed += not good
        print(f"{'same' if good else 'DIFFERS'}: {name}", flush=True)


def regraft(source, words, store, **options):
    environment = {**os.environ, "PYTHONPATH": str(source), "REGRAFT_CACHE": str(store)}
    command = [sys.executable, "-m", "regraft", *map(str, words)]
    return subprocess.Popen(command, env=environment, **options)


def run(source, words, store):
    """Run a command to its end; return its output."""
    process = regraft(
        source, words, store, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{source}: regraft {' '.join(map(str, words))}\n{err}")
    return out


def untimed(value):
    if isinstance(value, dict):
        return {name: untimed(each) for name, each in value.items() if name not in TIMED}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def differences(one, other, path=""):
    """Yield the paths of entries that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{path}/{name}")
    elif one != other:
        yield f"{path}: {str(one)[:200]} and {str(other)[:200]}"


def metrics(folder):
    return untimed(json.loads((folder / "metrics.json").read_text()))


def contents(folder):
    """Return the bytes of a bundle's files by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def compare_probes(checks, earlier, data, work):
    name = Path(data).stem
    old, new, again = work / f"{name}-old", work / f"{name}-new", work / f"{name}-again"
    run(earlier, ["train", data, "--out", old, *EXPLICIT], work / "store-old")
    run(LATER, ["train", data, "--out", new, *EXPLICIT], work / "store-new")
    checks.add(f"{name}: metrics.json, to the last digit", metrics(old) == metrics(new))
    for line in differences(metrics(old), metrics(new)):
        print(f"  {line}")
    for file in ("predictions.csv", "split.csv", "ledger.json", "config.yaml"):
        same = (old / file).read_bytes() == (new / file).read_bytes()
        checks.add(f"{name}: {file}, byte by byte", same)
    checks.add(
        f"{name}: the bundle, byte by byte", contents(old / "bundle") == contents(new / "bundle")
    )
    run(LATER, ["train", data, "--out", again, *EXPLICIT], work / "store-old")
    features = metrics(again)["features"]
    checks.add(f"{name}: the earlier store is read ({features})", features["extracted"] == 0)
    pictures = [old / name for name in ("predictions.png", "confusion.png")]
    words = ["predict", old, *pictures, "--json", "--topk", "5"]
    answers = [run(source, words, work / "store-old") for source in (earlier, LATER)]
    checks.add(f"{name}: predictions from the earlier bundle, to the bit", len(set(answers)) == 1)


def compare_resumes(checks, earlier, data, work):
    """Stop a training of the earlier code in its third epoch; continue it with both."""
    begun = work / "begun"
    words = ["train", data, *FINETUNE]
    process = regraft(
        earlier, [*words, "--out", begun], work / "store-old",
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            time.sleep(1.0)
            process.send_signal(signal.SIGTERM)
            break
    process.communicate()
    ends = []
    for name, source in (("old", earlier), ("new", LATER)):
        out = work / name / "begun"
        out.parent.mkdir()
        shutil.copytree(work / "begun.checkpoints", work / name / "begun.checkpoints")
        run(source, [*words, "--resume", "--out", out], work / "store-old")
        ends.append(
            (contents(out / "bundle"), metrics(out)["test"], (out / "predictions.csv").read_bytes())
        )
    checks.add(
        "a stopped fine-tuning, resumed by both: bundle, figures, predictions", ends[0] == ends[1]
    )


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    earlier, data = Path(sys.argv[1]).resolve() / "src", sys.argv[2:] or ["digits"]
    checks = Checks()
    with tempfile.TemporaryDirectory() as place:
        for each in data:
            compare_probes(checks, earlier, each, Path(place))
        compare_resumes(checks, earlier, data[0], Path(place))
    sys.exit(bool(checks.failed))


if __name__ == "__main__":
    main()
