"""The processes of one training, as ``torchrun`` starts them; where it did not, the one there is.

Each process holds the same network and takes its share of each step's images; gradients are
summed, so that all make the same update. Whatever comes before and after the steps, the first
process does alone, and writes and prints alone, while the others wait. What they are told goes as
safetensors and JSON: no pickle.
"""

# ruff: noqa: PLC0415 - torch takes seconds to import, and one process does not need this of it

from __future__ import annotations

import itertools
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from regraft.core.launched import launch_number, rank_and_size
from regraft.errors import ConfigError, RegraftError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

_LONGEST = timedelta(minutes=30)  # a process waits for another one in a step; one that died is told
_PAUSE = 0.2  # seconds between two looks while the first process works alone
_TRAININGS = itertools.count()  # of this process
_SAVING = 25.0  # seconds; torchrun kills 30 seconds after its signal


@dataclass(frozen=True)
class ProcessGroup:
    """One of the processes of a training; without arguments, the only one.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and of all.
    local_rank, local_size : int
        The same among those of this machine.
    store : torch.distributed.Store or None
        What the processes leave messages in.

    Examples
    --------
    >>> ProcessGroup().share(5)
    slice(0, 5, None)
    >>> [ProcessGroup(rank, 2).share(5) for rank in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return which of n things in order are this process's; shares differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def device(self, name: str) -> str:
        """Return the device of this process where a machine has several: each takes its own GPU."""
        if self.local_size == 1 or name not in {"auto", "cuda"}:
            return name
        import torch

        there = name == "cuda" or torch.cuda.is_available()
        return f"cuda:{self.local_rank}" if there else name

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their sums over all processes, in place; all get the same bits."""
        if self.size == 1 or not tensors:
            return
        import torch
        from torch import distributed

        # One vector: what is added to what does not depend on how a library cuts it into buckets.
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        flat = flat if flat.is_cuda else flat.cpu()  # gloo knows no other devices
        with lost_process_errors():
            distributed.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.detach().copy_(piece.view(tensor.shape))

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their means over all processes, in place."""
        self.add(tensors)
        if self.size > 1:
            for tensor in tensors:
                tensor.detach().div_(self.size)

    def largest(self, number: int) -> int:
        """Return the largest of all processes' numbers."""
        if self.size == 1:
            return number
        import torch
        from torch import distributed

        found = torch.tensor([number])
        with lost_process_errors():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def send(self, name: str, data: bytes) -> None:
        """Tell the others something, which each must ``hear``; done by the first process."""
        if self.size == 1:
            return
        import numpy as np
        import torch
        from torch import distributed

        with lost_process_errors():
            self.store.set(name, "told")
            distributed.broadcast(torch.tensor([len(data)]), 0)
            distributed.broadcast(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), 0)

    def receive(self, name: str) -> bytes:
        """Wait until the first process tells something, however long it works."""
        import torch
        from torch import distributed

        self.wait_for(name)
        with lost_process_errors():
            size = torch.zeros(1, dtype=torch.int64)
            distributed.broadcast(size, 0)
            data = torch.empty(int(size), dtype=torch.uint8)
            distributed.broadcast(data, 0)
        return data.numpy().tobytes()

    def wait_for(self, name: str, seconds: float = float("inf")) -> None:
        """Wait for a message of the first process; in sleeps, so that signals are heeded.

        Raises
        ------
        RegraftError
            Where the first process has failed meanwhile.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with lost_process_errors():
                if self.store.check([name]):
                    return
                failed = self.store.check(["failed"])
            if failed:
                raise RegraftError("the first process has failed, and says why")
            time.sleep(_PAUSE)

    def saved(self) -> None:
        """Let the others leave when the first process has saved; it says so by calling this."""
        if self.size > 1 and self.first:
            self.store.set("saved", "told")
        elif self.size > 1:
            self.wait_for("saved", _SAVING)


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def joined(strategy: str) -> Iterator[ProcessGroup]:
    """Join the other processes that ``torchrun`` has started, if it has.

    Parameters
    ----------
    strategy : str
        A probe is not trained in steps, which is all that processes share.

    Yields
    ------
    ProcessGroup

    Raises
    ------
    ConfigError
        Where there are several and the strategy is "probe", or a variable is no number.
    RegraftError
        Where another process ends before its time.
    """
    rank, size = rank_and_size()
    if size == 1:
        yield ProcessGroup()
        return
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    # torchrun's store outlives its restarts, and this process may train twice: what was told in
    # another training is over.
    attempt = f"regraft/{launch_number('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_TRAININGS)}"
    with lost_process_errors():
        found, _, _ = next(rendezvous("env://", timeout=_LONGEST))
        store = distributed.PrefixStore(attempt, found)  # type: ignore[attr-defined]
    local_rank, local_size = (
        launch_number("LOCAL_RANK", rank),
        launch_number("LOCAL_WORLD_SIZE", size),
    )
    group = ProcessGroup(rank, size, local_rank, local_size, store)
    try:
        if group.first:
            _refuse_probe(strategy, size)
            store.set("begun", "told")
        group.wait_for("begun")
        # It takes the group of the time as default arguments. Imported by the optimiser after the
        # group is made, it keeps the group's threads beyond the interpreter's end, where one of
        # them waits for the GIL and aborts the process: 1 of 50 trainings (pytorch's PR 179291).
        import torch.distributed.nn  # noqa: F401 - for what it does to its own defaults

        with lost_process_errors():
            distributed.init_process_group(
                _backend(), store=store, rank=rank, world_size=size, timeout=_LONGEST
            )
        yield group
        group.largest(0)  # all have heard all: the store may live in the first process
    except BaseException as error:
        if group.first:
            with suppress(Exception):  # whoever waits need not learn it from a launcher
                store.set("failed", "told")
        elif isinstance(error, RegraftError):
            error.message = f"process {rank + 1} of {size}: {error.message}"
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _refuse_probe(strategy: str, size: int) -> None:
    if strategy == "probe":
        raise ConfigError(
            f"{size} processes were started, and a probe is fitted by one",
            hint="without torchrun; or --strategy finetune, whose steps they share",
        )


def _backend() -> str:
    import torch

    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


@contextmanager
def lost_process_errors() -> Iterator[None]:
    """Tell in one line what libraries say in fifty where a process is gone."""
    try:
        yield
    except RuntimeError as error:  # torch's DistError and what its C++ raises
        why = re.sub(r"^(\[\S+\] )+", "", str(error)).partition(". ")[0].partition("\n")[0]
        raise RegraftError(
            f"another process of this training is gone: {why}",
            hint="the same command with --resume continues from the last checkpoint",
        ) from error
