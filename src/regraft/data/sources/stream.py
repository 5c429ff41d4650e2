"""Reading images of a source one by one, where each can be read on its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from regraft.images.payload import Load, Payload

Key = TypeVar("Key")


def read_each(
    read: Callable[[Key], Payload], keys: Sequence[Key], indices: Sequence[int]
) -> Iterator[tuple[int, Load]]:
    """Yield each wanted index with the function that reads its image.

    ``partial(read_each, read, keys)`` is the ``stream`` of a source whose entry ``i`` is read by
    ``read(keys[i])``.

    Examples
    --------
    >>> stream = partial(read_each, str.encode, ["a", "b", "c"])
    >>> [(index, load()) for index, load in stream([0, 2])]
    [(0, b'a'), (2, b'c')]
    """
    for index in indices:
        yield index, partial(read, keys[index])
