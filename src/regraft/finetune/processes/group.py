"""The processes that ``torchrun`` starts for one training; without it, the only process.

Each process has the same network and takes its share of the images of each step; gradients are
summed, so all processes make the same update. Before and after the steps the first process works
alone while the others wait; it alone writes and prints. Messages are safetensors and JSON, never
pickle.
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

#: How long a process waits for another one in a step; a dead one is noticed at once.
_LONGEST = timedelta(minutes=30)
_PAUSE = 0.2  # seconds between two checks while the first process works alone
_TRAININGS = itertools.count()  # of this process
_SAVING = 25.0  # seconds; torchrun kills 30 seconds after its signal


@dataclass(frozen=True)
class ProcessGroup:
    """One process of a training and its connection to the others; by default it is alone.

    >>> ProcessGroup().share(5)
    slice(0, 5, None)
    >>> [ProcessGroup(rank, 2).share(5) for rank in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """

    rank: int = 0  # number of this process
    size: int = 1  # number of all processes
    local_rank: int = 0  # the same on this machine
    local_size: int = 1
    store: Any = None  # a torch.distributed.Store, for short messages

    @property
    def first(self) -> bool:
        """True for the process that writes and prints."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return the slice of n items that this process takes; shares differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def device(self, name: str) -> str:
        """Return the device of this process: each process of a machine takes its own GPU."""
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

        # One vector: the order of the sums does not depend on how a library cuts it into buckets.
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
        """Return the largest number of all processes."""
        if self.size == 1:
            return number
        import torch
        from torch import distributed

        found = torch.tensor([number])
        with lost_process_errors():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def send(self, name: str, data: bytes) -> None:
        """Send a message from the first process to all others; each must ``receive`` it."""
        if self.size == 1:
            return
        import numpy as np
        import torch
        from torch import distributed

        with lost_process_errors():
            self.store.set(name, "sent")
            distributed.broadcast(torch.tensor([len(data)]), 0)
            distributed.broadcast(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), 0)

    def receive(self, name: str) -> bytes:
        """Wait for a message of the first process, however long it works, and return it."""
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
        """Wait until the first process has set a name; in short sleeps, so that signals work.

        Raises RegraftError where the first process fails meanwhile.
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
        """Wait until the first process has saved; on the first process, let the others go on."""
        if self.size > 1 and self.first:
            self.store.set("saved", "yes")
        elif self.size > 1:
            self.wait_for("saved", _SAVING)


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def joined(strategy: str) -> Iterator[ProcessGroup]:
    """Join the other processes that ``torchrun`` has started, if any.

    Raises ConfigError where there are several and the strategy is "probe": processes share steps,
    and a probe has none. Raises RegraftError where another process ends too early.
    """
    rank, size = rank_and_size()
    if size == 1:
        yield ProcessGroup()
        return
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    # torchrun's store outlives its restarts, and this process may train twice: messages of another
    # training must not count.
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
            store.set("begun", "yes")
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
        group.largest(0)  # wait for all: the store may be in the first process
    except BaseException as error:
        if group.first:
            with suppress(Exception):  # others may wait, and no launcher may tell them
                store.set("failed", "yes")
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
            hint="start it without torchrun; `strategy='finetune'` has steps that they share",
        )


def _backend() -> str:
    import torch

    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


@contextmanager
def lost_process_errors() -> Iterator[None]:
    """Turn the long errors of torch where a process is gone into one line."""
    try:
        yield
    except RuntimeError as error:  # torch's DistError and what its C++ raises
        why = re.sub(r"^(\[\S+\] )+", "", str(error)).partition(". ")[0].partition("\n")[0]
        raise RegraftError(
            f"another process of this training is gone: {why}",
            hint="`resume=True` with the same settings continues from the last checkpoint",
        ) from error
