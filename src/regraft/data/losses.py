"""How many images may be lost before the result would describe other data."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from regraft.core.text import counted, listed
from regraft.data.names import printable
from regraft.data.sources.lost import EMPTY
from regraft.errors import DataError
from regraft.images.unrecognised import FORMATS_ARE_READ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.data.ledger import Ledger, LedgerEntry
    from regraft.data.samples import Entry, Source

_SHOWN = 10


def check_classes(source: Source, *, may_be_empty: bool) -> list[str]:
    """Raise DataError where a class folder has no image that is read; return notes.

    ``may_be_empty`` is for measuring: classes of which there are no images cannot be measured.
    """
    lost = dict(source.lost_classes)
    empty = sorted(name for name, reason in lost.items() if reason == EMPTY)
    if may_be_empty:
        lost = {name: reason for name, reason in lost.items() if reason != EMPTY}
    if not lost:
        return [f"no images are in {listed(empty, 5)}: these folders are empty"] if empty else []
    what = counted(len(lost), "class has", "classes have")
    named = [f"{printable(name)}: {reason}" for name, reason in sorted(lost.items())]
    raise DataError(
        f"{source.location}: {what} no image that is read: {listed(named, 3, '; ')}",
        hint=f"put images into the folder ({FORMATS_ARE_READ}), or remove it; "
        f"`exclude={printable(min(lost))!r}` leaves a class out",
    )


def check_losses(ledger: Ledger, entries: Sequence[Entry], max_refused: float) -> None:
    """Raise DataError where a larger share of the images is refused, or all images of a class.

    Files that were passed over do not count. The entries say to which class a file belongs.
    """
    labels = {entry.id: entry.label for entry in entries}
    refused = [entry for entry in ledger.entries if entry.status == "refused"]
    used = Counter(labels.get(each.path) for each in ledger.entries if each.status == "used")
    total = len(refused) + used.total()
    lost_classes = sorted({labels[e.path] for e in refused if e.path in labels} - set(used))
    if lost_classes:
        refused = [each for each in refused if labels.get(each.path) in lost_classes]
        raise _lost(
            f"all images of {listed(lost_classes, 5)} are refused",
            refused,
            f"`exclude={lost_classes[0]!r}` leaves the class out",
        )
    check_share(refused, total, max_refused)


def check_share(refused: Sequence[LedgerEntry], total: int, max_refused: float) -> None:
    """Raise DataError where a larger share of all images is refused."""
    if len(refused) <= max_refused * total:
        return
    verb = "is" if len(refused) == 1 else "are"
    raise _lost(
        f"{len(refused):,} of {total:,} images {verb} refused, more than {100 * max_refused:.3g}%",
        refused,
        f"`max_refused={_rounded_up(len(refused) / total)}` goes on without them",
    )


def _lost(what: str, refused: Sequence[LedgerEntry], other: str) -> DataError:
    """Return an error that names the first refused images; ``other`` is a remedy."""
    lines = [f"  {each.path}: {each.kind}: {each.reason}" for each in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"  and {len(refused) - _SHOWN:,} more")
    return DataError(what, hint=f"repair or remove these files; {other}", lines=lines)


def _rounded_up(share: float) -> str:
    """Return a share with two decimals that is not smaller.

    Examples
    --------
    >>> _rounded_up(0.0603), _rounded_up(1.0)
    ('0.07', '1')
    """
    return f"{math.ceil(share * 100 - 1e-9) / 100:g}"
