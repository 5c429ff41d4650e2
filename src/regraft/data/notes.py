"""What a command prints about its data: classes, notes, images that were refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import listed

if TYPE_CHECKING:
    from regraft.core.reporter import Reporter
    from regraft.data.dataset import Dataset
    from regraft.data.ledger import Ledger

_REFUSED_SHOWN = 5
_CLASSES_SHOWN = 10


def report_dataset(dataset: Dataset, reporter: Reporter) -> None:
    """Print the classes with their numbers of images, then the notes."""
    counts = np.bincount(dataset.samples.labels, minlength=len(dataset.classes))
    named = [f"{name} {count:,}" for name, count in zip(dataset.classes, counts, strict=True)]
    reporter.say(
        f"{len(dataset.samples):,} images of {len(counts):,} classes: "
        f"{listed(named, _CLASSES_SHOWN)}"
    )
    report_notes(dataset, reporter)


def report_notes(dataset: Dataset, reporter: Reporter) -> None:
    """Print the notes of source, scan and split, each once."""
    samples = dataset.samples
    for note in dict.fromkeys((*samples.source.notes, *samples.notes, *dataset.parts.notes)):
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
