"""Attack one part of the code with hostile input: ``scripts/fuzz ROOM --count N --seed S``.

Print how many cases had each outcome, and the seed and number of each finding; ``--first NUMBER
--count 1`` repeats one of them. The exit code is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from attacks import archives, bundle, checkpoints, hub, images, splits, store, tables
from attacks.hunting import hunt

if TYPE_CHECKING:
    from collections.abc import Callable

    from attacks.hunting import Report

#: Room to ``run(count, seed, first, processes=1)``.
ROOMS: dict[str, Callable[..., Report]] = {
    "archives": partial(hunt, archives.attack),
    "bundle": bundle.run,
    "checkpoints": partial(hunt, checkpoints.attack),
    "hub": partial(hunt, hub.attack),
    "images": partial(hunt, images.attack),
    "splits": partial(hunt, splits.attack),
    "tables": partial(hunt, tables.attack),
    "store": store.run,
}


def main() -> int:
    """Parse, attack, print."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    given = parser.parse_args()
    report = ROOMS[given.room](given.count, given.seed, given.first, processes=os.cpu_count() or 1)
    print(f"{given.room}: {report}")  # noqa: T201 - the result
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
