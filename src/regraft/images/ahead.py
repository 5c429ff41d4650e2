"""Images read, checked and decoded in threads, a bounded number ahead of whoever uses them."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from regraft.errors import ImageError
from regraft.images.decode import decode, hash_payload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from regraft.images.payload import Load, Payload
    from regraft.images.render import Preprocess

T = TypeVar("T")
Result = TypeVar("Result")


def ahead(
    work: Callable[[T], Result],
    items: Iterable[T],
    n_threads: int,
    most: int,
    initializer: Callable[[], None] | None = None,
) -> Generator[Result]:
    """Yield ``work(item)`` in the order of the items; threads work on at most ``most`` ahead.

    Parameters
    ----------
    work : callable
        Runs in a thread; what it raises is raised where its result would be yielded.
    items : iterable
        Taken one by one, in the calling thread.
    n_threads : int
        At least 1.
    most : int
        Items that are taken before their results are asked for.
    initializer : callable, optional
        Called once in each thread.
    """
    waiting: deque[Future[Result]] = deque()
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
    """Read an image; refuse one whose content hash is not the expected one.

    Raises
    ------
    ImageError
        Where it cannot be read, or has changed since it was scanned.
    """
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
    """Yield each image's index with its pixels (H, W, 3), or with the reason why there are none."""

    def decode_one(item: tuple[int, Load]) -> tuple[int, NDArray[np.uint8] | ImageError]:
        index, load = item
        try:
            payload = read_checked(load, None if hashes is None else hashes[index])
            return index, decode(payload, max_pixels)
        except ImageError as error:
            return index, error.with_traceback(None)  # a traceback would keep the payload

    return ahead(decode_one, stream, n_threads, 2 * n_threads)


def render_ahead(
    stream: Iterable[tuple[int, Load]],
    preprocess: Preprocess,
    n_threads: int,
    max_pixels: int,
    hashes: Sequence[bytes] | None = None,
) -> Generator[tuple[int, torch.Tensor | ImageError]]:
    """Read, decode and render images in threads.

    Parameters
    ----------
    stream : iterable of (int, callable)
        As ``Samples.stream`` and ``Source.stream`` give it.
    preprocess : Preprocess
        The backbone's.
    n_threads : int
        At least 1.
    max_pixels : int
        Larger images are refused.
    hashes : sequence of bytes, optional
        By index: what the images were when they were scanned. One that has changed since is
        refused, since its row would be stored under another image's key.

    Yields
    ------
    tuple of int and (tensor as from ``render_views``, or ImageError)
        In the order of the stream.
    """
    from regraft.images.augment import render_views  # noqa: PLC0415 - imports torch

    def render_one(item: tuple[int, Load]) -> tuple[int, torch.Tensor | ImageError]:
        index, load = item
        content = None if hashes is None else hashes[index]
        try:
            payload = read_checked(load, content)
            return index, render_views(decode(payload, max_pixels), preprocess, content or b"")
        except ImageError as error:
            return index, error.with_traceback(None)

    # A batch or two ahead: enough to keep the network busy, little memory.
    return ahead(render_one, stream, n_threads, 2 * n_threads + 32, use_one_thread)


def use_one_thread() -> None:
    """Let torch use the calling thread alone, else every resize wakes all processors.

    OpenMP counts its threads by calling thread. ``torch.set_num_threads`` would also set what
    threads that start later take over; asked for the number first, torch does that only once.
    """
    import torch  # noqa: PLC0415 - takes seconds to import
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")
