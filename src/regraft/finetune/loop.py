"""The loop: read ``Loop.run`` first.

Everything that a step leaves behind is in ``State``, which a checkpoint holds. Whatever else a step
needs is a function of seed, epoch and step: no generator lives longer than one use.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, one_hot

from regraft.core.keyed_random import torch_seeded
from regraft.errors import DivergedError, RegraftError
from regraft.finetune.callbacks import call
from regraft.finetune.frozen.cut_network import Activations
from regraft.finetune.mixing import draw_mixing
from regraft.finetune.precision import autocast, on_device
from regraft.finetune.processes.group import SINGLE_PROCESS
from regraft.finetune.schedule import set_rates
from regraft.finetune.signals import Stop, stoppable
from regraft.finetune.state import State, copied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from regraft.config.train_config import TrainConfig
    from regraft.core.reporter import Reporter
    from regraft.features.compute import Compute
    from regraft.finetune.batches import Batch, TrainingBatches
    from regraft.finetune.checkpoint import Checkpoints
    from regraft.finetune.mixing import Mixing
    from regraft.finetune.processes.group import ProcessGroup
    from regraft.finetune.validation import Validation

_SHOWN = 16  # images of a batch that are named


@dataclass(frozen=True)
class Schedule:
    """Settings of the loop that depend on the data: resolved once, before it starts.

    Attributes
    ----------
    learning_rate : float
        Before any factor.
    batch : int
        Most images in a step.
    rate : callable
        Maps a step, from 0, to its learning rate.
    class_weights : tensor of shape (K,), float32, or None
    """

    learning_rate: float
    batch: int
    rate: Callable[[int], float]
    class_weights: torch.Tensor | None


@dataclass
class Loop:
    """Trains a network until its epochs are over, its patience is, or somebody stops it.

    Attributes
    ----------
    state : State
        All that a step changes; afterwards ``state.best`` is the result.
    images : TrainingBatches
        The training part.
    validation : Validation
        The validation part: chooses the epoch, and nothing else.
    checkpoints : Checkpoints
        Where the state goes.
    schedule : Schedule
        Rates and sizes.
    config : TrainConfig
        Everything else.
    compute : Compute
        Device and precision.
    reporter : Reporter
        Told of every epoch.
    callbacks : sequence of object
        With methods named as in ``callbacks.MOMENTS``; each is called with the loop.
    group : ProcessGroup
        The processes that share each step.
    batch_loss : float
        Of the last step.
    """

    state: State
    images: TrainingBatches
    validation: Validation
    checkpoints: Checkpoints
    schedule: Schedule
    config: TrainConfig
    compute: Compute
    reporter: Reporter
    callbacks: Sequence[object] = ()
    group: ProcessGroup = SINGLE_PROCESS
    batch_loss: float = math.nan
    _saved_at: float = dataclasses.field(default_factory=time.monotonic)

    def run(self) -> None:
        """Train.

        Raises
        ------
        DivergedError
            Where the loss or a gradient is not finite; no checkpoint has seen it.
        DiskFullError
            Where a checkpoint cannot be written; the one before it stays.
        KeyboardInterrupt, SystemExit
            On SIGINT and SIGTERM, once the state is saved.
        """
        images, batch_size = self.images, self.schedule.batch
        progress = self.state.progress
        call(self.callbacks, "on_train_begin", self)
        left = (self.config.epochs - max(progress.epoch, 1) + 1) * len(images) - progress.seen
        with stoppable() as stop, self.reporter.track(self.config.strategy, left) as advance:
            while not self._is_over():
                started = time.perf_counter()
                if progress.epoch > 0:
                    with images.epoch(progress.epoch, batch_size, progress.batch) as batches:
                        for batch in batches:
                            self.learn(batch)
                            now = time.perf_counter()
                            progress.seconds, started = progress.seconds + now - started, now
                            loss, share = (
                                progress.loss / progress.seen,
                                progress.right / progress.seen,
                            )
                            advance(len(batch.indices), f"loss {loss:.3f}, accuracy {share:.3f}")
                            call(self.callbacks, "on_batch_end", self)
                            self._save_if_due(stop)
                self._close_epoch(stop, started)
        call(self.callbacks, "on_train_end", self)

    def _is_over(self) -> bool:
        """Whether all epochs are done, or patience with the last ones is."""
        progress, patience = self.state.progress, self.config.patience
        waited = len(progress.history) - 1 - progress.best_epoch
        return progress.epoch > self.config.epochs or 0 < patience <= waited

    # --- one step -----------------------------------------------------------------------------

    def learn(self, batch: Batch) -> None:
        """Make one step; on a GPU that is too small, in smaller pieces."""
        network, progress, n = self.state.network, self.state.progress, len(batch.indices)
        rate = self.schedule.rate(progress.step)
        on_gpu = self.compute.device.startswith("cuda")
        buffers = copied(dict(network.named_buffers())) if on_gpu else {}
        while True:
            try:
                figures = torch.tensor(self._gradients(batch), dtype=torch.float64)
                break
            except torch.cuda.OutOfMemoryError:
                self._halve(len(batch.labels))
                for name, buffer in network.named_buffers():
                    buffer.copy_(buffers[name])
        self.group.add([figures])
        loss, right = figures.tolist()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", batch, rate)
        self._update(batch, rate)
        progress.batch, progress.step = progress.batch + 1, progress.step + 1
        progress.loss, progress.right = progress.loss + loss * n, progress.right + int(right)
        progress.seen += n
        self.batch_loss = loss

    def _gradients(self, batch: Batch) -> tuple[float, int]:
        """Forward and backward in micro-batches; return this process's part of loss and hits."""
        state, config, device = self.state, self.config, torch.device(self.compute.device)
        progress, n = state.progress, len(batch.labels)
        mixing = draw_mixing(
            n, self.validation.preprocess.image_size,
            mixup=config.mixup, cutmix=config.cutmix, seed=config.seed, step=progress.step,
        )  # fmt: skip
        targets = one_hot(batch.labels, len(state.network.bias)).float()  # (n, K)
        total, right = 0.0, 0
        state.optimizer.zero_grad(set_to_none=True)
        # Pieces that differ by one image at most: BatchNorm cannot train on a single one.
        for piece in np.array_split(np.arange(n), -(-n // progress.micro)):
            rows = slice(int(piece[0]), int(piece[-1]) + 1)
            partners = torch.from_numpy(mixing.partners[rows])
            x = self._inputs(batch.images, rows, mixing)
            y = mixing.targets(targets[rows], targets[partners]).to(device)
            place = batch.own.start + rows.start
            seeded = torch_seeded(device, config.seed, "dropout", progress.step, place)
            with seeded, autocast(self.compute):
                logits = state.network(x)  # (micro, K) float32
            loss = cross_entropy(
                logits, y, self.schedule.class_weights,
                label_smoothing=config.label_smoothing, reduction="sum",
            ) / len(batch.indices)  # fmt: skip
            total += float(loss.detach())
            if not math.isfinite(total):
                break  # told once all processes know
            torch.autograd.backward(loss)
            right += int((logits.detach().argmax(1).cpu() == batch.labels[rows]).sum())
        return total, right

    def _update(self, batch: Batch, rate: float) -> None:
        """Take one step along the gradients of all processes."""
        state, config = self.state, self.config
        trained = [parameter for _, parameter in state.trained()]
        self.group.add([parameter.grad for parameter in trained if parameter.grad is not None])
        self.group.average(state.network.statistics())
        norm = float(torch.nn.utils.clip_grad_norm_(trained, config.clip or math.inf))
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm}", batch, rate)
        set_rates(state.optimizer, rate)
        state.optimizer.step()
        state.update_average(config.ema)

    def _inputs(
        self, images: torch.Tensor | Activations, rows: slice, mixing: Mixing
    ) -> torch.Tensor | Activations:
        """Return images (micro, 3, S, S) float32, or what the frozen stages made of them."""
        if isinstance(images, Activations):
            return images[rows].to(self.compute.device)
        preprocess = self.validation.preprocess
        x = on_device(images[rows], preprocess, self.compute)
        if mixing.share == 1:
            return x
        partners = torch.from_numpy(mixing.partners[rows])
        return mixing.images(x, on_device(images[partners], preprocess, self.compute))

    def _halve(self, n: int) -> None:
        progress = self.state.progress
        self.state.optimizer.zero_grad(set_to_none=True)
        if progress.micro <= self.state.network.least_images:
            raise RegraftError(
                f"a forward pass of {progress.micro} does not fit into the GPU's memory",
                hint="a smaller --image-size or --model, or fewer stages with --unfreeze",
            )
        progress.micro = max(-(-min(progress.micro, n) // 2), self.state.network.least_images)
        torch.cuda.empty_cache()
        self.reporter.say(
            f"out of memory: {progress.micro} images in one forward pass from now on; a step still "
            f"has {self.schedule.batch}"
        )

    def machine(self) -> dict[str, Any]:
        """Return what the last digits may depend on besides settings and images."""
        return {**self.compute.fingerprint(), "processes": self.group.size}

    def _diverged(self, what: str, batch: Batch, rate: float) -> DivergedError:
        progress = self.state.progress
        names = [self.images.samples.ids[index] for index in batch.indices]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return DivergedError(
            f"{what} at step {progress.step + 1} (epoch {progress.epoch}), learning rate "
            f"{rate:.3g}; images: {', '.join(names[:_SHOWN])}{more}",
            hint="try a smaller --lr, --clip 1 or --precision float32",
        )

    # --- one epoch ----------------------------------------------------------------------------

    def _close_epoch(self, stop: Stop, started: float) -> None:
        """Measure the epoch, keep it where it is the best one, save."""
        state, progress = self.state, self.state.progress
        learnt = progress.seen > 0
        speed = round(progress.seen / progress.seconds, 1) if learnt else None
        candidate = state.candidate()
        scores = self.validation.score(
            state.network.to_model(candidate, "being trained"),
            lambda: self._save_and_leave(stop) if stop.asked else None,
        )
        if not math.isfinite(scores.log_loss):
            raise DivergedError(
                f"the validation loss is {scores.log_loss} after epoch {progress.epoch}",
                hint="try a smaller --lr",
            )
        progress.seconds += time.perf_counter() - started
        progress.history.append(
            {
                "epoch": progress.epoch,
                "step": progress.step,
                "learning_rate": self.schedule.rate(progress.step - 1) if learnt else None,
                "train_loss": progress.loss / progress.seen if learnt else None,
                "train_accuracy": progress.right / progress.seen if learnt else None,
                "val_loss": scores.log_loss,
                "val_accuracy": scores.accuracy,
                "seconds": round(progress.seconds, 3),
                "images_per_second": speed,
            }
        )
        best = progress.history[progress.best_epoch]
        if (scores.accuracy, -scores.log_loss) > (best["val_accuracy"], -best["val_loss"]):
            progress.best_epoch = progress.epoch
            state.best = copied(candidate)
        self.reporter.say(epoch_line(progress.history[-1], self.config.epochs))
        call(self.callbacks, "on_epoch_end", self)
        progress.next_epoch()
        self._save()
        stop.number = self.group.largest(stop.number)
        if stop.asked:
            self._leave(stop)

    # --- checkpoints --------------------------------------------------------------------------

    def _save_if_due(self, stop: Stop) -> None:
        stop.number = self.group.largest(stop.number)
        if stop.asked:
            self._save_and_leave(stop)
        if time.monotonic() - self._saved_at >= self.config.save_every:
            self._save()

    def _save_and_leave(self, stop: Stop) -> None:
        self._save()
        self._leave(stop)

    def _leave(self, stop: Stop) -> None:
        self.reporter.say(
            f"saved after step {self.state.progress.step} in {self.checkpoints.folder}; "
            "the same command with --resume continues"
        )
        self.group.saved()
        stop.leave()

    def _save(self) -> None:
        tensors = self.state.tensors()
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise DivergedError(
                    f"{name} is no longer finite after step {self.state.progress.step}",
                    hint="try a smaller --lr or --clip 1",
                )
        progress = dataclasses.asdict(self.state.progress)
        self.checkpoints.save(tensors, {"progress": progress, "machine": self.machine()})
        self._saved_at = time.monotonic()


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Return what the console shows of an epoch that is over."""
    parts = [f"epoch {row['epoch']}/{epochs}"]
    if row["train_loss"] is not None:
        parts.append(f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.4f}")
    parts.append(f"val loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}")
    if row["images_per_second"] is not None:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    return "; ".join(parts)
