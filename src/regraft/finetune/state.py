"""Everything that a step changes: a checkpoint holds all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from regraft.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from regraft.finetune.checkpoint import Saved
    from regraft.finetune.network import TrainableNetwork

Tensors: TypeAlias = dict[str, torch.Tensor]


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

        Raises RunError where tensors are missing, unknown or of another shape.
        """
        try:
            self._restore(saved)
        except (KeyError, TypeError, RuntimeError) as error:
            raise RunError(
                f"the checkpoint does not fit this run: {error}",
                hint="`overwrite=True` starts from the beginning",
            ) from error

    def _restore(self, saved: Saved) -> None:
        self.progress = Progress(**saved.state["progress"])
        parts: dict[str, Tensors] = {"network": {}, "average": {}, "best": {}, "optimizer": {}}
        for name, tensor in saved.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        for name, tensor in self.network.state().items():
            tensor.copy_(parts["network"][name])
        for kept, part in ((self.average, "average"), (self.best, "best")):
            for name, tensor in parts[part].items():
                if kept is not None:
                    kept[name].copy_(tensor)
        self._restore_optimizer(parts["optimizer"])

    def _restore_optimizer(self, saved: Tensors) -> None:
        parameters = dict(self.trained())
        for name, tensor in saved.items():
            key, _, of = name.partition("/")
            parameter = parameters[of]
            if tensor.shape == parameter.shape:
                # In the parameter's memory format: another one may be computed in another order.
                value = torch.empty_like(parameter).copy_(tensor)
            else:
                value = tensor.to(parameter.device)
            self.optimizer.state[parameter][key] = value.detach()


def quality(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return what epochs are compared by: validation accuracy, and then minus the log-loss.

    Each class counts the same where it does so in the training loss (--class-weight balanced).
    """
    kind = "val_balanced" if "val_balanced_accuracy" in row else "val"
    return row[f"{kind}_accuracy"], -row[f"{kind}_loss"]


def copied(tensors: Tensors) -> Tensors:
    """Copy tensors, each in its own memory format."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
