"""One training step: gradients in micro-batches, then one update. Read ``TrainingStep.take``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, one_hot

from regraft.core.keyed_random import torch_seeded
from regraft.core.reporter import SILENT, Reporter
from regraft.core.text import counted, listed
from regraft.errors import DivergedError, RegraftError
from regraft.finetune.batches import n_batches
from regraft.finetune.frozen.cut_network import Activations
from regraft.finetune.mixing import draw_mixing
from regraft.finetune.precision import autocast, on_device
from regraft.finetune.processes.group import SINGLE_PROCESS, ProcessGroup
from regraft.finetune.schedule import set_rates
from regraft.finetune.state import copied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from regraft.features.compute import Compute
    from regraft.finetune.batches import Batch
    from regraft.finetune.mixing import Mixing
    from regraft.finetune.schedule import Schedule
    from regraft.finetune.state import State
    from regraft.images.render import Preprocess

_SHOWN = 16  # images of a batch that an error names


@dataclass(frozen=True)
class StepSettings:
    """What a step computes, besides its learning rate."""

    seed: int
    mixup: float  # parameter of a Beta distribution; 0 is off
    cutmix: float  # the same
    label_smoothing: float  # share of each target that all classes divide
    class_weights: torch.Tensor | None  # (K,) float32, on the device
    clip: float  # longest gradient; 0 is any
    ema: float  # decay of the running average


@dataclass
class TrainingStep:
    """Changes the state by one batch at a time."""

    state: State
    schedule: Schedule
    settings: StepSettings
    preprocess: Preprocess
    compute: Compute
    group: ProcessGroup = SINGLE_PROCESS  # the processes that share each step
    reporter: Reporter = SILENT

    def take(self, batch: Batch) -> float:
        """Take one step along the gradients of a batch; return its mean loss.

        Raises DivergedError where the loss or the gradient is not finite; nothing has changed then.
        """
        loss, right = self._sum_over_processes(*self._gradients(batch))
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", batch)
        self._update(batch)
        self.state.progress.count(len(batch.indices), loss, right)
        return loss

    # --- gradients ----------------------------------------------------------------------------

    def _gradients(self, batch: Batch) -> tuple[float, int]:
        """Compute gradients; on a GPU that is too small, again in smaller micro-batches."""
        network = self.state.network
        on_gpu = self.compute.device.startswith("cuda")
        before = copied(dict(network.named_buffers())) if on_gpu else {}
        while True:
            try:
                return self._all_micro_batches(batch)
            except torch.cuda.OutOfMemoryError:
                self._halve_micro_batches(len(batch.labels))
                for name, buffer in network.named_buffers():
                    buffer.copy_(before[name])

    def _all_micro_batches(self, batch: Batch) -> tuple[float, int]:
        """Add up the gradients of all micro-batches; return this process's loss and hits."""
        settings, progress = self.settings, self.state.progress
        n, n_classes = len(batch.labels), len(self.state.network.bias)
        targets = one_hot(batch.labels, n_classes).float()  # (n, K)
        mixing = draw_mixing(
            n, self.preprocess.image_size, mixup=settings.mixup, cutmix=settings.cutmix,
            seed=settings.seed, step=progress.step,
        )  # fmt: skip
        self.state.optimizer.zero_grad(set_to_none=True)
        total, right = 0.0, 0
        for rows in self._micro_batches(n):
            logits = self._forward(batch, rows, mixing)  # (micro, K) float32
            loss = self._loss(logits, rows, targets, mixing) / len(batch.indices)
            total += float(loss.detach())
            if not math.isfinite(total):
                break  # an error, once all processes have the sum
            torch.autograd.backward(loss)
            right += int((logits.detach().argmax(1).cpu() == batch.labels[rows]).sum())
        return total, right

    def _forward(self, batch: Batch, rows: slice, mixing: Mixing) -> torch.Tensor:
        device, step = torch.device(self.compute.device), self.state.progress.step
        x = self._inputs(batch.images, rows, mixing)
        first = batch.own.start + rows.start  # so that no two micro-batches drop the same
        with (
            torch_seeded(device, self.settings.seed, "dropout", step, first),
            autocast(self.compute),
        ):
            logits: torch.Tensor = self.state.network(x)
        return logits

    def _inputs(
        self, images: torch.Tensor | Activations, rows: slice, mixing: Mixing
    ) -> torch.Tensor | Activations:
        """Return images (micro, 3, S, S) float32, or the outputs of their frozen stages."""
        if isinstance(images, Activations):
            return images[rows].to(self.compute.device)
        x = on_device(images[rows], self.preprocess, self.compute)
        if mixing.share == 1:
            return x
        partners = torch.from_numpy(mixing.partners[rows])
        return mixing.images(x, on_device(images[partners], self.preprocess, self.compute))

    def _loss(
        self, logits: torch.Tensor, rows: slice, targets: torch.Tensor, mixing: Mixing
    ) -> torch.Tensor:
        """Return the sum of the losses of a micro-batch, each times its image's weight.

        It is divided by the number of images, as the mean weight of a training image is 1. (By the
        sum of a batch's weights, a rare image would count less beside other rare ones.)
        """
        partners = torch.from_numpy(mixing.partners[rows])
        y = mixing.targets(targets[rows], targets[partners]).to(logits.device)  # (micro, K)
        weights, smoothing = self.settings.class_weights, self.settings.label_smoothing
        if weights is not None and smoothing:
            # torch would weigh the share that smoothing gives to a class by that class's weight: a
            # rare class with a large weight would then be the larger part of every target.
            y = y * weights
            y = (1 - smoothing) * y + smoothing * y.mean(1, keepdim=True)
            return cross_entropy(logits, y, reduction="sum")
        return cross_entropy(logits, y, weights, label_smoothing=smoothing, reduction="sum")

    def _micro_batches(self, n: int) -> Iterator[slice]:
        """Yield slices of n images that differ by one; none has too few images for BatchNorm."""
        number = n_batches(n, self.state.progress.micro, self.state.network.least_images)
        for piece in np.array_split(np.arange(n), number):
            yield slice(int(piece[0]), int(piece[-1]) + 1)

    def _halve_micro_batches(self, n: int) -> None:
        progress, least = self.state.progress, self.state.network.least_images
        self.state.optimizer.zero_grad(set_to_none=True)
        if progress.micro <= least:
            largest = -(-n // n_batches(n, progress.micro, least))
            raise RegraftError(
                f"a forward pass of {counted(largest)} does not fit into the GPU's memory",
                hint="a smaller `image_size` or `model`, or fewer stages with `unfreeze`",
            )
        progress.micro = max(-(-min(progress.micro, n) // 2), least)
        torch.cuda.empty_cache()
        self.reporter.say(
            f"out of memory: {counted(progress.micro)} in one forward pass from now on; a step "
            f"still has {self.schedule.batch}"
        )

    # --- the update ---------------------------------------------------------------------------

    def _sum_over_processes(self, loss: float, right: int) -> tuple[float, int]:
        figures = torch.tensor([loss, right], dtype=torch.float64)
        self.group.add([figures])
        loss, n_right = figures.tolist()
        return loss, int(n_right)

    def _update(self, batch: Batch) -> None:
        """Clip the gradients of all processes, and change the parameters by them."""
        state, settings = self.state, self.settings
        trained = [parameter for _, parameter in state.trained()]
        self.group.add([parameter.grad for parameter in trained if parameter.grad is not None])
        self.group.average(state.network.statistics())
        norm = float(torch.nn.utils.clip_grad_norm_(trained, settings.clip or math.inf))
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm}", batch)
        set_rates(state.optimizer, self.schedule.rate(state.progress.step))
        state.optimizer.step()
        state.update_average(settings.ema)

    def _diverged(self, what: str, batch: Batch) -> DivergedError:
        progress = self.state.progress
        return DivergedError(
            f"{what} at step {progress.step + 1} (epoch {progress.epoch}), learning rate "
            f"{self.schedule.rate(progress.step):.3g}; images: {listed(batch.names, _SHOWN)}",
            hint="try a smaller `lr`, `clip=1` or `precision='float32'`",
        )

    def machine(self) -> dict[str, Any]:
        """Return what the last digits may depend on besides settings and images."""
        return {**self.compute.fingerprint(), "processes": self.group.size}
