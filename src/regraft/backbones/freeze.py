"""Frozen means frozen: parameters and buffers are hashed before and after."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from regraft.errors import FrozenError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torch import nn

_SHOWN = 10


def _tensor_hashes(module: nn.Module, names: Collection[str] | None = None) -> dict[str, bytes]:
    """Hash each entry of the state: BatchNorm's running statistics are part of it."""
    hashes = {}
    for name, value in module.state_dict().items():
        if names is not None and name not in names:
            continue
        tensor = value.detach().cpu().contiguous()
        head = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode()
        digest = hashlib.sha256(head)
        # Bytes of any dtype, bfloat16 among them, which numpy does not know.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        hashes[name] = digest.digest()
    return hashes


def state_hash(module: nn.Module) -> str:
    """Hash all parameters and persistent buffers of a network.

    Parameters
    ----------
    module : nn.Module
        On any device; memory format and device do not change the hash.

    Returns
    -------
    str
        sha256 in hexadecimal, over names, dtypes, shapes and bytes, in the order of the names.

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
    """Check that a network leaves a block of code as it entered it.

    Parameters
    ----------
    module : nn.Module
        The network that must not change.
    names : collection of str, optional
        The tensors of it that must not; all where not given.

    Raises
    ------
    FrozenError
        Where a parameter or a buffer was changed, added or removed; names up to ten of them.

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
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        noun = "tensor has" if len(changed) == 1 else "tensors have"
        raise FrozenError(
            f"{len(changed)} frozen {noun} changed: {', '.join(changed[:_SHOWN])}{more}"
        )
