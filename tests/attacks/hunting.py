"""Run many hostile cases in child processes: a crash, a hang or a leak is a finding, not the end.

A case is a function of two numbers, the seed and its own number. So each finding can be repeated
alone (``scripts/fuzz ROOM --seed S --first N --count 1``).
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Case = Callable[[int, int], str]

LONGEST = 5.0  # seconds of the processor that one case may take
_PATIENCE = 60.0  # seconds on the clock, which other processes make longer
MOST_MEMORY = 200 << 20  # bytes by which a process may grow (a bundle's: less than twofold)
_MOST_FINDINGS = 20


@dataclass
class Report:
    """The outcomes of some cases.

    Where a process died, up to 31 outcomes before it are missing.
    """

    seed: int
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # by name
    findings: dict[int, str] = field(default_factory=dict)  # by number of the case
    seconds: float = 0.0
    memory: tuple[int, int] = (0, 0)  # bytes before the first case, and the most of all cases

    def __str__(self) -> str:
        lines = [f"{self.cases:,} cases of seed {self.seed} in {self.seconds:.0f} s: "]
        lines[0] += ", ".join(f"{name} {n:,}" for name, n in self.outcomes.most_common())
        lines[0] += f"; memory {self.memory[0] >> 20} to {self.memory[1] >> 20} MB"
        lines += [f"FOUND seed {self.seed} number {n}: {what}" for n, what in self.findings.items()]
        return "\n".join(lines)


def hunt(
    case: Case,
    count: int,
    seed: int,
    first: int = 0,
    patience: float = _PATIENCE,
    processes: int = 1,
) -> Report:
    """Run cases ``first`` to ``first + count - 1`` of a seed in child processes.

    ``case(seed, number)`` returns the name of its outcome, and any exception is a finding. The
    child must be able to import it. ``patience`` is the time limit of a case in seconds;
    ``processes`` children run side by side, each with its own part of the numbers.
    """
    begin = time.perf_counter()
    bounds = [first + count * part // processes for part in range(processes + 1)]
    with ThreadPoolExecutor(processes) as pool:
        parts = list(pool.map(partial(_hunt_part, case, seed, patience), bounds[:-1], bounds[1:]))
    report = Report(seed)
    for part in parts:
        report.cases += part.cases
        report.outcomes.update(part.outcomes)
        report.findings.update(part.findings)
        report.memory = max(report.memory, part.memory, key=lambda each: each[1])
    report.seconds = time.perf_counter() - begin
    return report


def _hunt_part(case: Case, seed: int, patience: float, first: int, end: int) -> Report:
    report = Report(seed)
    context = multiprocessing.get_context("spawn")
    while first < end and len(report.findings) < _MOST_FINDINGS:
        at = context.Value("q", first, lock=False)
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(case, seed, first, end, at, send, patience))
        child.start()
        send.close()
        try:
            while True:
                outcomes, findings, grown = receive.recv()
                report.outcomes.update(outcomes)
                report.findings.update(findings)
                report.memory = max(report.memory, grown, key=lambda each: each[1])
        except EOFError:
            child.join()
        if child.exitcode:
            report.findings[at.value] = (
                f"killed by {signal.Signals(-child.exitcode).name}"
                if child.exitcode < 0
                else f"it took more than {patience} s, or left the process"
            )
        report.cases += at.value + 1 - first
        first = at.value + 1
    return report


def _child(
    case: Case, seed: int, first: int, end: int, at: object, send: object, patience: float
) -> None:
    """Run cases until one kills this process; send the outcomes of 32 at a time."""
    warnings.simplefilter("error")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # messages of libtiff for each damaged file, and the traceback of a hang
    outcomes: Counter[str] = Counter()
    findings: dict[int, str] = {}
    with suppress(Exception):
        case(seed, -1)  # imports and caches, which do not count for any case
    before = memory()
    ceiling = before + MOST_MEMORY
    for number in range(first, end):
        at.value = number
        faulthandler.dump_traceback_later(patience, exit=True)
        start = time.process_time()
        try:
            outcomes[case(seed, number)] += 1
        except Exception as error:  # noqa: BLE001 - any is a finding
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119
            findings[number] = f"{type(error).__name__} at {where}: {error}"[:500]
            outcomes["FOUND"] += 1
        faulthandler.cancel_dump_traceback_later()
        if time.process_time() - start > LONGEST:
            findings[number] = f"it took {time.process_time() - start:.0f} s of the processor"
        if memory() > ceiling:
            findings[number] = f"memory grew from {before >> 20} to {memory() >> 20} MB"
            ceiling = memory() + MOST_MEMORY
        if number % 32 == 31 or len(findings) >= _MOST_FINDINGS:
            send.send((outcomes, findings, (before, memory())))
            if len(findings) >= _MOST_FINDINGS:
                return
            outcomes, findings = Counter(), {}
    send.send((outcomes, findings, (before, memory())))


def memory() -> int:
    """Return the most bytes that this process has had; 0 on Windows, where it is not known."""
    if sys.platform == "win32":
        return 0
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        for line in status:  # on Linux a child inherits the peak of getrusage from its parent
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # noqa: PLC0415 - not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
