"""What a command prints about its data: classes, notes, images that were refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import counted, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.core.reporter import Reporter
    from regraft.data.dataset import Dataset
    from regraft.data.ledger import Ledger

_REFUSED_SHOWN = 5
_CLASSES_SHOWN = 10
_LONGEST_NAME = 40  # columns


def report_dataset(dataset: Dataset, reporter: Reporter) -> None:
    """Print the classes with their numbers of images, then the notes."""
    counts = np.bincount(dataset.samples.labels, minlength=len(dataset.classes))
    what = f"{len(dataset.samples):,} images of {len(counts):,} classes"
    reporter.say(f"{what}: {classes_with_counts(dataset.classes, counts.tolist())}")
    report_notes(dataset, reporter)


def classes_with_counts(classes: Sequence[str], counts: Sequence[int]) -> str:
    """Return the classes, each with its number of images; of many, the smallest and the largest.

    Examples
    --------
    >>> classes_with_counts(["daisy", "rose"], [1200, 40])
    'daisy 1,200, rose 40'
    >>> classes_with_counts([f"species {k:02}" for k in range(50)], range(50, 100))
    '50 (species 00) to 99 (species 49) images each, median 74.5'
    """
    names = shortened(classes, _LONGEST_NAME)
    if len(names) <= _CLASSES_SHOWN:
        return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    few, many = int(np.argmin(counts)), int(np.argmax(counts))
    if counts[few] == counts[many]:
        return f"{counted(counts[few])} each"
    return (
        f"{counts[few]:,} ({names[few]}) to {counts[many]:,} ({names[many]}) images each, "
        f"median {np.median(counts):,g}"
    )


def report_notes(dataset: Dataset, reporter: Reporter) -> None:
    """Print the notes of source, scan and split, each once."""
    samples = dataset.samples
    for note in dict.fromkeys((*samples.notes, *dataset.parts.notes)):
        reporter.say(note)


def report_refused(ledger: Ledger, reporter: Reporter, where: str) -> None:
    """Print the first few refused images, and where all are listed."""
    refused = [entry for entry in ledger.entries if entry.status == "refused"]
    if not refused:
        return
    counts = ledger.counts()
    total = counts["used"] + counts["refused"]
    reporter.say(f"{len(refused):,} of {total:,} images refused (all are named {where}):")
    for entry in refused[:_REFUSED_SHOWN]:
        reporter.say(f"  {entry.path}: {entry.kind}: {entry.reason}")
