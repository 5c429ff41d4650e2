"""Images that turn out to be unreadable only when they are decoded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from regraft.data.ledger import Ledger
from regraft.data.losses import check_losses
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from regraft.data.samples import Samples
    from regraft.errors import ImageError


def record_refused(
    samples: Samples,
    used: NDArray[np.int64],
    refused: Mapping[int, ImageError],
    *,
    strict: bool,
) -> Samples:
    """Return the samples with refused images recorded in the ledger; their order stays.

    Parameters
    ----------
    used : array of int64
        Indices of the samples that the run or the evaluation is about.
    refused : mapping of int to ImageError
        By index of the sample.

    Raises
    ------
    DataError
        ``strict`` is set, or too many of the used images are lost (``check_losses``).
    """
    if strict and refused:
        index = min(refused)
        raise DataError(f"{samples.ids[index]}: {refused[index]}")
    ledger = samples.ledger.with_refused({samples.ids[i]: error for i, error in refused.items()})
    names = {samples.ids[index] for index in used}
    concerned = [each for each in ledger.entries if each.status != "used" or each.path in names]
    check_losses(Ledger(concerned), samples.source.entries, samples.max_refused)
    return dataclasses.replace(samples, ledger=ledger)
