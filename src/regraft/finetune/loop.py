"""The training loop. Read ``Loop.run`` first, then the methods in their order.

Everything that a step changes is in ``State``, and a checkpoint holds all of it. All else depends
on seed, epoch and step alone: no random generator is kept from one step to the next.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from regraft.errors import DivergedError
from regraft.finetune.callbacks import call
from regraft.finetune.signals import Stop, stoppable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.core.reporter import Advance, Reporter
    from regraft.finetune.batches import Batch, TrainingBatches
    from regraft.finetune.checkpoint import Checkpoints
    from regraft.finetune.frozen.prefix import Prefixes
    from regraft.finetune.schedule import Schedule
    from regraft.finetune.state import State
    from regraft.finetune.step import TrainingStep
    from regraft.finetune.validation import Validation, ValidationScores


@dataclass(frozen=True)
class LoopSettings:
    """When the loop ends, and when it saves."""

    label: str  # of the progress bar
    epochs: int
    patience: int  # epochs without a better one, after which it ends; 0 is never
    save_every: float  # seconds between checkpoints; each epoch saves one, too


@dataclass
class Loop:
    """Trains until the epochs or the patience end; then ``state.best`` is the result."""

    training_step: TrainingStep  # changes the state, by one batch at a time
    batches: TrainingBatches  # of the training part
    validation: Validation  # chooses the epoch, and nothing else
    checkpoints: Checkpoints
    settings: LoopSettings
    prefixes: Prefixes  # those that batches and validation read, with their record
    callbacks: Sequence[object] = ()
    batch_loss: float = math.nan  # of the last step
    _saved_at: float = field(default_factory=time.monotonic)
    _lap_began: float = 0.0

    @property
    def state(self) -> State:
        """Return network, optimiser and progress."""
        return self.training_step.state

    @property
    def schedule(self) -> Schedule:
        """Return the learning rate of each step."""
        return self.training_step.schedule

    @property
    def reporter(self) -> Reporter:
        """Return what prints one line for each epoch."""
        return self.training_step.reporter

    def run(self) -> None:
        """Train.

        Raises DivergedError where the loss or a tensor is not finite; no checkpoint holds such a
        state. Raises KeyboardInterrupt or SystemExit on SIGINT or SIGTERM, once the state is saved.
        """
        call(self.callbacks, "on_train_begin", self)
        label = self.settings.label
        with stoppable() as stop, self.reporter.track(label, self._images_left()) as advance:
            while not self._is_over():
                self._one_epoch(stop, advance)
        call(self.callbacks, "on_train_end", self)

    def _is_over(self) -> bool:
        progress, patience = self.state.progress, self.settings.patience
        waited = len(progress.history) - 1 - progress.best_epoch
        return progress.epoch > self.settings.epochs or 0 < patience <= waited

    def _one_epoch(self, stop: Stop, advance: Advance) -> None:
        """Train on all batches, measure the result, save; epoch 0 measures the start alone."""
        self._lap()
        if self.state.progress.epoch > 0:
            self._all_batches(stop, advance)
        self._close_epoch(self._validate(stop))
        self._save()
        self._share_signal(stop)
        if stop.asked:
            self._leave(stop)

    def _all_batches(self, stop: Stop, advance: Advance) -> None:
        progress = self.state.progress
        with self.batches.epoch(progress.epoch, self.schedule.steps, progress.batch) as batches:
            for batch in batches:
                self._one_batch(batch, advance)
                self._save_if_due(stop)

    def _one_batch(self, batch: Batch, advance: Advance) -> None:
        progress = self.state.progress
        self.batch_loss = self.training_step.take(batch)
        progress.seconds += self._lap()
        loss, accuracy = progress.loss / progress.seen, progress.right / progress.seen
        advance(len(batch.indices), f"loss {loss:.3f}, accuracy {accuracy:.3f}")
        call(self.callbacks, "on_batch_end", self)

    def _validate(self, stop: Stop) -> ValidationScores:
        """Score the validation part; a signal meanwhile ends the training before the epoch ends."""
        state = self.state
        model = state.network.to_model(state.candidate(), "being trained")
        scores = self.validation.score(model, lambda: self._save_and_leave_if_asked(stop))
        if not math.isfinite(scores.log_loss):
            raise DivergedError(
                f"the validation loss is {scores.log_loss} after epoch {state.progress.epoch}",
                hint="try a smaller `lr`",
            )
        return scores

    def _close_epoch(self, scores: ValidationScores) -> None:
        """Write the epoch's row, keep its tensors where they are the best, begin the next epoch."""
        progress = self.state.progress
        row = self._row(scores)
        progress.history.append(row)
        self.state.keep_if_best()
        self.reporter.say(epoch_line(row, self.settings.epochs))
        call(self.callbacks, "on_epoch_end", self)
        progress.next_epoch()

    def _row(self, scores: ValidationScores) -> dict[str, Any]:
        """Return the epoch's row of history.csv."""
        progress, trained = self.state.progress, self.state.progress.seen > 0
        speed = round(progress.seen / progress.seconds, 1) if trained else None
        progress.seconds += self._lap()  # of the validation, which the speed leaves out
        return {
            "epoch": progress.epoch,
            "step": progress.step,
            "learning_rate": self.schedule.rate(progress.step - 1) if trained else None,
            "train_loss": progress.loss / progress.seen if trained else None,
            "train_accuracy": progress.right / progress.seen if trained else None,
            **scores.columns(),
            "seconds": round(progress.seconds, 3),
            "images_per_second": speed,
        }

    def _lap(self) -> float:
        """Return the seconds since the last call."""
        began, self._lap_began = self._lap_began, time.perf_counter()
        return self._lap_began - began

    def _images_left(self) -> int:
        progress = self.state.progress
        epochs = self.settings.epochs - max(progress.epoch, 1) + 1
        return epochs * self.batches.n_images - progress.seen

    # --- checkpoints and signals --------------------------------------------------------------

    def _save_if_due(self, stop: Stop) -> None:
        """Save when it is time; save and leave where a process of the group got a signal."""
        self._share_signal(stop)
        self._save_and_leave_if_asked(stop)
        if time.monotonic() - self._saved_at >= self.settings.save_every:
            self._save()

    def _share_signal(self, stop: Stop) -> None:
        stop.number = self.training_step.group.largest(stop.number)

    def _save_and_leave_if_asked(self, stop: Stop) -> None:
        if stop.asked:
            self._save()
            self._leave(stop)

    def _leave(self, stop: Stop) -> NoReturn:
        self.reporter.say(
            f"saved after step {self.state.progress.step} in {self.checkpoints.folder}; "
            "`resume=True` with the same settings continues"
        )
        self.training_step.group.saved()
        stop.leave()

    def _save(self) -> None:
        state, tensors = self.state, self.state.tensors()
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise DivergedError(
                    f"{name} is no longer finite after step {state.progress.step}",
                    hint="try a smaller `lr` or `clip=1`",
                )
        progress = dataclasses.asdict(state.progress)
        self.checkpoints.save(
            tensors, {"progress": progress, "machine": self.training_step.machine()}
        )
        self._saved_at = time.monotonic()


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Return the line that the console shows after an epoch."""
    parts = [f"epoch {row['epoch']}/{epochs}"]
    if row["train_loss"] is not None:
        parts.append(f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.4f}")
    parts.append(f"val loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}")
    if "val_balanced_accuracy" in row:  # it decides then
        parts[-1] += f", balanced accuracy {row['val_balanced_accuracy']:.4f}"
    if row["images_per_second"] is not None:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    return "; ".join(parts)
