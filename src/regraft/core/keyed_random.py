"""Random numbers as functions of a key: each use makes its own generator.

What is drawn for an image or a step depends on its key alone, and not on earlier draws. So a
resumed run needs no state of a generator, and threads may draw in any order.
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
    """Return the hash (32 bytes) of what a random draw may depend on.

    The words are the seed, what is drawn, and for what. Their lengths are hashed too, so that
    ("a", "b") and ("ab", "") differ.

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
    """Return a new generator for a key, whose words are as for ``key_of``.

    Its algorithm is Philox, which has no state but the key and is made in microseconds.

    Examples
    --------
    >>> float(generator(0, "x").random()) == float(generator(0, "x").random())
    True
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key_of(*words)[:16], "little")))


@contextmanager
def torch_seeded(device: torch.device, *words: int | str | bytes) -> Iterator[None]:
    """Seed torch's global generators by a key for a block of code, then restore their state.

    Dropout and stochastic depth draw from them and accept no other generator. The generators of
    ``device`` and of the processor are seeded.
    """
    number = int.from_bytes(key_of(*words)[:7], "little")
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed: it seeds all GPUs of the machine, and only one is restored.
        torch.default_generator.manual_seed(number)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(number)
        yield
