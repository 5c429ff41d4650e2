"""What a step leaves behind: all of it goes into a checkpoint and comes back from one."""

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
    """Where a training is: the part of its state that is not tensors.

    Attributes
    ----------
    micro : int
        Images in one forward pass.
    epoch : int
        The one under way; 0 only measures what training starts from.
    batch, step : int
        Batches of this epoch, and steps of all, that are done.
    loss, right, seen, seconds : float or int
        Sums over this epoch so far.
    history : list of dict
        One row for each epoch that is over.
    best_epoch : int
        Of the highest validation accuracy; of equals the lowest log-loss, of equals the earliest.
    """

    micro: int
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    right: int = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss, self.right, self.seen, self.seconds = 0.0, 0, 0, 0.0


@dataclass
class State:
    """Network, optimiser, average, best tensors and progress.

    Attributes
    ----------
    network : TrainableNetwork
        On the device; changed in place.
    optimizer : torch.optim.Optimizer
        Over the network's trained parameters; its groups have "names".
    progress : Progress
        What is not tensors.
    average : dict of str to tensor, or None
        Running average of what the network trains, where one is kept.
    best : dict of str to tensor
        As the best epoch had them.
    """

    network: TrainableNetwork
    optimizer: torch.optim.Optimizer
    progress: Progress
    average: Tensors | None
    best: Tensors

    @classmethod
    def new(
        cls,
        network: TrainableNetwork,
        optimizer: torch.optim.Optimizer,
        *,
        micro: int,
        average: bool,
    ) -> State:
        """Begin where the network is.

        Parameters
        ----------
        network, optimizer
            As the attributes.
        micro : int
            Images in one forward pass.
        average : bool
            Whether to keep an average.

        Returns
        -------
        State
        """
        start = network.state()
        averaged = copied(start) if average else None
        return cls(network, optimizer, Progress(micro=micro), averaged, copied(start))

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield the optimiser's parameters with their names."""
        for group in self.optimizer.param_groups:
            yield from zip(group["names"], group["params"], strict=True)

    def candidate(self) -> Tensors:
        """Return what would be kept now: the average where there is one, else the network's own."""
        return self.network.state() if self.average is None else self.average

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the average towards the network.

        Parameters
        ----------
        decay : float
            Share of the average that stays; less in the first steps, else the start would weigh
            for long.
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
        if self.progress.best_epoch > 0:  # before that it is what every start has
            found |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, parameter in self.trained():
            moments: Mapping[str, Any] = self.optimizer.state.get(parameter, {})
            for key, value in moments.items():
                if isinstance(value, torch.Tensor):
                    found[f"optimizer/{key}/{name}"] = value
        return found

    @torch.no_grad()
    def restore(self, saved: Saved) -> None:
        """Continue where a checkpoint was saved.

        Parameters
        ----------
        saved : Saved
            Of the same run: ``Checkpoints.load`` has refused others.

        Raises
        ------
        RunError
            Where tensors are missing, unknown or of another shape.
        """
        try:
            self._restore(saved)
        except (KeyError, TypeError, RuntimeError) as error:
            raise RunError(
                f"the checkpoint does not fit this run: {error}", hint="--overwrite starts anew"
            ) from error

    def _restore(self, saved: Saved) -> None:
        self.progress = Progress(**saved.state["progress"])
        parts: dict[str, Tensors] = {"network": {}, "average": {}, "best": {}, "optimizer": {}}
        for name, tensor in saved.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        for name, tensor in self.network.state().items():
            tensor.copy_(parts["network"][name])
        for kept, of in ((self.average, "average"), (self.best, "best")):
            for name, tensor in parts[of].items():
                if kept is not None:
                    kept[name].copy_(tensor)
        parameters = dict(self.trained())
        for name, tensor in parts["optimizer"].items():
            key, _, of = name.partition("/")
            parameter = parameters[of]
            # In the parameter's memory format: another one may be computed in another order.
            place = torch.empty_like(parameter) if tensor.shape == parameter.shape else None
            value = tensor.to(parameter.device) if place is None else place.copy_(tensor)
            self.optimizer.state[parameter][key] = value.detach()


def copied(tensors: Tensors) -> Tensors:
    """Copy tensors, each in its own memory format."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
