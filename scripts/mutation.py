"""Report what ``scripts/mutate`` found: a score for each module, and the changes that survived.

``tests/mutants.toml`` lists survivors with the reason why no test can or need notice them; they are
counted apart. The exit code is 1 where fewer than nine tenths of the others were noticed.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections import Counter
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

GOAL = 0.9
NOTICED = {"killed", "timeout", "segfault"}
_FOLDER = Path("mutants/src/regraft")


def changed_lines(name: str, path: Path) -> str:
    """Return the removed and the added lines of a change, without blanks at both ends."""
    lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
    removed, added = (
        " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )
    return f"{removed} -> {added}"


def main() -> int:
    """Print the report."""
    known = tomllib.loads(Path("tests/mutants.toml").read_text(encoding="utf-8"))
    listed = {change: reason for reason, changes in known.items() for change in changes}
    total: Counter[str] = Counter()
    survivors: list[str] = []
    print(f"{'module':34} changes    noticedequivalent  survived  share")
    for record in sorted(_FOLDER.rglob("*.py.meta")):
        path = record.with_suffix("")
        counts: Counter[str] = Counter()
        for name, code in json.loads(record.read_bytes())["exit_code_by_key"].items():
            if status_by_exit_code[code] in NOTICED:
                counts["noticed"] += 1
                continue
            change = f"{path.stem}: {changed_lines(name, path.relative_to('mutants'))}"
            counts["equivalent" if change in listed else "survived"] += 1
            if change not in listed:
                survivors.append(f"{change}   [{name}, {status_by_exit_code[code]}]")
        if counts:
            print(_row(str(path.relative_to(_FOLDER)), counts))
        total += counts
    print(_row("all", total))
    print("\n".join(["", *survivors]))
    return int(share(total) < GOAL)


def share(counts: Counter[str]) -> float:
    """Return the share of changes that were noticed, of those that are not equivalent."""
    return counts["noticed"] / max(counts["noticed"] + counts["survived"], 1)


def _row(name: str, counts: Counter[str]) -> str:
    columns = [f"{counts[kind]:10}" for kind in ("noticed", "equivalent", "survived")]
    return f"{name:34} {counts.total():7} {''.join(columns)} {share(counts):6.3f}"


if __name__ == "__main__":
    sys.exit(main())
