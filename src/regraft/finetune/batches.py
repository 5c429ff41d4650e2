"""The training part in batches: the order of an epoch, images read and augmented ahead."""

from __future__ import annotations

import itertools
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.core.keyed_random import generator, key_of
from regraft.finetune.processes.group import SINGLE_PROCESS, ProcessGroup
from regraft.images.ahead import ahead, use_one_thread
from regraft.images.augment import Augmentation, augment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from regraft.finetune.frozen.cut_network import Activations
    from regraft.finetune.frozen.prefix import FrozenPrefix
    from regraft.finetune.reader import ImageReader
    from regraft.images.payload import Load

_AHEAD = 2  # batches that are read while the network learns from one


@dataclass(frozen=True)
class Batch:
    """The images of one step: n of all processes, of which m are this process's."""

    indices: NDArray[np.int64]  # (n,) samples
    names: list[str]  # (n,) ids of the samples
    own: slice  # of the n, those of this process
    images: torch.Tensor | Activations  # (m, 3, S, S) uint8; or outputs of the frozen stages
    labels: torch.Tensor  # (m,) int64


def n_batches(n_images: int, size: int, least: int) -> int:
    """Return into how many batches n images are divided: of at most ``size``, at least ``least``.

    The sizes of batches differ by one image. Where both limits cannot be kept (7 images, at most 2
    and at least 2) a batch has more than ``size`` images: none is dropped, and none is too small.

    Examples
    --------
    >>> n_batches(7, 2, 1), n_batches(7, 2, 2), n_batches(7, 4, 2)
    (4, 3, 2)
    """
    return max(min(-(-n_images // size), n_images // least), 1)


class TrainingBatches:
    """The images of the training part, augmented, for one epoch after the other.

    All images of a compressed tar are kept in memory: it can only be read from front to back.
    """

    def __init__(  # noqa: PLR0913 - what an image's view depends on, and who reads it
        self,
        reader: ImageReader,
        indices: NDArray[np.int64],  # (n,) the training part
        augmentation: Augmentation,
        *,
        seed: int,  # of order and augmentation
        views: int = 0,  # epochs with views of their own, which later ones use again; 0 is all
        group: ProcessGroup = SINGLE_PROCESS,  # only this process's share of a batch is read
        prefix: FrozenPrefix | None = None,  # batches have its rows in place of images
    ) -> None:
        self.samples = reader.samples
        self.indices = indices
        self.n_images = len(indices)
        self._reader = reader
        self._augmentation = augmentation
        self._seed = seed
        self._views = views
        self._group = group
        self._prefix = prefix
        self._loads: dict[int, Load] = dict(self.samples.stream(indices))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the samples in an epoch's order: sorted by a hash of seed, epoch and content.

        New images do not change the order of the others. Copies of one image keep the order of the
        samples.
        """
        hashes = self.samples.hashes
        keys = [key_of(self._seed, "order", epoch, hashes[index]) for index in self.indices]
        return self.indices[sorted(range(len(keys)), key=keys.__getitem__)]

    @contextmanager
    def epoch(self, epoch: int, number: int, first: int = 0) -> Iterator[Iterator[Batch]]:
        """Open the batches of an epoch, from 1; threads end with the block.

        All images are divided into that number of batches, which differ by one image. The first
        ``first`` batches are left out.
        """
        pieces = np.array_split(self.order(epoch), number)[first:]
        largest = -(-self.n_images // number)
        view = (epoch - 1) % self._views + 1 if self._views else epoch
        own = [int(index) for piece in pieces for index in piece[self._group.share(len(piece))]]
        rows = ahead(
            lambda index: self._row_or_image(index, view),
            own, self._reader.n_threads, _AHEAD * largest, use_one_thread,
        )  # fmt: skip
        opened = self._prefix.opened() if self._prefix else nullcontext()
        with opened, closing(rows):
            yield (self._collect(piece, rows, view) for piece in pieces)

    def _row_or_image(self, index: int, view: int) -> torch.Tensor:
        row = self._prefix.find(index, view - 1) if self._prefix else None
        return self.render(index, view) if row is None else row

    def render(self, index: int, view: int) -> torch.Tensor:
        """Render one view, from 1, of a training image: (3, S, S), uint8.

        The view is the epoch, unless views are used again. Seed, view and content alone decide the
        pixels. Raises DataError where the image has changed or cannot be read.
        """
        pixels = self._reader.pixels(index, self._loads[index])
        random = generator(self._seed, "augment", view, self.samples.hashes[index])
        return augment(pixels, self._reader.preprocess, self._augmentation, random)

    def _collect(
        self, indices: NDArray[np.int64], rows: Iterator[torch.Tensor], view: int
    ) -> Batch:
        samples, own = self.samples, self._group.share(len(indices))
        found = list(itertools.islice(rows, own.stop - own.start))
        images: torch.Tensor | Activations
        if self._prefix:
            images = self._prefix.complete(indices[own], view - 1, found)
        else:
            images = torch.stack(found).contiguous(memory_format=torch.channels_last)
        names = [samples.ids[index] for index in indices]
        return Batch(indices, names, own, images, torch.from_numpy(samples.labels[indices[own]]))
