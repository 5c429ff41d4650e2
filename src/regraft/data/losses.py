"""How many images may be lost before the result would describe other data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from regraft.core.text import listed
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.data.ledger import Ledger
    from regraft.data.samples import Entry

#: A larger share of refused images is an error.
LARGEST_LOSS = 0.05
_SHOWN = 10


def check_losses(ledger: Ledger, entries: Sequence[Entry]) -> None:
    """Raise DataError where more than 5 % of the images are refused, or all images of a class.

    Files that were passed over do not count. The entries say to which class a file belongs.
    """
    labels = {entry.id: entry.label for entry in entries}
    refused = [entry for entry in ledger.entries if entry.status == "refused"]
    used = Counter(labels.get(each.path) for each in ledger.entries if each.status == "used")
    total = len(refused) + used.total()
    lost_classes = sorted({labels[e.path] for e in refused if e.path in labels} - set(used))
    if lost_classes:
        what = f"all images of {listed(lost_classes, 5)} are refused"
        refused = [each for each in refused if labels.get(each.path) in lost_classes]
    elif len(refused) > LARGEST_LOSS * total:
        what = f"{len(refused):,} of {total:,} images are refused, more than {LARGEST_LOSS:.0%}"
    else:
        return
    lines = [f"  {each.path}: {each.kind}: {each.reason}" for each in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"  and {len(refused) - _SHOWN:,} more")
    raise DataError(what, hint="repair or remove these files", lines=lines)
