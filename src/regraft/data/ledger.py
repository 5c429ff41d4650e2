"""The ledger: a list of all files that were found, and whether each is used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from regraft.core.files import read_bounded, write_atomic
from regraft.errors import ImageError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Status = Literal["used", "refused", "passed over"]

SCHEMA_VERSION = 1
_LARGEST = 2 << 30  # bytes; ten million files are about 1 GB


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One file, and whether it is used.

    A refused file should be an image, and is lost. A file that is passed over is not one (a readme,
    a hidden file, a cache of thumbnails), and does not count as lost.
    """

    path: str  # id of the sample, else the path in the source
    status: Status
    kind: str = ""  # a short fixed word: "truncated", "not an image", "too many pixels", ...
    reason: str = ""  # one sentence


class _EntryRecord(msgspec.Struct, omit_defaults=True):
    """An entry as it is written; empty fields are left out."""

    path: str
    status: Status
    kind: str = ""
    reason: str = ""


class _LedgerFile(msgspec.Struct):
    """The content of the file."""

    schema_version: int
    counts: dict[str, int]
    files: list[_EntryRecord]


@dataclass(frozen=True)
class Ledger:
    """All entries, in the order of the scan.

    Examples
    --------
    >>> ledger = Ledger([LedgerEntry("a.jpg", "used"), LedgerEntry("b.jpg", "used")])
    >>> ledger.with_refused({"b.jpg": ImageError("truncated", "it ends after 10 bytes")}).counts()
    {'used': 1, 'refused': 1, 'passed over': 0}
    """

    entries: Sequence[LedgerEntry]

    def counts(self) -> dict[str, int]:
        """Return the number of files with each status."""
        counted = Counter(entry.status for entry in self.entries)
        return {
            "used": counted["used"],
            "refused": counted["refused"],
            "passed over": counted["passed over"],
        }

    def with_refused(self, errors: Mapping[str, ImageError]) -> Ledger:
        """Return a copy that records some used files, given by path, as refused."""
        return Ledger(
            [
                LedgerEntry(
                    entry.path, "refused", errors[entry.path].kind, errors[entry.path].reason
                )
                if entry.status == "used" and entry.path in errors
                else entry
                for entry in self.entries
            ]
        )

    def with_remarks(self, kind: str, reasons: Mapping[str, str]) -> Ledger:
        """Return a copy that says something about some used files, given by path.

        Examples
        --------
        >>> ledger = Ledger([LedgerEntry("a.jpg", "used")])
        >>> ledger.with_remarks("several labels", {"a.jpg": "also b.jpg (cat)"}).entries[0].kind
        'several labels'
        """
        return Ledger(
            [
                LedgerEntry(entry.path, entry.status, kind, reasons[entry.path])
                if entry.status == "used" and entry.path in reasons
                else entry
                for entry in self.entries
            ]
        )

    def write(self, path: Path | str) -> None:
        """Write the ledger as JSON."""
        records = [_EntryRecord(e.path, e.status, e.kind, e.reason) for e in self.entries]
        encoded = msgspec.json.encode(_LedgerFile(SCHEMA_VERSION, self.counts(), records))
        write_atomic(path, msgspec.json.format(encoded, indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path | str) -> Ledger:
        """Read a ledger that ``write`` wrote; raise RunError for any other file."""
        data = read_bounded(path, _LARGEST)
        try:
            version = msgspec.json.decode(data, type=_LedgerVersion).schema_version
            if version != SCHEMA_VERSION:
                raise RunError(
                    f"{path} has schema version {version}; this regraft reads {SCHEMA_VERSION}",
                    hint="use the version of regraft that wrote it",
                )
            file = msgspec.json.decode(data, type=_LedgerFile)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RunError(f"{path} is not a ledger: {error}") from error
        return cls([LedgerEntry(r.path, r.status, r.kind, r.reason) for r in file.files])


class _LedgerVersion(msgspec.Struct):
    """The version alone: checked first, since a later version may have other fields."""

    schema_version: int
