"""A source that keeps something of each image as it is read, until that is taken."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from regraft.data.samples import Source
    from regraft.images.payload import Load, Payload

Kept = TypeVar("Kept")


class Recorded(Generic[Kept]):
    """A source, and what is kept of its images.

    Images are read a bounded number before they are used: as long as each is taken then, only so
    many are in memory.

    Parameters
    ----------
    source : Source
        Of the images; ``self.source`` has the same ones.
    keep : callable
        Returns what is kept of a payload; is called in the thread that reads it.

    Examples
    --------
    >>> from regraft.data.samples import Entry, Source
    >>> from regraft.data.sources.stream import read_each
    >>> entries = [Entry("a", ""), Entry("b", "")]
    >>> images = Source("unlabelled", "", entries, partial(read_each, str.encode, ["one", "two"]))
    >>> recorded = Recorded(images, len)
    >>> [load() for _, load in recorded.source.stream([1])]
    [b'two']
    >>> recorded.take(1), recorded.take(1), recorded.take(0)
    (3, None, None)
    """

    def __init__(self, source: Source, keep: Callable[[Payload], Kept]) -> None:
        self.source = replace(source, stream=self._stream)
        self._inner = source.stream
        self._keep = keep
        self._kept: dict[int, Kept] = {}

    def take(self, index: int) -> Kept | None:
        """Return what was kept of an image, once; None if it could not be read."""
        return self._kept.pop(index, None)

    def _stream(self, indices: Sequence[int]) -> Iterator[tuple[int, Load]]:
        for index, load in self._inner(indices):
            yield index, partial(self._read, index, load)

    def _read(self, index: int, load: Load) -> Payload:
        payload = load()
        self._kept[index] = self._keep(payload)
        return payload
