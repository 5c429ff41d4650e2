"""Everything that a step changes: a checkpoint holds all of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import torch

from regraft.core.text import shape_text
from regraft.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from regraft.finetune.checkpoint import Saved
    from regraft.finetune.network import TrainableNetwork

Tensors: TypeAlias = dict[str, torch.Tensor]

#: What an optimiser keeps of each parameter after its first step.
_MOMENTS: dict[type[torch.optim.Optimizer], frozenset[str]] = {
    torch.optim.AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    torch.optim.SGD: frozenset({"momentum_buffer"}),
}

#: Columns of the history that are read after an epoch; the others are only written.
_COLUMNS = {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"}


@dataclass
class Progress:
    """How far a training has come: the part of its state that is not tensors."""

    micro: int  # images in one forward pass
    epoch: int = 0  # the current one; epoch 0 only measures the start
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # steps of all epochs that are done
    loss: float = 0.0  # sum over the images of this epoch
    right: int = 0  # images of this epoch that were classified correctly
    seen: int = 0  # images of this epoch
    seconds: float = 0.0  # of this epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one row for each epoch done
    best_epoch: int = 0  # of highest ``quality``; if equal, the earliest

    def count(self, n: int, loss: float, right: int) -> None:
        """Count a batch of n images, with their mean loss and how many were right."""
        self.batch, self.step = self.batch + 1, self.step + 1
        self.loss, self.right = self.loss + loss * n, self.right + right
        self.seen += n

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss, self.right, self.seen, self.seconds = 0.0, 0, 0, 0.0


@dataclass
class State:
    """Network, optimiser, running average, best tensors and progress."""

    network: TrainableNetwork  # on its device; changed in place
    optimizer: torch.optim.Optimizer  # its groups have "names"
    progress: Progress
    average: Tensors | None  # running average of the trained tensors, where one is kept
    best: Tensors  # the trained tensors after the best epoch

    @classmethod
    def new(
        cls,
        network: TrainableNetwork,
        optimizer: torch.optim.Optimizer,
        *,
        micro: int,
        average: bool,
    ) -> State:
        """Return the state before the first step."""
        start = network.state()
        averaged = copied(start) if average else None
        return cls(network, optimizer, Progress(micro=micro), averaged, copied(start))

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield the optimiser's parameters with their names."""
        for group in self.optimizer.param_groups:
            yield from zip(group["names"], group["params"], strict=True)

    def candidate(self) -> Tensors:
        """Return the tensors to validate: the average where one is kept, else the network's."""
        return self.network.state() if self.average is None else self.average

    def keep_if_best(self) -> None:
        """Keep the candidate where the last row of the history is better than the best one."""
        progress = self.progress
        last, best = progress.history[-1], progress.history[progress.best_epoch]
        if quality(last) > quality(best):
            progress.best_epoch = progress.epoch
            self.best = copied(self.candidate())

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Average in the network; ``decay`` is the share of the average that remains.

        The share is less in the first steps: otherwise the start would count for too long.
        """
        if self.average is None:
            return
        done = self.progress.step + 1
        keep = min(decay, (1 + done) / (10 + done))
        for name, tensor in self.network.state().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - keep)
            else:
                self.average[name].copy_(tensor)

    def tensors(self) -> Tensors:
        """Return every tensor of the state, by name."""
        found = {f"network/{name}": tensor for name, tensor in self.network.state().items()}
        found |= {f"average/{name}": tensor for name, tensor in (self.average or {}).items()}
        if self.progress.best_epoch > 0:  # before that they are the same for every start
            found |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, parameter in self.trained():
            moments: Mapping[str, Any] = self.optimizer.state.get(parameter, {})
            for key, value in moments.items():
                if isinstance(value, torch.Tensor):
                    found[f"optimizer/{key}/{name}"] = value
        return found

    @torch.no_grad()
    def restore(self, saved: Saved) -> None:
        """Continue from a checkpoint of the same run: ``Checkpoints.load`` has refused others.

        Raises RunError where the progress is none of a training, or tensors are missing, unknown,
        not finite or of another shape or type.
        """
        try:
            self._restore(saved)
        except ValueError as error:  # msgspec's too
            raise does_not_fit(str(error)) from error

    def _restore(self, saved: Saved) -> None:
        progress = self.progress = _checked_progress(saved.state.get("progress"))
        parts: dict[str, Tensors] = {"network": {}, "average": {}, "best": {}, "optimizer": {}}
        for name, tensor in saved.tensors.items():
            part, _, rest = name.partition("/")
            if part not in parts:
                raise ValueError(f"{name[:80]} is unknown")
            _require_finite(name, tensor)
            parts[part][rest] = tensor
        _fill(self.network.state(), parts["network"], "network")
        _fill(self.average or {}, parts["average"], "average")
        _fill(self.best if progress.best_epoch > 0 else {}, parts["best"], "best")
        self._restore_optimizer(parts["optimizer"])

    def _restore_optimizer(self, saved: Tensors) -> None:
        of_parameters: dict[str, Tensors] = {}
        for name, tensor in saved.items():
            key, _, of = name.partition("/")
            of_parameters.setdefault(of, {})[key] = tensor
        parameters = dict(self.trained())
        _refuse_differing(of_parameters.keys() - parameters.keys(), "optimizer", "is unknown")
        for of, found in of_parameters.items():
            # A parameter that has had no gradient yet has no moments.
            expected = _MOMENTS[type(self.optimizer)]
            _refuse_differing(
                found.keys() ^ expected, "optimizer", f"of {of} is missing or unknown"
            )
            self.optimizer.state[parameters[of]] = {
                key: _moment(f"optimizer/{key}/{of}", tensor, key, parameters[of])
                for key, tensor in found.items()
            }


def does_not_fit(reason: str) -> RunError:
    """Return the error for a checkpoint from which a training cannot go on."""
    return RunError(
        f"the checkpoint does not fit this run: {reason}",
        hint="`overwrite=True` starts from the beginning",
    )


def _checked_progress(found: object) -> Progress:
    """Return the progress that a checkpoint has; raise ValueError where no training has it."""
    progress = msgspec.convert(found, Progress)
    counts = (progress.batch, progress.step, progress.right, progress.seen, progress.best_epoch)
    sums = (progress.loss, progress.seconds)
    sound = (
        progress.micro >= 1
        and min(counts) >= 0
        and progress.epoch == len(progress.history)
        and progress.best_epoch <= max(progress.epoch - 1, 0)
        and all(map(math.isfinite, sums))
    )
    if not sound:
        raise ValueError("its progress is none of a training")
    for epoch, row in enumerate(progress.history):
        numbers = [value for value in row.values() if value is not None]
        finite = all(type(number) in {int, float} and math.isfinite(number) for number in numbers)
        scores = [row[name] for name in row if name.startswith("val_")]
        sound = row.keys() >= _COLUMNS and row.keys() == progress.history[0].keys()
        untrained = {row.get(f"train_{name}") is None for name in ("loss", "accuracy")}
        sound = sound and row["epoch"] == epoch and untrained == {epoch == 0}
        if not (sound and finite and None not in scores):
            raise ValueError(f"its row of epoch {epoch} is none of a training")
    return progress


def _fill(into: Tensors, saved: Tensors, part: str) -> None:
    """Copy saved tensors into those of the same names; all must be there, and no others."""
    _refuse_differing(into.keys() - saved.keys(), part, "is missing")
    _refuse_differing(saved.keys() - into.keys(), part, "is unknown")
    for name, tensor in into.items():
        _require_same_kind(f"{part}/{name}", saved[name], tensor)
        tensor.copy_(saved[name])


def _moment(name: str, saved: torch.Tensor, key: str, parameter: torch.Tensor) -> torch.Tensor:
    """Return what the optimiser keeps of a parameter, on its device."""
    if key == "step":
        _require_same_kind(name, saved, torch.zeros((), dtype=torch.float32))
        return saved.to(parameter.device)
    _require_same_kind(name, saved, parameter)
    # In the parameter's memory format: another one may be computed in another order.
    return torch.empty_like(parameter).copy_(saved).detach()


def _refuse_differing(names: Collection[str], part: str, what: str) -> None:
    if names:
        raise ValueError(f"{part}/{min(names)[:80]} {what}")


def _require_finite(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError for NaN or infinite values: no checkpoint of ours holds any."""
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise ValueError(f"{name[:80]} is not finite")


def _require_same_kind(name: str, saved: torch.Tensor, own: torch.Tensor) -> None:
    """Raise ValueError for another shape, which torch may broadcast, or another type."""
    if (saved.shape, saved.dtype) != (own.shape, own.dtype):
        raise ValueError(
            f"{name} is {saved.dtype} of shape {shape_text(saved.shape)}, and not {own.dtype} of "
            f"shape {shape_text(own.shape)}"
        )


def quality(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return what epochs are compared by: validation accuracy, and then minus the log-loss.

    Each class counts the same where it does so in the training loss (--class-weight balanced).
    """
    kind = "val_balanced" if "val_balanced_accuracy" in row else "val"
    return row[f"{kind}_accuracy"], -row[f"{kind}_loss"]


def copied(tensors: Tensors) -> Tensors:
    """Copy tensors, each in its own memory format."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
