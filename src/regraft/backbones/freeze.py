"""Hash parameters and buffers, to check that a frozen network has not changed."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from regraft.core.text import counted, listed
from regraft.errors import FrozenError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torch import nn


def _tensor_hashes(module: nn.Module, names: Collection[str] | None = None) -> dict[str, bytes]:
    """Hash each entry of the state dict, which includes BatchNorm's running statistics."""
    hashes = {}
    for name, value in module.state_dict().items():
        if names is not None and name not in names:
            continue
        tensor = value.detach().cpu().contiguous()
        head = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode()
        digest = hashlib.sha256(head)
        # As bytes, because numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        hashes[name] = digest.digest()
    return hashes


def state_hash(module: nn.Module) -> str:
    """Hash the parameters and persistent buffers of a network: names, dtypes, shapes and bytes.

    The sha256 does not depend on the device or the memory format.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 1)
    >>> state_hash(layer) == state_hash(layer)
    True
    """
    hashes = _tensor_hashes(module)
    return hashlib.sha256(b"".join(hashes[name] for name in sorted(hashes))).hexdigest()


@contextmanager
def frozen(module: nn.Module, names: Collection[str] | None = None) -> Iterator[None]:
    """Check that a block of code does not change a network's tensors, or those with some names.

    Examples
    --------
    >>> norm = torch.nn.BatchNorm2d(3)
    >>> with frozen(norm):
    ...     _ = norm(torch.ones(2, 3, 4, 4))
    Traceback (most recent call last):
        ...
    regraft.errors.FrozenError: 3 frozen tensors have changed: num_batches_tracked, running_mean, \
running_var
    """
    before = _tensor_hashes(module, names)
    yield
    after = _tensor_hashes(module, names)
    changed = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    if changed:
        have = counted(len(changed), "frozen tensor has", "frozen tensors have")
        raise FrozenError(f"{have} changed: {listed(changed)}")
