"""Extraction: one forward pass through a frozen network, for images without a row in the store.

The result is not an array, and reads rows from the store when they are needed: 300,000 images with
all stages take 3 GB and more. Threads decode images in advance. All batches have one size, so that
the bits of a row do not depend on the number of missing rows.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from regraft.core.reporter import SILENT, Reporter
from regraft.errors import NOT_FINITE, ImageError, StoreError
from regraft.features.store.rows import encode_row, fingerprint_of, row_key
from regraft.features.taps import Block, TapReader, block_widths, padded, round_rows, row_blocks
from regraft.images.ahead import render_ahead
from regraft.images.decode import DECODER_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.data.samples import Samples
    from regraft.features.compute import Compute
    from regraft.features.store.rows import Layout
    from regraft.features.store.store import FeatureStore

_ROWS_A_COMMIT = 256  # one fsync for so many; a killed process loses fewer


@dataclass(frozen=True)
class StoredRows:
    """The rows of some samples by one network; they are read from the store when needed."""

    store: FeatureStore
    keys: dict[int, bytes]  # by sample
    widths: dict[Block, int]  # number of features in each block of a row
    refused: dict[int, ImageError]  # samples without a row, since their image cannot be decoded
    n_extracted: int  # samples with a new row
    n_reused: int  # samples whose row was in the store
    rows: RowExtractor  # extracts a row again if the store has removed it since

    def matrix(self, indices: NDArray[np.int64], blocks: Sequence[Block]) -> NDArray[np.float32]:
        """Return the blocks of some samples side by side (n, D), float32, in the given order.

        Raises StoreError if the store has removed a row and its image cannot be read again.
        """
        rows = np.empty((len(indices), sum(self.widths[block] for block in blocks)), np.float32)
        names = tuple(str(block) for block in blocks)
        order = np.argsort(
            indices, kind="stable"
        ).tolist()  # rows are stored in the order of the samples
        keys = [self.keys[int(indices[position])] for position in order]
        lost: dict[bytes, list[int]] = {}
        found = self.store.read_values(keys, names, self.rows.layout)
        for position, key, values in zip(order, keys, found, strict=True):
            if values is None:
                lost.setdefault(key, []).append(position)
            else:
                np.concatenate(values, out=rows[position], casting="same_kind")
        for position in _not_finite(rows):  # nothing of ours writes such a row
            key = self.keys[int(indices[position])]
            if position not in lost.get(key, ()):
                lost.setdefault(key, []).append(position)
        if lost:
            self._make_again(lost, indices, rows, names)
        return rows

    def _make_again(
        self,
        lost: dict[bytes, list[int]],
        indices: NDArray[np.int64],
        rows: NDArray[np.float32],
        names: Sequence[str],
    ) -> None:
        """Extract rows again that another run has evicted from the store."""
        todo = {int(indices[positions[0]]): key for key, positions in lost.items()}
        with _Writer(self.store) as writer, closing(self.rows.make(todo)) as made:
            for key, row in made:
                if isinstance(row, ImageError):
                    raise StoreError(
                        f"a row was removed from the store {self.store.folder} while this run was "
                        f"using it, and its image cannot be read again: {row.kind}: {row.reason}",
                        hint="run the command again",
                    )
                rows[lost[key]] = np.concatenate([row[name] for name in names])
                writer.add(key, encode_row(key, row))


def extract(
    rows: RowExtractor, indices: NDArray[np.int64], store: FeatureStore, reporter: Reporter = SILENT
) -> StoredRows:
    """Extract the rows that the store does not have; return the rows of the samples.

    ``indices`` (n,) are the samples, ascending. Raises StoreError or DiskFullError if rows cannot
    be written; those that were written before stay.
    """
    keys = rows.keys(indices)
    generation = None
    while generation != store.generation:  # a damaged file was replaced, and its rows are lost
        generation = store.generation
        missing = _look_up(store, keys, rows.layout)
    store.stamp(key for key in keys.values() if key not in missing)

    failed: dict[bytes, ImageError] = {}
    if missing:
        todo = {index: key for key, index in missing.items()}
        with (
            reporter.track(rows.label, len(todo)) as advance,
            closing(rows.make(todo, advance)) as made,
            _Writer(store) as writer,
        ):
            for key, row in made:
                if isinstance(row, ImageError):
                    failed[key] = row
                else:
                    writer.add(key, encode_row(key, row))

    refused = {index: failed[key] for index, key in keys.items() if key in failed}
    n_new = sum(key in missing for key in keys.values()) - len(refused)
    return StoredRows(
        store, keys, rows.widths, refused, n_new, len(keys) - n_new - len(refused), rows
    )


def _not_finite(rows: NDArray[np.float32]) -> list[int]:
    """Return the positions of rows (n, D) with values that are infinite or undefined."""
    found: list[int] = []
    for start in range(0, len(rows), _ROWS_A_COMMIT):  # so that no second array is as large
        finite = np.isfinite(rows[start : start + _ROWS_A_COMMIT]).all(axis=1)
        found += (start + np.flatnonzero(~finite)).tolist()
    return found


def _look_up(store: FeatureStore, keys: dict[int, bytes], layout: Layout) -> dict[bytes, int]:
    """Return the samples of missing rows by key.

    Byte-identical images have one key, and are extracted once.
    """
    missing: dict[bytes, int] = {}
    found = store.read(list(keys.values()), layout)
    for (index, key), row in zip(keys.items(), found, strict=True):
        if row is None:
            missing.setdefault(key, index)
    return missing


class RowExtractor:
    """Extracts rows: it runs images through a frozen network."""

    def __init__(
        self,
        samples: Samples,
        backbone: Backbone,
        compute: Compute,
        n_threads: int,
        label: str = "extract",
    ) -> None:
        self.label = label  # of the progress
        self.blocks = row_blocks(backbone)
        self.widths = block_widths((backbone,), self.blocks)
        self.layout = tuple((str(block), width) for block, width in self.widths.items())
        self._view = backbone.preprocess.view
        self._samples = samples
        self._backbone = backbone
        self._compute = compute
        self._n_threads = n_threads

    @functools.cached_property
    def _reader(self) -> TapReader:  # copies and changes the network: only if a row is missing
        return TapReader(self._backbone, self.blocks, self._compute)

    def keys(self, indices: NDArray[np.int64]) -> dict[int, bytes]:
        """Return the key of each sample's row: a hash of image, view and computation."""
        fingerprint = feature_fingerprint(self._backbone, self.blocks, self._compute)
        hashes = self._samples.hashes
        return {int(index): row_key(hashes[index], self._view, fingerprint) for index in indices}

    def make(
        self, todo: dict[int, bytes], advance: Callable[[int], None] | None = None
    ) -> Generator[tuple[bytes, dict[str, NDArray[Any]] | ImageError]]:
        """Yield the key of each image with its row or its error, in the order of the source.

        ``todo`` has keys by sample. ``advance`` is called after each batch with its number of
        images.
        """
        size, reader = self._compute.batch_size, self._reader
        samples, preprocess = self._samples, self._backbone.preprocess
        stream = samples.stream(sorted(todo))
        with closing(
            render_ahead(stream, preprocess, self._n_threads, samples.max_pixels, samples.hashes)
        ) as rendered:
            while batch := list(itertools.islice(rendered, size)):
                images = [image for _, image in batch if isinstance(image, torch.Tensor)]
                made = _rows(reader(padded(images, size)), len(images)) if images else iter(())
                for index, image in batch:
                    yield todo[index], image if isinstance(image, ImageError) else next(made)
                if advance is not None:
                    advance(len(batch))


def _rows(
    blocks: dict[Block, NDArray[np.float32]], n: int
) -> Iterator[dict[str, NDArray[Any]] | ImageError]:
    """Yield the rounded row of each of the first ``n`` images of a batch, or its error."""
    seen = [rows[:n] for rows in blocks.values()]
    finite = np.all([np.isfinite(rows).all(axis=1) for rows in seen], axis=0)
    names = [str(block) for block in blocks]
    for fine, *row in zip(finite, *map(round_rows, seen), strict=True):
        yield dict(zip(names, row, strict=True)) if fine else NOT_FINITE


def feature_fingerprint(backbone: Backbone, blocks: Sequence[Block], compute: Compute) -> bytes:
    """Return the hash of everything, except the image, that decides the bits of a feature."""
    preprocess = dataclasses.asdict(backbone.preprocess)
    if not backbone.preprocess.views and not backbone.preprocess.view:
        # As in keys from before there were views.
        del preprocess["views"], preprocess["view"], preprocess["augment"]
    return fingerprint_of(
        {
            "backbone": backbone.name,
            "arguments": dict(backbone.arguments),
            "weights": backbone.weights_sha256,
            "preprocess": preprocess,
            "blocks": [str(block) for block in blocks],
            "stages": [dataclasses.asdict(stage) for stage in backbone.stages],
            "decoder": DECODER_VERSION,
            "compute": compute.fingerprint(),
        }
    )


class _Writer:
    """Writes rows in a thread during the forward pass, a few hundred in one transaction."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._rows: list[tuple[bytes, bytes]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regraft-store")
        self._written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Extracted rows are kept even if the extraction was interrupted.
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
        self._wait()  # at most one transaction at a time, so that memory is bounded
        rows, self._rows = self._rows, []
        if rows:
            self._written = self._thread.submit(self._store.write, rows)

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()
