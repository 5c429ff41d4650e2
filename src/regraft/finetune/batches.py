"""The training part as the loop reads it: an epoch's order, batches rendered ahead in threads."""

from __future__ import annotations

import collections
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from regraft.core.keyed_random import generator, key_of
from regraft.errors import DataError, ImageError
from regraft.finetune.processes.group import SINGLE_PROCESS
from regraft.images.augment import Augmentation, augment
from regraft.images.decode import decode, hash_payload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from regraft.data.samples import Samples
    from regraft.finetune.frozen.cut_network import Activations
    from regraft.finetune.frozen.prefix import FrozenPrefix
    from regraft.finetune.processes.group import ProcessGroup
    from regraft.images.payload import Load
    from regraft.images.render import Preprocess

_AHEAD = 2  # batches that are rendered while one is learnt


def lost_image_error(name: str, reason: str) -> DataError:
    """Return the error of an image that was there when the run began.

    Parameters
    ----------
    name : str
        The sample's id.
    reason : str
        Why it cannot be used any more.

    Returns
    -------
    DataError
    """
    return DataError(
        f"{name} could be read when the run began and cannot be now: {reason}",
        hint="put it back as it was, and run the same command with --resume",
    )


@dataclass(frozen=True)
class Batch:
    """Some training images in the order of an epoch.

    Attributes
    ----------
    indices : array of shape (n,), int64
        Into the samples; of all processes.
    own : slice
        Which of them are this process's: m images.
    images : tensor of shape (m, 3, S, S), uint8, or Activations
        Augmented; or what the frozen stages have made of them.
    labels : tensor of shape (m,), int64
    """

    indices: NDArray[np.int64]
    own: slice
    images: torch.Tensor | Activations
    labels: torch.Tensor


class TrainingBatches:
    """The images of the training part, rendered for one epoch after the other.

    Parameters
    ----------
    samples : Samples
        Where they lie. Of a compressed tar, all of them are held in memory: it can only be read
        from front to back.
    indices : array of shape (n,), int64
        Which samples: the training part, and nothing else.
    preprocess : Preprocess
        The backbone's.
    recipe : Augmentation
        Augmentation.
    seed : int
        Of order and augmentation.
    max_pixels : int
        Larger images are refused.
    workers : int
        Threads that read, decode and augment; they change no bit.
    views : int
        So many epochs draw their own views, and those behind use them again in turn; 0: all do.
    group : ProcessGroup
        Of each batch, only this process's share is rendered.

    Attributes
    ----------
    prefix : FrozenPrefix or None
        Where there is one, batches hold what the frozen stages make of the images.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        samples: Samples,
        indices: NDArray[np.int64],
        preprocess: Preprocess,
        recipe: Augmentation,
        *,
        seed: int,
        max_pixels: int,
        workers: int,
        views: int = 0,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.samples = samples
        self.indices = indices
        self.prefix: FrozenPrefix | None = None
        self._views = views
        self._preprocess = preprocess
        self._recipe = recipe
        self._seed = seed
        self._max_pixels = max_pixels
        self._workers = workers
        self._group = group
        self._loads: dict[int, Load] = dict(samples.stream(indices))

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the samples in an epoch's order: ranked by a hash of seed, epoch and content.

        Images that come to the data later do not change the order of the others. Copies of one
        image keep the order of the samples.
        """
        hashes = self.samples.hashes
        keys = [key_of(self._seed, "order", epoch, hashes[index]) for index in self.indices]
        return self.indices[sorted(range(len(keys)), key=keys.__getitem__)]

    def n_batches(self, size: int) -> int:
        """Return how many batches of at most ``size`` images make an epoch."""
        return -(-len(self.indices) // size)

    @contextmanager
    def epoch(self, epoch: int, size: int, first: int = 0) -> Iterator[Iterator[Batch]]:
        """Open an epoch's batches, rendered ahead; threads end with the block.

        Parameters
        ----------
        epoch : int
            From 1.
        size : int
            Most images in a batch. Batches differ by one image at most: none is dropped, and no
            last one is left with a single image, on which BatchNorm cannot train.
        first : int
            Batches of the epoch that are done already.

        Yields
        ------
        iterator of Batch
        """
        pieces = np.array_split(self.order(epoch), self.n_batches(size))[first:]
        n_threads = torch.get_num_threads()
        # One thread of torch's in each worker, as in features/extract.py.
        pool = ThreadPoolExecutor(
            self._workers, "regraft-augment", initializer=torch.set_num_threads, initargs=(1,)
        )
        view = (epoch - 1) % self._views + 1 if self._views else epoch
        try:
            with self.prefix.opened() if self.prefix else nullcontext():
                yield self._batches(pool, pieces, view)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(n_threads)

    def _batches(
        self, pool: ThreadPoolExecutor, pieces: list[NDArray[np.int64]], view: int
    ) -> Iterator[Batch]:
        waiting: collections.deque[tuple[NDArray[np.int64], list[Future[torch.Tensor]]]]
        waiting = collections.deque()
        for piece in pieces:
            own = piece[self._group.share(len(piece))]
            futures = [pool.submit(self._row_or_image, int(index), view) for index in own]
            waiting.append((piece, futures))
            if len(waiting) > _AHEAD:
                yield self._collect(*waiting.popleft(), view)
        while waiting:
            yield self._collect(*waiting.popleft(), view)

    def _row_or_image(self, index: int, view: int) -> torch.Tensor:
        row = self.prefix.find(index, view - 1) if self.prefix else None
        return self.render(index, view) if row is None else row

    def render(self, index: int, view: int) -> torch.Tensor:
        """Render one image of the training part as it is in a view.

        Parameters
        ----------
        index : int
            Sample.
        view : int
            From 1: the epoch, unless views are used again.

        Returns
        -------
        tensor of shape (3, S, S), uint8
            A function of seed, view and content alone.

        Raises
        ------
        DataError
            Where the image can no longer be read, or is another one than when it was scanned.
        """
        expected = self.samples.hashes[index]
        try:
            payload = self._loads[index]()
            pixels = decode(payload, self._max_pixels)
        except (ImageError, OSError) as error:
            raise lost_image_error(self.samples.ids[index], str(error)) from error
        if hash_payload(payload) != expected:
            raise lost_image_error(self.samples.ids[index], "its bytes have changed")
        random = generator(self._seed, "augment", view, expected)
        return augment(pixels, self._preprocess, self._recipe, random)

    def _collect(
        self, indices: NDArray[np.int64], futures: list[Future[torch.Tensor]], view: int
    ) -> Batch:
        own = self._group.share(len(indices))
        found = [future.result() for future in futures]
        images: torch.Tensor | Activations
        if self.prefix:
            images = self.prefix.complete(indices[own], view - 1, found)
        else:
            images = torch.stack(found).contiguous(memory_format=torch.channels_last)
        return Batch(indices, own, images, torch.from_numpy(self.samples.labels[indices[own]]))
