"""Random numbers as functions of a key: no generator lives longer than one use.

Whatever is drawn for an image or a step depends on its key alone, and not on what was drawn before.
So a resumed run needs no generator's state, and threads may draw in any order.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def key_of(*words: int | str | bytes) -> bytes:
    """Hash what a random draw may depend on.

    Parameters
    ----------
    *words : int, str or bytes
        The seed, what is drawn, and for what.

    Returns
    -------
    bytes
        32 bytes; lengths are part of it, so that ("a", "b") and ("ab", "") differ.

    Examples
    --------
    >>> key_of(0, "a", "b") == key_of(0, "ab", "")
    False
    """
    digest = hashlib.sha256()
    for word in words:
        data = b"b" + word if isinstance(word, bytes) else repr(word).encode()
        digest.update(len(data).to_bytes(4, "little") + data)
    return digest.digest()


def generator(*words: int | str | bytes) -> np.random.Generator:
    """Make a private generator from a key.

    Parameters
    ----------
    *words : int, str or bytes
        As for ``key_of``.

    Returns
    -------
    numpy.random.Generator
        Philox, whose key is all of its state: made in microseconds.

    Examples
    --------
    >>> float(generator(0, "x").random()) == float(generator(0, "x").random())
    True
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key_of(*words)[:16], "little")))


@contextmanager
def torch_seeded(device: torch.device, *words: int | str | bytes) -> Iterator[None]:
    """Seed torch's own generators by a key for a block of code, then put their state back.

    Dropout and stochastic depth inside networks draw from them and take no other.

    Parameters
    ----------
    device : torch.device
        Whose generator is seeded beside the processor's.
    *words : int, str or bytes
        As for ``key_of``.
    """
    number = int.from_bytes(key_of(*words)[:7], "little")
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed: it would seed every GPU of the machine, and put none back.
        torch.default_generator.manual_seed(number)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(number)
        yield
