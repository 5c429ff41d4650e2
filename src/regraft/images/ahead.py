"""Read, check and decode images in threads, a bounded number before they are needed."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from regraft.errors import ImageError
from regraft.images.decode import decode, hash_payload, inspect_header
from regraft.images.losses import losses_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from regraft.images.payload import Load, Payload
    from regraft.images.render import Preprocess

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    work: Callable[[T], R],
    items: Iterable[T],
    n_threads: int,
    most: int,
    initializer: Callable[[], None] | None = None,
) -> Generator[R]:
    """Yield ``work(item)`` in the order of the items; threads start at most ``most`` of them early.

    The calling thread iterates over ``items``. An exception of ``work`` is raised instead of its
    result. Each thread calls ``initializer`` once.

    Examples
    --------
    >>> list(ahead(str.upper, ["a", "b", "c"], n_threads=2, most=1))
    ['A', 'B', 'C']
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(n_threads, "regraft-images", initializer=initializer)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_checked(load: Load, expected: bytes | None) -> Payload:
    """Read an image; raise ``ImageError`` if that fails or its hash is not the expected one."""
    try:
        payload = load()
    except OSError as error:
        raise ImageError("unreadable", error.strerror or type(error).__name__) from error
    if expected is not None and hash_payload(payload) != expected:
        raise ImageError("changed", "its bytes have changed since they were first read")
    return payload


def decode_ahead(
    stream: Iterable[tuple[int, Load]],
    n_threads: int,
    max_pixels: int,
    hashes: Sequence[bytes] | None = None,
) -> Generator[tuple[int, NDArray[np.uint8] | ImageError]]:
    """Yield each image's index with its pixels (H, W, 3), or with the error of reading it."""

    def decode_one(item: tuple[int, Load]) -> tuple[int, NDArray[np.uint8] | ImageError]:
        index, load = item
        try:
            payload = read_checked(load, None if hashes is None else hashes[index])
            return index, decode(payload, max_pixels)
        except ImageError as error:
            return index, error.with_traceback(None)  # a traceback would keep the payload in memory

    return ahead(decode_one, stream, n_threads, 2 * n_threads)


def render_ahead(
    stream: Iterable[tuple[int, Load]],
    preprocess: Preprocess,
    n_threads: int,
    max_pixels: int,
    hashes: Sequence[bytes] | None = None,
) -> Generator[tuple[int, torch.Tensor | ImageError]]:
    """Yield each image's index with its tensor as from ``render_views``, or with its error.

    ``hashes[index]`` is an image's hash when it was scanned. An image that has changed since then
    gives an error, because its features would be stored under the key of the old image.
    """
    with closing(render_all_ahead(stream, (preprocess,), n_threads, max_pixels, hashes)) as made:
        for index, rendered in made:
            yield index, rendered if isinstance(rendered, ImageError) else rendered[0]


def render_all_ahead(
    stream: Iterable[tuple[int, Load]],
    preprocesses: Sequence[Preprocess],
    n_threads: int,
    max_pixels: int,
    hashes: Sequence[bytes] | None = None,
    losses: dict[int, tuple[str, ...]] | None = None,
) -> Generator[tuple[int, tuple[torch.Tensor, ...] | ImageError]]:
    """Yield each image's index with its tensor for each preprocessing, or with its error.

    What decoding leaves out of an image is written to ``losses[index]`` before it is yielded.
    """
    from regraft.images.augment import render_views  # noqa: PLC0415 - imports torch

    def render_one(item: tuple[int, Load]) -> tuple[int, tuple[torch.Tensor, ...] | ImageError]:
        index, load = item
        content = None if hashes is None else hashes[index]
        try:
            payload = read_checked(load, content)
            pixels = decode(payload, max_pixels)
            if losses is not None:
                losses[index] = losses_of(inspect_header(payload, max_pixels), pixels)
            return index, tuple(render_views(pixels, p, content or b"") for p in preprocesses)
        except ImageError as error:
            return index, error.with_traceback(None)

    # One or two batches: enough to keep the network busy, and little memory.
    return ahead(render_one, stream, n_threads, 2 * n_threads + 32, use_one_thread)


def use_one_thread() -> None:
    """Limit torch to one thread in the calling thread; else each resize would use all processors.

    OpenMP keeps the number of threads for each calling thread. ``torch.set_num_threads`` would also
    change the number for threads that start later. The call of ``get_num_threads`` makes torch set
    its own number first, which it does only once.
    """
    import torch  # noqa: PLC0415 - takes seconds to import
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")
