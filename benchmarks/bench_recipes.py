"""How accurate are the recipes, compared with the probe of all stages on the same images?

    python benchmarks/bench_recipes.py RESULTS.jsonl --data-root FOLDER
        --data flowers-recognition=flowers.zip --data cifar10=cifar10.zip
        [--recipes a,b] [--seeds 0,1,2] [--model embedded] [--set epochs=3] [--images 10000]
        [--estimate | --table]

Trains each recipe twice for each seed: unchanged, and as a probe of all stages with the same
network and size. Writes one JSON line for each run, so that the same command continues after a
stop. A job that two recipes share is run once. First, a small part of each job is run, and the time
of all jobs is estimated (--estimate ends there). --model replaces networks whose weights have to be
downloaded (`own` keeps them); this and all other differences from the recipe are in the row under
`overrides`. MNIST's runs are also tested on QMNIST and on scikit-learn's digits, if they are
available. --set NAME=VALUE applies to all tutorials' jobs, --set RECIPE.NAME=VALUE to one. --images
is the number of training images; if the data have a test part, all of it is used. At the end, or
with --table alone, prints the table of docs/tutorials.md, and a line for `measured:` of each
recipe.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from regraft.commands.evaluate import evaluate
from regraft.commands.train import train
from regraft.config.recipe import read_recipe, recipe_names
from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import from_yaml, to_yaml
from regraft.core.reporter import Reporter
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import RegraftError

HERE = Path(__file__).parent
TUTORIAL, PROBE = KINDS = ("the tutorial's job", "the probe of all stages")
SMALL = 200  # images for training, and as many for testing, to estimate the time
SHARED = ("weights", "image_size", "test_fraction", "group_by", "class_weight")
#: For stages of networks that are replaced: the number of last stages.
STAGES = {"layer4": "1"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--recipes")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--images", type=int)
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a job as JSON, in a separate process
    return parser.parse_args()


# --- which jobs there are ---------------------------------------------------------------------


def jobs(options: argparse.Namespace) -> list[dict]:
    """Return a job for each recipe, kind and seed."""
    places = dict(each.split("=", 1) for each in options.data)
    found = []
    for name in options.recipes.split(",") if options.recipes else recipe_names():
        recipe = read_recipe(name)
        key = recipe.data.rpartition("/")[2] or name
        data = places.get(key, "" if ":" in recipe.data else recipe.data)
        if not data:
            print(f"{name}: left out, without --data {key}=PATH")
            continue
        settings = changes(options, name)
        if recipe.config.model.startswith("torchvision/") and options.model != "own":
            settings = {"model": options.model, **settings}
            if recipe.config.unfreeze in STAGES:
                settings = {"unfreeze": STAGES[recipe.config.unfreeze], **settings}
        text = "\n".join(f"{key}: {value}" for key, value in settings.items())
        config = from_yaml(text, "--set", recipe.config)
        common = {key: getattr(config, key) for key in SHARED}
        model = config.model
        if config.strategy == "scratch":  # a probe of random weights makes no sense
            model = "embedded" if options.model == "own" else options.model
            common["image_size"] = "auto"
        probe = TrainConfig(model=model, **common)
        shared = {
            "recipe": name, "data": data, "data_root": str(options.data_root or ""),
            "images": options.images, "small": False, "deploy": recipe.data == "mnist",
            "overrides": settings,
        }  # fmt: skip
        for seed in map(int, options.seeds.split(",")):
            for kind, chosen in zip(KINDS, (config, probe), strict=True):
                job = {**shared, "kind": kind, "seed": seed, "config": to_yaml(chosen)}
                found.append({**job, "key": key_of(job)})
    return found


def changes(options: argparse.Namespace, recipe: str) -> dict[str, str]:
    """Return the --set values of a recipe; those with its name override those without a name."""
    given = [each.split("=", 1) for each in options.set]
    here = {name.partition(".")[2]: value for name, value in given
            if name.partition(".")[0] == recipe}  # fmt: skip
    return {name: value for name, value in given if "." not in name} | here


def key_of(job: dict) -> str:
    """Return a name of a job from everything that affects its result."""
    decides = [job[name] for name in ("data", "images", "small", "seed", "config")]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


# --- one job, in a separate process -----------------------------------------------------------


class Printer(Reporter):
    """Print on stderr: stdout is for the row."""

    def say(self, line: str) -> None:
        """Print one line."""
        print(line, file=sys.stderr, flush=True)


def run_one(job: dict, store: Path) -> dict:
    """Train and measure; return the figures."""
    root = Path(job["data_root"]) if job["data_root"] else None
    config = from_yaml(job["config"]).replace(data_root=root, cache_dir=store, seed=job["seed"])
    source = some(open_source(job["data"], SourceOptions(root, config.group_by)), job)
    with tempfile.TemporaryDirectory() as folder:
        run = train(source, config.replace(out=Path(folder) / "run"), Printer())
        row = {key: run.metrics[key] for key in ("features", "seconds", "compute", "regraft")}
        row |= {"n": run.metrics["data"]["n"], "image_size": run.metrics["backbone"]["image_size"]}
        row |= {key: run.metrics["test"][key] for key in ("accuracy", "log_loss")}
        with (run.folder / "history.csv").open(encoding="utf-8", newline="") as file:
            rates = [row.get("images_per_second") for row in csv.DictReader(file)]
        row["rate"] = next((float(rate) for rate in reversed(rates) if rate), None)
        for other in ("qmnist", "digits") if job["deploy"] and not job["small"] else ():
            try:
                found = evaluate(run.folder, other, data_root=root, cache=False)
                row[other] = {"accuracy": found["accuracy"], "n": found["n"]}
            except RegraftError as error:
                row[other] = {"error": error.message}
    return row


def some(source: object, job: dict) -> object:
    """Keep some of the images, by a hash of their names; the whole test part, if not small."""
    limits = [SMALL, SMALL] if job["small"] else [job["images"], None]
    kept: list[int] = []
    for tested, limit in zip((False, True), limits, strict=True):
        these = [k for k, entry in enumerate(source.entries) if (entry.part == "test") is tested]
        these.sort(key=lambda k: hashlib.sha256(source.entries[k].id.encode()).digest())
        kept += these[:limit]
    kept.sort()

    def stream(indices: object) -> object:
        wanted = {kept[index]: index for index in indices}
        for index, load in source.stream(sorted(wanted)):
            yield wanted[index], load

    return replace(source, entries=[source.entries[index] for index in kept], stream=stream)


def measure(job: dict, options: argparse.Namespace) -> dict:
    """Run a job and write its row."""
    command = [sys.executable, __file__, str(options.results), "--one", json.dumps(job)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        sys.exit(f"{job['recipe']}, {job['kind']}, seed {job['seed']} failed: see above")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return write(options.results, {
        **job, **json.loads(process.stdout),
        "machine": f"{cores} cores, {platform.machine()}, {platform.system()}",
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "when": time.strftime("%Y-%m-%d"),
    })  # fmt: skip


def write(results: Path, row: dict) -> dict:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return row


def read(results: Path) -> list[dict]:
    """Return the rows that were measured, without a truncated last line."""
    lines = results.read_text("utf-8").splitlines(keepends=True) if results.exists() else []
    if lines and not lines[-1].endswith("\n"):
        results.write_text("".join(lines[:-1]), "utf-8")
        lines.pop()
    return [json.loads(line) for line in lines]


# --- how long they take -----------------------------------------------------------------------


def estimate(waiting: list[dict], options: argparse.Namespace) -> None:
    """Run a small part of each job that is still to do, and print an estimate of the whole time."""
    done = {row["key"]: row for row in read(options.results)}
    total = 0.0
    print("estimates, from small jobs by images and epochs; alone on the machine, no store filled:")
    for name, kind in dict.fromkeys((job["recipe"], job["kind"]) for job in waiting):
        mine = [job for job in waiting if (job["recipe"], job["kind"]) == (name, kind)]
        config = from_yaml(mine[0]["config"])
        small = {**mine[0], "small": True, "config": to_yaml(config.replace(epochs=1))}
        small["key"] = key_of(small)
        row = done.get(small["key"]) or measure(small, options)
        seconds = whole(row, *counts(mine[0]), config)
        total += seconds * len(mine)
        print(f"  {name}, {kind}: {len(mine)} x {seconds / 60:.1f} min", flush=True)
    print(f"  together {total / 60:.0f} min")


def whole(row: dict, n_learnt: int, n_all: int, config: TrainConfig) -> float:
    """Scale the phases of a small job; epochs by their images a second."""
    learnt = row["n"]["train"] + row["n"]["val"]
    factors = {"fit": n_learnt / learnt}
    if row["rate"]:
        factors["train"] = n_learnt * config.epochs / row["rate"] / row["seconds"]["train"]
    factors |= dict.fromkeys(("total", "load", "write"), 0.0)
    rest = n_all / (learnt + row["n"]["test"])
    fixed = row["seconds"].get("load", 0.0) + row["seconds"].get("write", 0.0)
    return fixed + sum(s * factors.get(phase, rest) for phase, s in row["seconds"].items())


def counts(job: dict) -> tuple[int, int]:
    """Return the number of training images and of all images."""
    root = Path(job["data_root"]) if job["data_root"] else None
    entries = open_source(job["data"], SourceOptions(root)).entries
    tested = sum(entry.part == "test" for entry in entries)
    others = min(len(entries) - tested, job["images"] or len(entries))
    return (others, others + tested) if tested else (round(0.8 * others), others)


# --- the table --------------------------------------------------------------------------------


def table(rows: list[dict]) -> None:
    """Print the table of docs/tutorials.md, and a line for each recipe."""
    rows = [row for row in rows if not row["small"]]
    header = ("recipe", "the tutorial's figure", "ours, the same job", "ours, probe of all stages",
              "seconds", "not as in the recipe")  # fmt: skip
    print("", line(header), line(["---"] * len(header)), sep="\n")
    measured = []
    for name in dict.fromkeys(row["recipe"] for row in rows):
        job, probe = ([row for row in rows if (row["recipe"], row["kind"]) == (name, kind)]
                      for kind in KINDS)  # fmt: skip
        original = read_recipe(name).original or "none given"
        other = differs(job or probe)
        times = f"{seconds(job)} and {seconds(probe)}"
        print(line([name, original, result(job), result(probe), times, other]))
        for row in job[:1]:
            measured.append(
                f"{name}: measured: {other}: test accuracy {result(job)}, "
                f"{seconds(job)} s on {row['machine']}, {row['when']}, {row['commit']}"
            )
            measured += [f"{name}: on {place}: {deployed(row[place])}"
                         for place in ("qmnist", "digits") if place in row]  # fmt: skip
    print("", *measured, sep="\n")


def line(cells: object) -> str:
    return f"| {' | '.join(cells)} |"


def result(rows: list[dict]) -> str:
    """Return the accuracy with its range over seeds, or with the interval of one seed."""
    if not rows:
        return "not measured"
    values = [row["accuracy"]["value"] for row in rows]
    n = f"n = {rows[0]['n']['test']:,}"
    if len(rows) == 1:
        low, high = rows[0]["accuracy"]["low"], rows[0]["accuracy"]["high"]
        return f"{values[0]:.4f} (95 %: {low:.4f} to {high:.4f}, {n}, one seed)"
    ends = f"{min(values):.4f} to {max(values):.4f}"
    return f"{statistics.mean(values):.4f} ({ends} over {len(rows)} seeds, {n})"


def deployed(found: dict) -> str:
    if "error" in found:
        return found["error"]
    accuracy = found["accuracy"]
    return (f"{accuracy['value']:.4f} (95 %: {accuracy['low']:.4f} to {accuracy['high']:.4f}, "
            f"n = {found['n']:,})")  # fmt: skip


def seconds(rows: list[dict]) -> str:
    """Return the seconds of a run that found no features in the store."""
    own = [row["seconds"]["total"] for row in rows if not row["features"]["reused"]]
    return f"{own[0]:,.0f}" if own else "-"


def differs(rows: list[dict]) -> str:
    told = [f"{name} {value}" for name, value in rows[0]["overrides"].items()]
    told += [f"{rows[0]['images']:,} images to train"] if rows[0]["images"] else []
    return ", ".join(told) or "nothing"


def main() -> None:
    options = arguments()
    stores = options.results.with_name(f"{options.results.name}.stores")
    if options.one:
        job = json.loads(options.one)
        # One store for each recipe and kind: the first seed extracts the features.
        store = stores / f"{job['recipe']}-{KINDS.index(job['kind'])}"
        with tempfile.TemporaryDirectory() as empty:
            print(json.dumps(run_one(job, Path(empty) if job["small"] else store)))
        return
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if not options.table:
        everything = jobs(options)
        done = {row["key"] for row in read(options.results)}
        waiting = list({job["key"]: job for job in reversed(everything)
                        if job["key"] not in done}.values())[::-1]  # fmt: skip
        print(f"{len(waiting)} of {len(everything)} runs to do")
        if waiting:
            estimate(waiting, options)
        if options.estimate:
            return
        for number, job in enumerate(waiting, start=1):
            row = measure(job, options)
            print(f"{number} of {len(waiting)}: {job['recipe']}, {job['kind']}, seed "
                  f"{job['seed']}: {row['accuracy']['value']:.4f} in "
                  f"{row['seconds']['total']:,.0f} s", flush=True)  # fmt: skip
        share(everything, options.results)
        shutil.rmtree(stores, ignore_errors=True)
    table(read(options.results))


def share(everything: list[dict], results: Path) -> None:
    """Write the rows of recipes whose job another recipe has done."""
    rows = read(results)
    known = {row["key"]: row for row in rows}
    there = {(row["recipe"], row["kind"], row["key"]) for row in rows}
    for job in everything:
        if (job["recipe"], job["kind"], job["key"]) not in there:
            row = known[job["key"]]
            write(results, {**row, **job, "same_as": row["recipe"]})


if __name__ == "__main__":
    main()
