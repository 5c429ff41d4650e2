"""What happens to images that turn out to be unreadable only when they are decoded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from regraft.data.ledger import Ledger
from regraft.data.scan import check_losses
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from regraft.data.samples import Parts, Samples
    from regraft.errors import ImageError


def note_refused(
    samples: Samples,
    used: NDArray[np.int64],
    refused: Mapping[int, ImageError],
    *,
    strict: bool,
) -> Samples:
    """Write refused images into the ledger; raise where so much is lost that the result would lie.

    Parameters
    ----------
    samples : Samples
        Their order and number stay as they are.
    used : array of int64
        Indices of the samples that the run or the evaluation is about.
    refused : mapping of int to ImageError
        By index of the sample.
    strict : bool
        Whether the first one is an error.

    Returns
    -------
    Samples
        With the new ledger.

    Raises
    ------
    DataError
        Where ``strict`` is set, or too many of those used are lost (``check_losses``).
    """
    if strict and refused:
        index = min(refused)
        raise DataError(f"{samples.ids[index]}: {refused[index]}")
    ledger = samples.ledger.refuse({samples.ids[i]: error for i, error in refused.items()})
    names = {samples.ids[index] for index in used}
    met = [entry for entry in ledger.entries if entry.status != "used" or entry.path in names]
    check_losses(Ledger(met), samples.source.entries)
    return dataclasses.replace(samples, ledger=ledger)


def drop_refused(
    samples: Samples, parts: Parts, refused: Mapping[int, ImageError], *, strict: bool
) -> tuple[Samples, Parts]:
    """Take refused images out of the parts and write them into the ledger.

    Parameters
    ----------
    samples : Samples
        Their order and number stay as they are.
    parts : Parts
        As split before anything was decoded, so that a refused image moves no other one.
    refused : mapping of int to ImageError
        By index of the sample.
    strict : bool
        Whether the first one is an error.

    Returns
    -------
    tuple of Samples and Parts
        With the new ledger, and without the refused.

    Raises
    ------
    DataError
        Where ``strict`` is set, too many are lost, or a class has no training image left.
    """
    if not refused:
        return samples, parts
    used = np.concatenate([parts.train, parts.val, parts.test])
    samples = note_refused(samples, used, refused, strict=strict)

    def kept(part: NDArray[np.int64]) -> NDArray[np.int64]:
        return part[~np.isin(part, np.fromiter(refused, np.int64))]

    parts = dataclasses.replace(
        parts, train=kept(parts.train), val=kept(parts.val), test=kept(parts.test)
    )
    trained = set(samples.labels[parts.train].tolist())
    for label, name in enumerate(samples.classes):
        if label not in trained:
            raise DataError(
                f"class {name} has no training image left: the others could not be read",
                hint="the ledger of refused files says why; add images of that class",
            )
    if not len(parts.test):
        raise DataError("no test image is left: the others could not be read")
    return samples, parts
