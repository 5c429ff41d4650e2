"""Which process of a training this is, if ``torchrun`` has started several."""

from __future__ import annotations

import os

from regraft.errors import ConfigError

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_first() -> bool:
    """Return whether this process is the one that prints."""
    return rank_and_size()[0] == 0


def rank_and_size() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many there are; 0 and 1 by default."""
    if not all(name in os.environ for name in _VARIABLES):
        return 0, 1
    return launch_number("RANK", 0), launch_number("WORLD_SIZE", 1)


def launch_number(name: str, default: int) -> int:
    """Return a number that ``torchrun`` sets in the environment, or the default without it."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"the variable {name} is {text!r}; torchrun sets it to a number")
    return int(text)
