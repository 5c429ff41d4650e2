"""Samples without images, for tests of how samples are divided."""

import hashlib

import numpy as np

from regraft.data.ledger import Ledger
from regraft.data.samples import Samples, Source


def samples_of(rows):
    """Make samples from dictionaries with label, and optionally id, content, group and part."""
    rows = [{"id": f"{row['label']}/{index}", **row} for index, row in enumerate(rows)]
    classes = tuple(sorted({row["label"] for row in rows}))
    return Samples(
        source=Source("folder", "photos", (), lambda _: iter(())),
        ids=tuple(row["id"] for row in rows),
        classes=classes,
        labels=np.array([classes.index(row["label"]) for row in rows], dtype=np.int64),
        hashes=tuple(
            hashlib.sha256(row.get("content", row["id"]).encode()).digest() for row in rows
        ),
        parts=tuple(row.get("part") for row in rows),
        groups=tuple(row.get("group") for row in rows),
        sizes=np.ones((len(rows), 2), dtype=np.int32),
        positions=np.arange(len(rows)),
        ledger=Ledger(()),
    )


def images(label, count, start=0, **more):
    return [{"label": label, "id": f"{label}/{i}", **more} for i in range(start, start + count)]


def names(samples, indices):
    return {samples.ids[index] for index in indices}
