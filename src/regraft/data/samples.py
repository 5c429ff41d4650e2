"""The types of the data room: what a source lists, what a scan returns, what a split says.

One direction: a source lists entries and streams their payloads; a scan turns entries into samples
(hash and size known, refused files in the ledger); a split turns samples into parts. The images
themselves are never held: they are streamed when they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from regraft.images.ahead import decode_ahead
from regraft.images.payload import Load, Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from regraft.data.ledger import Ledger, LedgerEntry
    from regraft.errors import ImageError

__all__ = ["Entry", "Load", "Part", "Parts", "Payload", "Samples", "Source"]

Part = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One labelled image as a source lists it, before anything of it was read."""

    id: str  # its path in the source, "/" between parts, NFC; a number in an array
    label: str  # the class by name
    part: Part | None = None  # where the data bring their own parts
    group: str | None = None  # what must not straddle parts


@dataclass(frozen=True)
class Source:
    """Labelled images somewhere: listed at once, read one after the other.

    Attributes
    ----------
    kind : str
        Key of the registry ``regraft.data.sources.registry.SOURCES`` ("folder", "zip", ...).
    location : str
        What the user gave, for messages.
    entries : sequence of Entry
        Sorted by id where that is a path; of a compressed tar: the order in which members lie.
    stream : callable
        ``stream(indices)`` yields ``(index, load)`` for ascending indices into ``entries``.
        ``load()`` returns the payload and may be called from any thread, once. A compressed tar
        can only be read from front to back: that is why this is a stream and not a function of one
        index. Random access costs one pass per call there.
    refused : sequence of LedgerEntry
        What the listing met and could not list: links out of the tree, not an image, ...
    notes : tuple of str
        One line each, shown to the user: "val is used as the test part: there is no test folder".
    revision : str or None
        Of data that come from a server: which version of them this is.
    """

    kind: str
    location: str
    entries: Sequence[Entry]
    stream: Callable[[Sequence[int]], Iterator[tuple[int, Load]]]
    refused: Sequence[LedgerEntry] = ()
    notes: tuple[str, ...] = ()
    revision: str | None = None


@dataclass(frozen=True)
class Samples:
    """N labelled images that can be read as far as their header tells, and the ledger.

    Attributes
    ----------
    source : Source
        Where the payloads come from; ``positions`` maps a sample to its entry there.
    ids : tuple of str
        Stable names, unique. Samples are in their order, whatever order an archive or a table has;
        those of arrays in the arrays' order.
    classes : tuple of str
        All class names, sorted by code point; a label is an index into it.
    labels : array of shape (N,), int64
        Index into ``classes``.
    hashes : tuple of bytes
        sha256 of each payload (for pixels: of dtype, shape and bytes), 32 bytes each.
    parts : tuple of Part or None
        Where the data bring their own parts.
    groups : tuple of str or None
        What must not straddle parts.
    sizes : array of shape (N, 2), int32
        Height and width in pixels after EXIF orientation.
    positions : array of shape (N,), int64
        Index of each sample's entry in the source; ascending but for a compressed tar.
    ledger : Ledger
        Every file that was met: used, refused with its reason, or passed over.
    notes : tuple of str
        One line each, shown to the user: the source's, and what the scan found.
    max_pixels : int
        Images with more pixels are refused before they are decoded.
    """

    source: Source
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    hashes: tuple[bytes, ...]
    parts: tuple[Part | None, ...]
    groups: tuple[str | None, ...]
    sizes: NDArray[np.int32]
    positions: NDArray[np.int64]
    ledger: Ledger
    notes: tuple[str, ...] = ()
    max_pixels: int = 40_000_000

    def __len__(self) -> int:
        return len(self.ids)

    def stream(self, indices: Sequence[int] | NDArray[np.int64]) -> Iterator[tuple[int, Load]]:
        """Yield ``(index of the sample, load)`` of each wanted sample, as the source has them.

        That is the ascending order, except for a compressed tar, which is read from front to back:
        go by the index that comes with each image.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        wanted = wanted[np.argsort(self.positions[wanted], kind="stable")]
        yield from (
            (int(index), load)
            for index, (_, load) in zip(
                wanted, self.source.stream(self.positions[wanted].tolist()), strict=True
            )
        )

    def pixels(
        self, indices: Sequence[int] | NDArray[np.int64], n_threads: int
    ) -> Generator[tuple[int, NDArray[np.uint8] | ImageError]]:
        """Decode images in threads; yield each index with its pixels (H, W, 3), or with the error.

        The order is that of ``stream``. An image that has changed since the scan is an error.
        """
        return decode_ahead(self.stream(indices), n_threads, self.max_pixels, self.hashes)


@dataclass(frozen=True)
class Parts:
    """Disjoint sets of samples, each an ascending array of indices.

    Attributes
    ----------
    train, val, test : array of int64
        Indices into the samples; ``val`` is empty where there is none.
    left_out : dict of int to str
        Samples in no part, each with the reason ("byte-identical to test/a.jpg, which is ...").
    notes : tuple of str
        One line each, shown to the user.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    left_out: dict[int, str]
    notes: tuple[str, ...] = ()
