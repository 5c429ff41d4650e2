"""The types of images in data: entries of a source, samples of a scan, parts of a split.

A source lists entries and streams their payloads; a scan turns entries into samples (with hash and
size, and refused files in the ledger); a split turns samples into parts. The images themselves are
never kept: they are streamed when they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from regraft.images.ahead import decode_ahead
from regraft.images.payload import Load, Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from regraft.data.ledger import Ledger, LedgerEntry
    from regraft.errors import ImageError

__all__ = ["Entry", "Load", "Part", "Parts", "Payload", "Samples", "Source"]

Part = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One labelled image as a source lists it, before it is read."""

    id: str  # path in the source, with "/" and in Unicode form NFC; a number in an array
    label: str  # name of the class
    part: Part | None = None  # None if the data have no parts of their own
    group: str | None = None  # images of one group stay in one part


@dataclass(frozen=True)
class Source:
    """Labelled images in a folder, a file or an array: listed at once, read one after another.

    Attributes
    ----------
    kind : str
        A key of ``regraft.data.sources.registry.SOURCES``: "folder", "zip", ...
    location : str
        The user's words for it, for messages.
    entries : sequence of Entry
        Sorted by id if that is a path; for a compressed tar, in the order of its members.
    stream : callable
        ``stream(indices)`` yields ``(index, load)`` for ascending indices into ``entries``.
        ``load()`` returns the payload, and is called once, from any thread. A compressed tar can
        only be read from front to back: so this is a stream and not a function of one index, and
        each call of it reads such a tar from its beginning.
    refused : sequence of LedgerEntry
        Files that cannot be entries: links out of the folder, no image, ...
    notes : tuple of str
        For the user, one line each: "val is used as the test part: there is no test folder".
    revision : str or None
        Version of data that come from a server.
    lost_classes : mapping of str to str
        Class folders without an image that is read, with the reason.
    """

    kind: str
    location: str
    entries: Sequence[Entry]
    stream: Callable[[Sequence[int]], Iterator[tuple[int, Load]]]
    refused: Sequence[LedgerEntry] = ()
    notes: tuple[str, ...] = ()
    revision: str | None = None
    lost_classes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """N labelled images whose headers can be read, and the ledger of all files."""

    source: Source  # of the payloads
    #: (N) unique names. Samples are sorted by them, whatever the order of an archive or a table;
    #: samples of arrays are in the order of the arrays.
    ids: tuple[str, ...]
    classes: tuple[str, ...]  # names, sorted by code point
    labels: NDArray[np.int64]  # (N,) indices into the classes
    hashes: tuple[bytes, ...]  # (N) sha256 of each payload; of pixels: of dtype, shape and bytes
    parts: tuple[Part | None, ...]  # (N) None if the data have no parts of their own
    groups: tuple[str | None, ...]  # (N) samples of one group stay in one part
    sizes: NDArray[np.int32]  # (N, 2) height and width in pixels, after EXIF orientation
    positions: NDArray[np.int64]  # (N,) indices of their entries; ascending but in compressed tars
    ledger: Ledger  # every file: used, refused with its reason, or passed over
    notes: tuple[str, ...] = ()  # for the user, one line each: of the source and of the scan
    max_pixels: int = 40_000_000  # images with more pixels are refused before they are decoded
    max_refused: float = 0.05  # a larger share of images that cannot be read is an error
    #: (N,) above 0: how much each sample counts in fits and choices; only their ratios matter. None
    #: where all count the same.
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def stream(self, indices: Sequence[int] | NDArray[np.int64]) -> Iterator[tuple[int, Load]]:
        """Yield ``(index, load)`` of each wanted sample, in the order of the source.

        The order is ascending, except for a compressed tar, which is read from front to back: use
        the index that is yielded with each image.
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
        """Decode images in threads; yield each index with the pixels (H, W, 3) or the error.

        The order is that of ``stream``. An image that has changed since the scan is an error.
        """
        return decode_ahead(self.stream(indices), n_threads, self.max_pixels, self.hashes)


@dataclass(frozen=True)
class Parts:
    """Disjoint sets of samples, each an ascending array of indices."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]  # empty if there is none
    test: NDArray[np.int64]
    left_out: dict[int, str]  # samples in no part, with the reason: "byte-identical to ..."
    notes: tuple[str, ...] = ()  # for the user, one line each
