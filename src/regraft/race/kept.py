"""What a race has finished, one small file each: a race that was killed goes on with them.

The name of a file is a hash of all that its content depends on: so no fit of other images, settings
or weights is ever taken for this one, and a file that cannot be read is made again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from regraft.core.files import read_regular, write_atomic
from regraft.runs.lock import write_errors_as_run_errors

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
_LARGEST = 64 * 2**20  # the losses of a million images


class Kept:
    """The finished work of a race, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str, kind: type[T]) -> T | None:
        """Return what was kept under a key; None if nothing of this kind was."""
        try:
            data = read_regular(self._folder / f"{key}.json", _LARGEST, follow=False)
            return msgspec.json.decode(data, type=kind)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def keep(self, key: str, value: Any) -> None:
        """Write a value under a key, as a whole or not at all."""
        with write_errors_as_run_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / f"{key}.json", msgspec.json.encode(value))


def key_of(*parts: object) -> str:
    """Return a hash of some values, by their bytes or their text.

    Examples
    --------
    >>> key_of("fit", b"a")[:8], key_of("fit", b"a") == key_of("fita", b"")
    ('3cff4827', False)
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
