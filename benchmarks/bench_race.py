"""Does a race end near the best of all sums of three networks, and at which price?

    python benchmarks/bench_race.py DATA [--models A,B,C] [--seed 0]

Runs ``regraft race`` with the networks, and fits a probe on the whole training part for each of the
seven networks and sums, as seven trainings would. Prints Markdown: the log-loss of the folds of
each, how far the winner is from the least, and the processor-seconds of the fits of both. Features
are read before, so that the store has them: their price is the same for both, unless the race
leaves out a network before it has read it whole.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

from regraft.cli.tuning import tune_process

tune_process()

from regraft.commands.race import race  # noqa: E402 - after the process was tuned
from regraft.config.train_config import TrainConfig  # noqa: E402
from regraft.core.reporter import SILENT  # noqa: E402
from regraft.data.dataset import Dataset  # noqa: E402
from regraft.data.scan import scan  # noqa: E402
from regraft.features.extractor import Extractor, load_networks  # noqa: E402
from regraft.features.features import Features  # noqa: E402
from regraft.probe.fit import ProbeSettings, fit_probe  # noqa: E402
from regraft.splits.split import split  # noqa: E402


def main() -> int:
    """Race, try all, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--models", default="embedded,embedded-1,embedded-2")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    names = given.models.split(",")
    config = TrainConfig(model="+".join(names), seed=given.seed)
    samples = scan(given.data, config)
    dataset = Dataset(samples, split(samples, test_fraction=config.test_fraction, seed=given.seed))
    extractor = Extractor.for_samples(load_networks(config), samples, config)
    rows = extractor.read(dataset).networks

    began = time.process_time()
    with tempfile.TemporaryDirectory() as work:
        found = race(
            given.data, names, TrainConfig(seed=given.seed, out=Path(work, "race")), SILENT
        )
    raced, winner = time.process_time() - began, found.record["winner"]

    losses, seconds = {}, {}
    for count in range(1, len(names) + 1):
        for some in itertools.combinations(range(len(names)), count):
            name = "+".join(names[k] for k in some)
            began = time.process_time()
            settings = ProbeSettings.of(extractor.config)
            networks = [extractor.networks[k] for k in some]
            probe = fit_probe(Features.of(*(rows[k] for k in some)), dataset, networks, settings)
            seconds[name] = time.process_time() - began
            losses[name] = probe.fitted.record["out_of_fold"]["log_loss"]
            print(f"{name}: {losses[name]:.4f}, {seconds[name]:.0f} s", file=sys.stderr, flush=True)
    print(
        "| networks | log-loss of the folds | processor-seconds of the fit |\n| --- | --- | --- |"
    )
    for name in sorted(losses, key=lambda each: losses[each]):
        mark = " (the race's winner)" if name == winner else ""
        print(f"| {name}{mark} | {losses[name]:.4f} | {seconds[name]:.0f} |")
    above = losses[winner] - min(losses.values())
    every = sum(seconds.values())
    print(f"\nThe winner is {above:.4f} above the least log-loss.")
    print(f"Processor-seconds: {raced:.0f} of the race, {every:.0f} of all; {raced / every:.2f}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
