"""From a source to samples: every image is read and hashed once, every loss is accounted for."""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from regraft.core.reporter import Reporter
from regraft.data.ledger import Ledger, LedgerEntry
from regraft.data.samples import Entry, Samples, Source
from regraft.data.sources.options import Data, SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import DataError, ImageError
from regraft.images.decode import HeaderInfo, decode, hash_payload, inspect_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from regraft.config.train_config import TrainConfig
    from regraft.images.payload import Load

#: More than this share of refused images is an error: the result would speak of other data.
LARGEST_LOSS = 0.05

# One task reads so many images: a task costs as much as hashing a small image.
_TASK = 8
# More threads than this only wait for each other and for the disk.
_MOST_WORKERS = 16
_SHOWN = 10
_LOOKED_AT = 32  # images of 16 bits that are decoded
_DARK = 32  # of 255


class _Seen(NamedTuple):
    """What is kept of an image that was read."""

    digest: bytes
    header: HeaderInfo


def scan(
    data: Data,
    config: TrainConfig,
    reporter: Reporter | None = None,
    *,
    least_classes: int = 2,
) -> Samples:
    """Read and hash all images, look at their headers, and keep none of them.

    Parameters
    ----------
    data : path, str or tuple
        As for ``open_source``.
    config : TrainConfig
        ``data_root``, ``group_by``, ``strict``, ``max_pixels`` and ``workers`` are used.
    reporter : Reporter, optional
        Follows the images under the label "scan".
    least_classes : int
        2 for training; 1 is enough to measure.

    Returns
    -------
    Samples
        All images that can be used as far as their headers tell, the ledger and the notes, which
        have not been shown yet. Memory grows with their number, not with their bytes.

    Raises
    ------
    DataError
        Where the data cannot be used or have too few classes, too many images are refused
        (``check_losses``), or, with ``strict``, one is.

    Examples
    --------
    >>> from regraft.config.train_config import TrainConfig
    >>> images = np.zeros((2, 8, 8), np.uint8)
    >>> scan((images, ["cat", "dog"]), TrainConfig()).classes
    ('cat', 'dog')
    """
    source = open_source(data, SourceOptions(config.data_root, config.group_by))
    labels = sorted({entry.label for entry in source.entries})
    if len(labels) < least_classes:
        raise DataError(
            f"{source.location} holds images of one class only: {', '.join(labels)}",
            hint="a classifier needs at least two classes",
        )
    if config.strict:
        for left_out in source.refused:
            _stop_if_refused(left_out)
    kept: list[int] = []
    seen: list[_Seen] = []
    ledger = list(source.refused)
    workers = config.workers or min(_processors(), _MOST_WORKERS)
    with (reporter or Reporter()).track("scan", len(source.entries)) as advance:
        for index, outcome in _read_all(source, config.max_pixels, workers, advance):
            name = source.entries[index].id
            if isinstance(outcome, ImageError):
                ledger.append(LedgerEntry(name, "refused", outcome.kind, outcome.reason))
                if config.strict:
                    _stop_if_refused(ledger[-1])
            else:
                ledger.append(LedgerEntry(name, "used"))
                kept.append(index)
                seen.append(outcome)
    check_losses(Ledger(ledger), source.entries)
    if source.kind == "tar":  # a compressed one is read in its own order, which changes no result
        order = sorted(range(len(kept)), key=lambda at: source.entries[kept[at]].id)
        kept, seen = [kept[at] for at in order], [seen[at] for at in order]
        ledger.sort(key=lambda entry: entry.path)
    samples = _samples(source, kept, seen, Ledger(ledger))
    losses = (*_further_frames(samples, seen), *_dark(samples, seen, config.max_pixels))
    return replace(samples, notes=(*samples.notes, *losses))


def check_losses(ledger: Ledger, entries: Sequence[Entry]) -> None:
    """Raise where so much is lost that the result would speak of other data.

    Parameters
    ----------
    ledger : Ledger
        Files that were passed over do not count.
    entries : sequence of Entry
        The source's: they say to which class a file belongs.

    Raises
    ------
    DataError
        Where more than 5 % of the images are refused, or all of a class; it lists up to ten.
    """
    labels = {entry.id: entry.label for entry in entries}
    refused = [entry for entry in ledger.entries if entry.status == "refused"]
    used = Counter(labels.get(e.path) for e in ledger.entries if e.status == "used")
    total = len(refused) + used.total()
    lost_classes = sorted({labels[e.path] for e in refused if e.path in labels} - set(used))
    if lost_classes:
        what = f"all images of {_listed(lost_classes, 'classes')} are refused"
        refused = [e for e in refused if labels.get(e.path) in lost_classes]
    elif len(refused) > LARGEST_LOSS * total:
        what = f"{len(refused)} of {total} images are refused, more than {LARGEST_LOSS:.0%}"
    else:
        return
    lines = [f"  {e.path}: {e.kind}: {e.reason}" for e in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"  and {len(refused) - _SHOWN} more")
    raise DataError("\n".join([what, *lines]), hint="repair or remove these files")


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # what a container or a batch system leaves us
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_all(
    source: Source, max_pixels: int, workers: int, advance: Callable[[int], None]
) -> Iterator[tuple[int, _Seen | ImageError]]:
    """Read every entry in threads; outcomes come in the source's order.

    Only so many tasks are ahead: what a compressed tar has handed out is held until it is hashed.
    """
    loads = source.stream(range(len(source.entries)))
    waiting: deque[tuple[list[int], Future[list[_Seen | ImageError]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="scan")
    try:
        for task in _batched(loads, _TASK):
            indices = [index for index, _ in task]
            waiting.append((indices, pool.submit(_see, [load for _, load in task], max_pixels)))
            if len(waiting) > workers + 1:
                yield from _finished(*waiting.popleft(), advance)
        while waiting:
            yield from _finished(*waiting.popleft(), advance)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(
    indices: list[int], future: Future[list[_Seen | ImageError]], advance: Callable[[int], None]
) -> Iterator[tuple[int, _Seen | ImageError]]:
    outcomes = future.result()
    advance(len(outcomes))
    yield from zip(indices, outcomes, strict=True)


def _see(loads: list[Load], max_pixels: int) -> list[_Seen | ImageError]:
    """Read, hash and inspect some images; runs in a thread."""
    outcomes: list[_Seen | ImageError] = []
    for load in loads:
        try:
            payload = load()
            seen = inspect_header(payload, max_pixels)
            outcomes.append(_Seen(hash_payload(payload), seen))
        except ImageError as error:
            outcomes.append(error.with_traceback(None))  # a traceback would keep the payload
    return outcomes


def _batched(loads: Iterable[tuple[int, Load]], size: int) -> Iterator[list[tuple[int, Load]]]:
    iterator = iter(loads)
    while task := list(islice(iterator, size)):
        yield task


def _stop_if_refused(entry: LedgerEntry) -> None:
    if entry.status == "refused":
        raise DataError(
            f"{entry.path}: {entry.kind}: {entry.reason}",
            hint="leave strict out to go on without such files, named in the ledger",
        )


def _samples(source: Source, kept: list[int], seen: list[_Seen], ledger: Ledger) -> Samples:
    entries = [source.entries[index] for index in kept]
    classes = tuple(sorted({entry.label for entry in entries}))
    number = {name: index for index, name in enumerate(classes)}
    return Samples(
        source=source,
        ids=tuple(entry.id for entry in entries),
        classes=classes,
        labels=np.array([number[entry.label] for entry in entries], dtype=np.int64),
        hashes=tuple(one.digest for one in seen),
        parts=tuple(entry.part for entry in entries),
        groups=tuple(entry.group for entry in entries),
        sizes=np.array([one.header[:2] for one in seen], dtype=np.int32).reshape(-1, 2),
        positions=np.array(kept, dtype=np.int64),
        ledger=ledger,
        notes=(*source.notes, *_conflicts(entries, seen)),
    )


def _conflicts(entries: Sequence[Entry], seen: Sequence[_Seen]) -> list[str]:
    """Report byte-identical images that have several labels, by name."""
    first: dict[bytes, Entry] = {}
    several: dict[bytes, list[Entry]] = defaultdict(list)
    for entry, one in zip(entries, seen, strict=True):
        earlier = first.setdefault(one.digest, entry)
        if earlier.label != entry.label or one.digest in several:
            if one.digest not in several:
                several[one.digest].append(earlier)
            several[one.digest].append(entry)
    notes = [
        "the same image under several labels, none of which is changed: "
        + ", ".join(f"{entry.id} ({entry.label})" for entry in group[:_SHOWN])
        + (f" and {len(group) - _SHOWN:,} more" if len(group) > _SHOWN else "")
        for group in islice(several.values(), _SHOWN)
    ]
    if len(several) > _SHOWN:
        notes.append(f"{len(several) - _SHOWN:,} more images stand under several labels")
    return notes


def _further_frames(samples: Samples, seen: Sequence[_Seen]) -> Iterator[str]:
    """Say what of the files is not read."""
    several = [
        name for name, one in zip(samples.ids, seen, strict=True) if one.header.has_more_frames
    ]
    if several:
        yield f"only the first frame or page is used of {_listed(several, 'images')}"


def _dark(samples: Samples, seen: Sequence[_Seen], max_pixels: int) -> Iterator[str]:
    """Say where 16 bits hold less: 12 bit data in a 16 bit file come out nearly black.

    Only pixels tell, so some of these images are decoded, spread evenly over all.
    """
    deep = np.flatnonzero([one.header.has_16_bits for one in seen])
    if not len(deep):
        return
    some = np.unique(deep[np.linspace(0, len(deep) - 1, _LOOKED_AT).round().astype(int)])
    dark = []
    for index, load in samples.stream(some):
        with suppress(ImageError):  # told when it is extracted
            if decode(load(), max_pixels).max() < _DARK:
                dark.append(index)
    if dark:
        names = _listed([samples.ids[index] for index in sorted(dark)], "images")
        yield (
            f"{names}: of {len(some)} looked at among {len(deep):,} with 16 bits a channel, these "
            f"use less than an eighth of the range and come out nearly black; where the data have "
            "12 bits, multiply the values by 16 and write the files anew"
        )


def _listed(names: Sequence[str], what: str) -> str:
    """Name a few, or count many."""
    if len(names) <= 5:
        return ", ".join(names) or f"no {what}"
    return f"{len(names)} {what} ({', '.join(names[:5])}, ...)"
