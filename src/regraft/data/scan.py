"""Scan a source: read and hash every image once, and record every lost image."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from regraft.core.background import raise_failure
from regraft.core.machine import n_threads
from regraft.core.reporter import SILENT, Reporter
from regraft.core.text import counted, listed
from regraft.data.ledger import Ledger, LedgerEntry
from regraft.data.losses import check_classes, check_losses
from regraft.data.samples import Entry, Samples, Source
from regraft.data.sources.options import Data, SourceOptions
from regraft.data.sources.registry import is_on_a_server, open_source
from regraft.errors import DataError, ImageError
from regraft.images.ahead import ahead
from regraft.images.decode import HeaderInfo, hash_payload, inspect_header
from regraft.images.losses import DARK, FRAMES, is_dark, losses_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import Any

    from regraft.config.train_config import TrainConfig
    from regraft.images.payload import Load

# Each task reads several images, since a task costs as much as hashing a small image.
_IMAGES_A_TASK = 8
# More threads than this only wait for each other and for the disk.
_MOST_THREADS = 16
_SHOWN = 10
_NAMED = 5
_DECODED_OF_16_BITS = 32  # images


class _Scanned(NamedTuple):
    """The hash and the header of an image that was read."""

    digest: bytes
    header: HeaderInfo


def scan(
    data: Data | Source,
    config: TrainConfig,
    reporter: Reporter = SILENT,
    *,
    least_classes: int = 2,
    meanwhile: Future[Any] | None = None,
) -> Samples:
    """Read and hash all images, and return those whose headers can be read, with the ledger.

    No image is kept in memory, and the notes are not printed. ``least_classes`` is 2 for training,
    and 1 for measuring. Raises DataError if too many images are refused (``check_losses``), or,
    with the setting ``strict``, one. An error of ``meanwhile``, which runs at the same time, is
    raised as soon as it is there: nobody waits for the scan of what cannot be trained.

    Examples
    --------
    >>> from regraft.config.train_config import TrainConfig
    >>> images = np.zeros((2, 8, 8), np.uint8)
    >>> scan((images, ["cat", "dog"]), TrainConfig()).classes
    ('cat', 'dog')
    """
    raise_failure(meanwhile, wait=is_on_a_server(data))  # a download takes longer than it does
    source = open_source(data, SourceOptions.of(config))
    lost = check_classes(source, may_be_empty=least_classes == 1)
    _require_classes(source, least_classes, config)
    if config.strict:
        _stop_if_refused(source.refused)
    ledger = list(source.refused)
    kept: list[int] = []
    scanned: list[_Scanned] = []
    with reporter.track("scan", len(source.entries)) as advance:
        for task in _read_all(source, config.max_pixels, config.workers):
            for index, result in task:
                ledger.append(_entry(source.entries[index].id, result))
                if not isinstance(result, ImageError):
                    kept.append(index)
                    scanned.append(result)
            if config.strict:
                _stop_if_refused(ledger[-len(task) :])
            advance(len(task))
            raise_failure(meanwhile)
    check_losses(Ledger(ledger), source.entries, config.max_refused)
    if source.kind == "tar":  # a compressed one is read in its own order: sort, as for a folder
        order = sorted(range(len(kept)), key=lambda at: source.entries[kept[at]].id)
        kept, scanned = [kept[at] for at in order], [scanned[at] for at in order]
        ledger.sort(key=lambda entry: entry.path)
    samples = _samples(source, kept, scanned, Ledger(ledger), config)
    return replace(
        samples, notes=(*samples.notes, *lost, *_losses(samples, scanned, config.workers))
    )


def _require_classes(source: Source, least: int, config: TrainConfig) -> None:
    settings = [f"`{name}`" for name in ("classes", "exclude") if getattr(config, name)]
    left_out = f"; {' and '.join(settings)} may have left out others" if settings else ""
    labels = sorted({entry.label for entry in source.entries})
    if len(labels) < least:
        raise DataError(
            f"{source.location} holds images of one class only: {', '.join(labels)}",
            hint="a classifier needs at least two classes" + left_out,
        )


def _read_all(
    source: Source, max_pixels: int, workers: int
) -> Iterator[list[tuple[int, _Scanned | ImageError]]]:
    """Read every entry in threads, in the order of the source.

    Few tasks wait at a time: the payloads of a compressed tar are in memory until they are hashed.
    """
    threads = workers or min(n_threads(0), _MOST_THREADS)

    def read(task: list[tuple[int, Load]]) -> list[tuple[int, _Scanned | ImageError]]:
        return [(index, _read(load, max_pixels)) for index, load in task]

    tasks = _batched(source.stream(range(len(source.entries))), _IMAGES_A_TASK)
    return ahead(read, tasks, threads, threads + 1)


def _read(load: Load, max_pixels: int) -> _Scanned | ImageError:
    try:
        payload = load()
        header = inspect_header(payload, max_pixels)
        return _Scanned(hash_payload(payload), header)
    except ImageError as error:
        return error.with_traceback(None)  # a traceback would keep the payload in memory


def _batched(loads: Iterable[tuple[int, Load]], size: int) -> Iterator[list[tuple[int, Load]]]:
    iterator = iter(loads)
    while task := list(islice(iterator, size)):
        yield task


def _entry(name: str, result: _Scanned | ImageError) -> LedgerEntry:
    if isinstance(result, ImageError):
        return LedgerEntry(name, "refused", result.kind, result.reason)
    return LedgerEntry(name, "used")


def _stop_if_refused(ledger: Sequence[LedgerEntry]) -> None:
    for entry in ledger:
        if entry.status == "refused":
            raise DataError(
                f"{entry.path}: {entry.kind}: {entry.reason}",
                hint="leave `strict=True` out to go on without such files, named in the ledger",
            )


def _samples(
    source: Source, kept: list[int], scanned: list[_Scanned], ledger: Ledger, config: TrainConfig
) -> Samples:
    entries = [source.entries[index] for index in kept]
    note, conflicts = _conflicts(entries, scanned)
    classes = tuple(sorted({entry.label for entry in entries}))
    number = {name: index for index, name in enumerate(classes)}
    return Samples(
        source=source,
        ids=tuple(entry.id for entry in entries),
        classes=classes,
        labels=np.array([number[entry.label] for entry in entries], dtype=np.int64),
        hashes=tuple(each.digest for each in scanned),
        parts=tuple(entry.part for entry in entries),
        groups=tuple(entry.group for entry in entries),
        sizes=np.array([each.header[:2] for each in scanned], dtype=np.int32).reshape(-1, 2),
        positions=np.array(kept, dtype=np.int64),
        ledger=ledger.with_remarks("several labels", conflicts),
        notes=(*source.notes, *note),
        max_pixels=config.max_pixels,
        max_refused=config.max_refused,
    )


def _conflicts(
    entries: Sequence[Entry], scanned: Sequence[_Scanned]
) -> tuple[list[str], dict[str, str]]:
    """Return a note about byte-identical images with different labels, and a reason for each."""
    copies: dict[bytes, list[Entry]] = defaultdict(list)
    for entry, each in zip(entries, scanned, strict=True):
        copies[each.digest].append(entry)
    several = [group for group in copies.values() if len({entry.label for entry in group}) > 1]
    if not several:
        return [], {}
    reasons = {}
    for group in several:
        named = [f"{entry.id} ({entry.label})" for entry in group]
        for at, entry in enumerate(group):
            others = [each for each in named[: _SHOWN + 1] if each != named[at]][:_SHOWN]
            more = len(group) - 1 - len(others)
            reasons[entry.id] = f"the same bytes as {', '.join(others)}" + (
                f" and {more:,} more" if more else ""
            )
    groups = [
        listed([f"{entry.id} ({entry.label})" for entry in group], _SHOWN, " = ")
        for group in several
    ]
    note = (
        f"{counted(len(several))} under several labels, which are not changed; a run's "
        f"ledger.json names all: {listed(groups, _NAMED)}"
    )
    return [note], reasons


def _losses(samples: Samples, scanned: Sequence[_Scanned], workers: int) -> list[str]:
    """Return notes about what decoding will leave out.

    Only pixels show images of 12 bits, so a few of those with 16 are decoded, evenly chosen.
    """
    frames = [samples.ids[at] for at, each in enumerate(scanned) if each.header.has_more_frames]
    deep = np.flatnonzero([each.header.has_16_bits for each in scanned])
    places = np.linspace(0, len(deep) - 1, min(len(deep), _DECODED_OF_16_BITS))
    some = deep[places.round().astype(int)]
    dark = sorted(
        index
        for index, pixels in samples.pixels(some, n_threads(workers))
        if not isinstance(pixels, ImageError) and is_dark(scanned[index].header, pixels)
    )
    seen = f" (seen in {len(some):,} of the {len(deep):,} images with 16 bits)"
    return losses_lines({FRAMES: frames, DARK: [samples.ids[index] for index in dark]}, seen)
