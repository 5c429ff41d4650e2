"""What happens to images that turn out to be unreadable only when they are decoded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from regraft.data.scan import check_losses
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from regraft.data.samples import Parts, Samples
    from regraft.errors import ImageError


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
    if strict:
        index = min(refused)
        raise DataError(f"{samples.ids[index]}: {refused[index]}")
    ledger = samples.ledger.refuse({samples.ids[i]: error for i, error in refused.items()})
    samples = dataclasses.replace(samples, ledger=ledger)
    check_losses(ledger, samples.source.entries)

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
