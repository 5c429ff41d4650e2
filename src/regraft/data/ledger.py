"""The ledger: every file that was met, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["used", "refused", "passed over"]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One file and what became of it.

    ``refused``: meant as an image and lost. ``passed over``: never meant as an image (a readme, a
    hidden file, a folder's thumbnail cache); such files do not count as lost.
    """

    path: str
    status: Status
    kind: str = ""  # a short fixed word: "truncated", "not an image", "too many pixels", ...
    reason: str = ""  # one sentence


@dataclass(frozen=True)
class Ledger:
    """All entries in the order in which they were met."""

    entries: Sequence[LedgerEntry]
