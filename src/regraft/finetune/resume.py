"""The start of a loop: from the newest whole checkpoint, or from the beginning."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from regraft.core.machine import free_memory
from regraft.finetune.memory import fit_memory
from regraft.finetune.paths import refuse_existing
from regraft.finetune.processes.exchange import sync_state
from regraft.finetune.state import does_not_fit

if TYPE_CHECKING:
    from regraft.finetune.loop import Loop
    from regraft.finetune.step import TrainingStep


def begin_or_resume(loop: Loop, *, resume: bool, overwrite: bool) -> None:
    """Load the newest checkpoint, remove all, or refuse to start where there are some.

    Then bring all processes to the same state, and check memory and disk.
    """
    group = loop.training_step.group
    if group.first:
        if resume:
            _load(loop)
        elif overwrite:
            loop.checkpoints.remove()
        else:
            refuse_existing(loop.checkpoints.folder)
    sync_state(loop.state, group)
    if loop.state.progress.step == 0:  # later the checkpoint has the size of the micro-batches
        fit_step(loop.training_step)
    loop.checkpoints.require_space(_checkpoint_bytes(loop))


def fit_step(training_step: TrainingStep) -> None:
    """Make micro-batches so small that a step of each process fits into the memory."""
    free = free_memory() // training_step.group.local_size
    side = training_step.preprocess.image_size
    fit_memory(training_step.state, side, training_step.compute, training_step.reporter, free)


def _load(loop: Loop) -> None:
    reporter = loop.reporter
    saved, notes = loop.checkpoints.load()
    for note in notes:
        reporter.say(note)
    if saved is None:
        reporter.say("nothing to resume: a new start")
        return
    loop.state.restore(saved)
    progress = loop.state.progress
    if progress.step != max(progress.epoch - 1, 0) * loop.schedule.steps + progress.batch:
        raise does_not_fit(f"its step {progress.step} is not in epoch {progress.epoch}")
    reporter.say(f"resumed in epoch {progress.epoch}, after step {progress.step}")
    machine, before = (
        json.loads(json.dumps(loop.training_step.machine())),
        saved.state.get("machine"),
    )
    if not isinstance(before, dict):
        raise does_not_fit("it has no record of the machine")
    changed = sorted(key for key in machine if before.get(key) != machine[key])
    if changed:
        reporter.say(f"{', '.join(changed)} differ since: the last digits may, too")


def _checkpoint_bytes(loop: Loop) -> int:
    """Return the bytes of a checkpoint, also before Adam has its two moments."""
    trained = sum(t.numel() * t.element_size() for t in loop.state.network.state().values())
    averages = loop.state.average is not None
    return trained * (4 + averages)  # network, best epoch, two moments
