"""Names split into folders, and the images that are outside of class folders."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from regraft.core.text import counted
from regraft.data.ledger import LedgerEntry
from regraft.data.names import printable
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.data.samples import Entry

#: A folder, as the names that lead to it.
Folder = tuple[str, ...]

TO_LABEL = (
    "put the images of each class into a folder with the class's name, or give a table with the "
    "columns path and label"
)


class Inside(NamedTuple):
    """What is in a folder, below the single folders that only hold one more."""

    folder: Folder
    own: int  # images beside the folders
    folders: Counter[str]  # images of each folder


class Tree:
    """Images by their folders; those that cannot be labelled are recorded in ``left_out``."""

    def __init__(self, names: Sequence[str], location: str) -> None:
        self.location = location
        self.names = names
        self.split = [name.split("/") for name in names]
        self.left_out: list[LedgerEntry] = []
        self._members: dict[Folder, list[int]] = {}

    def unique(self) -> list[int]:
        """Return the positions of all names, and record the second of two equal ones."""
        seen: set[str] = set()
        positions = []
        for position, name in enumerate(self.names):
            if name in seen:
                self._record_refused(position, "duplicate name", "another file has the same name")
            else:
                seen.add(name)
                positions.append(position)
        return positions

    def skip_single(
        self, folder: Folder, members: list[int], stop_at: frozenset[str] = frozenset()
    ) -> Folder:
        """Descend while there is a single folder that holds folders; return the last one."""
        self._members[folder] = members
        while True:
            below = self.children(folder)
            if len(below) != 1:
                return folder
            ((name, inside),) = below.items()
            deeper = (*folder, name)
            if name in stop_at or self.is_flat(deeper, inside):
                return folder
            folder = deeper
            self._members[folder] = inside

    def is_flat(self, folder: Folder, members: Sequence[int]) -> bool:
        """Return whether all images of a folder are directly in it."""
        return all(len(self.split[position]) == len(folder) + 1 for position in members)

    def children(self, folder: Folder) -> dict[str, list[int]]:
        """Return the folders below one, by name; record the images beside them, once."""
        depth = len(folder)
        below: dict[str, list[int]] = defaultdict(list)
        loose = []
        for position in self._members[folder]:
            parts = self.split[position]
            if len(parts) > depth + 1:
                below[parts[depth]].append(position)
            else:
                loose.append(position)
        if loose and not below:
            raise self.unlabelled(folder, len(loose), TO_LABEL)
        for position in loose:
            self._record_refused(
                position,
                "beside class folders",
                "it is next to the class folders, so its class is unknown",
            )
        if loose:
            gone = set(loose)
            self._members[folder] = [i for i in self._members[folder] if i not in gone]
        return dict(below)

    def unlabelled(self, folder: Folder, count: int, hint: str) -> DataError:
        """Return the error for a folder of images without class folders."""
        where = f"{self.location}: {'/'.join(folder)}" if folder else self.location
        what = f"holds {counted(count)} and no class folders, so the labels are unknown"
        return DataError(f"{where} {what}", hint=hint)

    def inside(self, folder: Folder, members: Sequence[int]) -> Inside:
        """Return what is in a folder; single folders that only hold one more are skipped."""
        while True:
            depth = len(folder)
            folders = Counter(
                self.split[position][depth]
                for position in members
                if len(self.split[position]) > depth + 1
            )
            own = len(members) - folders.total()
            if own or len(folders) != 1:
                return Inside(folder, own, folders)
            deeper = (*folder, *folders)
            if self.is_flat(deeper, members):
                return Inside(folder, own, folders)
            folder = deeper

    def id_below(self, position: int, root: Folder) -> str:
        """Return a name without the folders that were skipped."""
        return "/".join(self.split[position][len(root) :]) if root else self.names[position]

    def readable(self, found: Sequence[tuple[int, Entry]]) -> Iterator[tuple[int, Entry]]:
        """Yield images; record one whose name cannot be printed, unless its class cannot either."""
        for position, entry in found:
            if printable(entry.id) == entry.id or printable(entry.label) != entry.label:
                yield position, entry  # ``check_labels`` raises an error for such a class
            else:
                reason = "its name holds control characters, or is not valid text"
                self._record_refused(position, "unreadable name", reason)

    def pass_over(self, positions: Sequence[int], kind: str, reason: str) -> None:
        """Record images that are not meant for training."""
        for position in positions:
            name = printable(self.names[position])
            self.left_out.append(LedgerEntry(name, "passed over", kind, reason))

    def _record_refused(self, position: int, kind: str, reason: str) -> None:
        name = printable(self.names[position])
        self.left_out.append(LedgerEntry(name, "refused", kind, reason))
