"""Extraction: one forward pass for the images whose rows the store does not have.

What it returns is a source of rows, not an array: 300,000 images with all stages are 3 GB and
more. Decoding runs ahead in threads; batches have one fixed size, so that a row's bits do not
depend on how many others were missing.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from regraft.backbones.preprocess import render
from regraft.data.decode import DECODER_VERSION, decode, hash_payload
from regraft.errors import ImageError, StoreError
from regraft.features.rows import encode_row, fingerprint_of, row_key
from regraft.features.taps import Block, TapReader, round_block, row_blocks
from regraft.report import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone, Preprocess
    from regraft.data.samples import Load, Samples
    from regraft.features.compute import Compute
    from regraft.features.store import FeatureStore

_ROWS_A_COMMIT = 256  # one fsync each; what a kill can cost
PLAIN_VIEW = 0
_NOT_FINITE = ImageError("not finite", "the network gives infinite or undefined features")


@dataclass(frozen=True)
class Features:
    """The rows of some samples, read from the store when they are asked for.

    Attributes
    ----------
    widths : dict of Block to int
        Every block that a row holds, with its number of features.
    refused : dict of int to ImageError
        Samples whose image could not be decoded; they have no row.
    n_extracted, n_reused : int
        Samples whose row was made in this run, or was there already.
    """

    store: FeatureStore
    keys: dict[int, bytes]
    widths: dict[Block, int]
    refused: dict[int, ImageError]
    n_extracted: int
    n_reused: int

    def matrix(self, indices: NDArray[np.int64], blocks: Sequence[Block]) -> NDArray[np.float32]:
        """Return the blocks of some samples side by side.

        Parameters
        ----------
        indices : array of shape (n,), int64
            Samples that have a row, in any order.
        blocks : sequence of Block
            Keys of ``widths``.

        Returns
        -------
        array of shape (n, D), float32
            Row by row in the order of ``indices``.

        Raises
        ------
        StoreError
            Where a row has left the store since it was found.
        """
        rows = np.empty((len(indices), sum(self.widths[block] for block in blocks)), np.float32)
        names = [str(block) for block in blocks]
        found = self.store.read([self.keys[int(index)] for index in indices])
        with closing(found):
            for target, row in zip(rows, found, strict=True):
                if row is None:
                    raise StoreError(
                        f"a row left the store {self.store.folder} while this run was using it",
                        hint="run the command again; a larger REGRAFT_CACHE_LIMIT prevents it",
                    )
                np.concatenate([row[name] for name in names], out=target, casting="same_kind")
        return rows


def extract(
    samples: Samples,
    indices: NDArray[np.int64],
    backbone: Backbone,
    compute: Compute,
    *,
    store: FeatureStore,
    workers: int,
    max_pixels: int,
    reporter: Reporter | None = None,
) -> Features:
    """Make sure that the store has a row for every sample, and return the source of the rows.

    Parameters
    ----------
    samples : Samples
        Read as a stream.
    indices : array of shape (n,), int64
        Ascending; which samples.
    backbone : Backbone
        Frozen.
    compute : Compute
        Device, precision and the one batch size.
    store : FeatureStore
        Where rows are found and kept.
    workers : int
        Threads that read and decode, at least 1.
    max_pixels : int
        Larger images are refused.
    reporter : Reporter, optional
        Follows the images that are extracted.

    Returns
    -------
    Features
        With the refused samples by index.

    Raises
    ------
    StoreError, DiskFullError
        Where rows cannot be written; those written before stay.
    """
    blocks = row_blocks(backbone)
    fingerprint = feature_fingerprint(backbone, blocks, compute)
    keys = {
        int(index): row_key(samples.hashes[index], PLAIN_VIEW, fingerprint) for index in indices
    }
    widths: dict[Block, int] = {}
    missing: dict[bytes, int] = {}  # by key: byte-identical images are extracted once
    with closing(store.read(list(keys.values()))) as found:
        for (index, key), row in zip(keys.items(), found, strict=True):
            if row is None:
                missing.setdefault(key, index)
            elif not widths:
                widths.update((block, len(row[str(block)])) for block in blocks)
    store.stamp(key for key in keys.values() if key not in missing)

    failed: dict[bytes, ImageError] = {}
    if missing:
        reader = TapReader(backbone, blocks, compute)
        todo = [(index, key) for key, index in missing.items()]
        stream = samples.stream([index for index, _ in todo])
        rendered = render_ahead(stream, backbone.preprocess, workers, max_pixels, samples.hashes)
        with (
            (reporter or Reporter()).track("extract", len(todo)) as advance,
            closing(rendered),
            _Writer(store) as writer,
        ):
            for key, result in _rows(reader, todo, rendered, advance):
                if isinstance(result, ImageError):
                    failed[key] = result
                else:
                    widths = widths or {block: len(result[str(block)]) for block in blocks}
                    writer.add(key, encode_row(key, result))

    refused = {index: failed[key] for index, key in keys.items() if key in failed}
    n_new = sum(key in missing for key in keys.values()) - len(refused)
    return Features(store, keys, widths, refused, n_new, len(keys) - n_new - len(refused))


def _rows(
    reader: TapReader,
    todo: Sequence[tuple[int, bytes]],
    rendered: Generator[tuple[int, torch.Tensor | ImageError]],
    advance: Callable[[int], None],
) -> Generator[tuple[bytes, dict[str, NDArray[Any]] | ImageError]]:
    """Yield the row, or the reason why there is none, of each image in turn."""
    size = reader.compute.batch_size
    keys = iter(todo)
    while batch := list(itertools.islice(rendered, size)):
        images = [image for _, image in batch if isinstance(image, torch.Tensor)]
        blocks = reader(_padded(images, size)) if images else {}
        position = 0
        for (_, image), (_, key) in zip(batch, itertools.islice(keys, len(batch)), strict=True):
            if isinstance(image, ImageError):
                yield key, image
                continue
            row = {str(name): round_block(rows[position]) for name, rows in blocks.items()}
            position += 1
            finite = all(np.isfinite(values).all() for values in row.values())
            yield (key, row) if finite else (key, _NOT_FINITE)
        advance(len(batch))


def feature_fingerprint(backbone: Backbone, blocks: Sequence[Block], compute: Compute) -> bytes:
    """Return the hash of all that a feature's bits depend on besides the image."""
    return fingerprint_of(
        {
            "backbone": backbone.name,
            "arguments": dict(backbone.arguments),
            "weights": backbone.weights_sha256,
            "preprocess": dataclasses.asdict(backbone.preprocess),
            "blocks": [str(block) for block in blocks],
            "stages": [dataclasses.asdict(stage) for stage in backbone.stages],
            "decoder": DECODER_VERSION,
            "compute": compute.fingerprint(),
        }
    )


def render_ahead(
    stream: Iterable[tuple[int, Load]],
    preprocess: Preprocess,
    workers: int,
    max_pixels: int,
    hashes: Sequence[bytes] | None = None,
) -> Generator[tuple[int, torch.Tensor | ImageError]]:
    """Read, decode and render in threads, a bounded number of images ahead.

    Parameters
    ----------
    stream : iterable of (int, callable)
        As ``Samples.stream`` and ``Source.stream`` give it.
    preprocess : Preprocess
        The backbone's.
    workers : int
        Threads.
    max_pixels : int
        Larger images are refused.
    hashes : sequence of bytes, optional
        By index: what the images were when they were scanned. One that has changed since is
        refused, since its row would stand under another image's key.

    Yields
    ------
    tuple of int and (tensor of shape (3, S, S), uint8, or ImageError)
        In the order of the stream.
    """

    def render_one(index: int, load: Load) -> torch.Tensor | ImageError:
        try:
            payload = load()
            if hashes is not None and hash_payload(payload) != hashes[index]:
                return ImageError("changed", "its bytes have changed since they were first read")
            return render(decode(payload, max_pixels), preprocess)
        except ImageError as error:
            return error
        except OSError as error:
            return ImageError("unreadable", error.strerror or type(error).__name__)

    ahead = 2 * workers + 32  # a batch or two: enough to keep the network busy, little memory
    waiting: collections.deque[tuple[int, Future[torch.Tensor | ImageError]]] = collections.deque()
    n_threads = torch.get_num_threads()
    # One thread of torch's in each worker, else every resize wakes all processors: OpenMP counts
    # them by calling thread, but threads that start later take over the last count that was set.
    pool = ThreadPoolExecutor(
        workers, "regraft-decode", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        for index, load in stream:
            waiting.append((index, pool.submit(render_one, index, load)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)


def _padded(images: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """Stack to a batch of fixed size; the kernels chosen, and so the bits, depend on the size."""
    batch = torch.zeros((size, *images[0].shape), dtype=torch.uint8)
    batch = batch.contiguous(memory_format=torch.channels_last)
    for target, image in zip(batch, images, strict=False):
        target.copy_(image)
    return batch


class _Writer:
    """Writes rows behind the forward pass, a few hundred in one transaction."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._rows: list[tuple[bytes, bytes]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regraft-store")
        self._written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What is done is kept, also when the extraction itself was interrupted.
        try:
            self._flush()
            self._wait()
        finally:
            self._thread.shutdown()

    def add(self, key: bytes, row: bytes) -> None:
        self._rows.append((key, row))
        if len(self._rows) >= _ROWS_A_COMMIT:
            self._flush()

    def _flush(self) -> None:
        self._wait()  # at most one transaction is under way: memory stays bounded
        rows, self._rows = self._rows, []
        if rows:
            self._written = self._thread.submit(self._store.write, rows)

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()
