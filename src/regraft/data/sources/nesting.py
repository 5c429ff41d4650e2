"""Whether the folders that would be classes are the classes: the rule for folders in folders.

Every folder below the top of the data is a class, and all images below it are of that class. That
is right for ``CLASS/PATIENT/1.jpg``, and wrong for ``2023/CLASS/1.jpg`` or for a cloned repository.
A wrong reading ends with a high accuracy and useless classes, and a needless stop costs one flag.
So a layout that matches one of ``RULES`` is an error, unless the user says with ``group_by`` what
the inner folders are, or names the classes. Other folders in class folders give a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from regraft.core.text import listed
from regraft.data.names import printable
from regraft.data.sources.part_names import FILLERS, find_parts, part_of, words
from regraft.errors import DataError

_LISTED = 5  # names in one message
_SPARE = 3  # names to leave out in one hint

# Folders beside or in class folders that hold no further images of the class.
_COMPANIONS = {
    *("mask", "masks", "annotation", "annotations", "segmentation", "segmentations", "segmented"),
    *("ground", "truth", "groundtruth", "gt", "trimap", "trimaps", "label", "labels", "depth"),
    *("thumb", "thumbs", "thumbnail", "thumbnails", "augmented", "augmentation", "augmentations"),
    *("aug", "heatmap", "heatmaps", "edges", "processed", "preprocessed", "resized", "cropped"),
    *("crops", "grayscale", "gray", "grey"),
}
_FORMATS = {"jpeg", "jpg", "png", "raw", "original", "originals", "rgb", "color", "colour", "class"}
# Names of what holds a whole data set, or a piece of one.
_CONTAINERS = {"data", "dataset", "datasets", "set", "sets"}
_PIECES = {*_CONTAINERS, "images", "imgs", "img", "part", "batch", "chunk", "fold", "shard",
           "split", "archive", "subset"}  # fmt: skip
_OCCASIONS = {*_PIECES, "site", "hospital", "camera", "cam", "year", "session", "subject", "person",
              "user", "writer", "day", "domain", "source", "cv", "run", "version"}  # fmt: skip
# Numbered names with such a word are classes and no patients or frames: class1, grade_2.
_CLASSES = {"class", "category", "grade", "stage", "type", "level", "species", "breed", "label"}
_STRAY = 0.1  # share of images beside inner folders that does not make a folder a class


@dataclass(frozen=True)
class Outer:
    """A folder that would be a class."""

    name: str
    path: str  # of what it holds; single folders in it are skipped
    depth: int  # of the inner folders' names in an id
    own: int  # images that are not in inner folders
    inner: Counter[str]  # images of each inner folder

    @property
    def images(self) -> int:
        """Return the number of all images."""
        return self.own + self.inner.total()

    @property
    def is_holder(self) -> bool:
        """Return whether it holds folders, and no images but strays."""
        return bool(self.inner) and self.own <= _STRAY * self.images


class Finding(NamedTuple):
    """What speaks against a layout, and what to do."""

    what: str
    meant: Outer | None = None  # the folder that probably holds the classes
    advice: str = ""  # more that can be done
    spare: Sequence[str] = ()  # names without which the layout would be clear


def check_nesting(outers: Sequence[Outer], location: str, *, is_folder: bool) -> list[str]:
    """Raise DataError where the classes are probably other folders; else return notes.

    ``location`` is where the paths of the outer folders begin. ``is_folder`` says whether the user
    can give a path below it.
    """
    outers = sorted(outers, key=lambda outer: outer.name)  # the order of an archive is none
    for rule in RULES:
        finding = rule(outers)
        if finding is not None:
            raise DataError(
                f"{location} {finding.what}",
                hint=_hint(finding, outers, location, is_folder=is_folder),
            )
    return _notes(outers)


def _hint(finding: Finding, outers: Sequence[Outer], location: str, *, is_folder: bool) -> str:
    """Return what to do: the path that was probably meant, and how to go on regardless."""
    remedies = [finding.advice] if finding.advice else []
    if finding.meant is not None:
        path = finding.meant.path
        give = f"give {location.rstrip('/')}/{path}" if is_folder else (
            f"unpack it and give the folder {path}")  # fmt: skip
        remedies.append(f"if the classes are {_named(finding.meant.inner)}, {give}")
    if 0 < len(finding.spare) <= _SPARE:
        patterns = ", ".join(f"`exclude={name!r}`" for name in sorted(finding.spare))
        remedies.append(f"{patterns} leaves out what is no class")
    remedies.append(
        f"if the classes are {_named(outer.name for outer in outers)}, `group_by='parent'` keeps "
        "the images of one folder together, and `group_by='none'` does not"
    )
    return "; ".join(remedies)


# --- the rules -------------------------------------------------------------------------------


def _copies(outers: Sequence[Outer]) -> Finding | None:
    """Find a folder that holds folders named like those beside it."""
    names = {outer.name for outer in outers}
    for outer in outers:
        again = sorted(names.intersection(outer.inner) - {outer.name})
        if len(again) < 2:
            continue
        what = f"has the folders {_named(again)} twice: beside {outer.name} and in it"
        if part_of(outer.name):
            advice = f"put {_named(names - {outer.name})} into a folder train"
            return Finding(what, advice=advice, spare=[outer.name])
        return Finding(what, outer, spare=[outer.name])
    return None


def _parts_inside(outers: Sequence[Outer]) -> Finding | None:
    """Find a folder that holds part folders."""
    for outer in sorted(outers, key=_last_choice):
        parts = find_parts(outer.inner)
        if parts:
            return Finding(f"holds {outer.name}, which has the part folders {_named(parts)}", outer)
    return None


def _companions(outers: Sequence[Outer]) -> Finding | None:
    """Find masks, thumbnails and altered copies among the images of a class."""
    found = {
        name
        for outer in outers
        if outer.own or len(outer.inner) > 1
        for name in outer.inner
        if _is_companion(name)
    }
    if found:
        what = f"has folders named {_named(found)} in class folders: masks, labels or copies"
        return Finding(what, spare=sorted(found))
    flat = [outer.name for outer in outers if not outer.inner]
    if len(outers) < 2 or len(flat) < len(outers) or not any(map(_is_companion, flat)):
        return None
    if all(_is_companion(name) or _says_nothing(name) for name in flat):
        what = f"holds {_named(flat)}, and no class folders, so the labels are unknown"
        return Finding(what, advice="give a table with the columns path and label")
    return None


def _recurring(outers: Sequence[Outer]) -> Finding | None:
    """Find folders with the same names in several folders, as in ``2023/rose`` and ``2024/rose``.

    Numbers recur where each class counts its patients or frames: these are taken for classes only
    in folders that are themselves numbered, or named like sites and sessions.
    """
    holders = [outer for outer in outers if outer.is_holder]
    count = Counter(name for outer in holders for name in outer.inner)
    names = {name for name in count if not _says_nothing(name)}
    ids = {n for n in names if any(map(str.isdigit, n)) and not _CLASSES.intersection(words(n))}
    if _are_numbered(ids) and 2 * len(ids) > len(names):
        over = [outer.name for outer in holders]
        if not _are_numbered(over) and not all(_OCCASIONS.intersection(words(n)) for n in over):
            return None
    shared = {name for name in names if count[name] > 1}
    if len(names) < 2 or not shared or 2 * len(shared) < len(names):
        return None
    those = [outer for outer in holders if shared.intersection(outer.inner)]
    meant = min(those, key=_last_choice)
    what = f"has folders of the same names in {_named(o.name for o in those)}: {_named(shared)}"
    advice = "" if _is_companion(max(those, key=_last_choice).name) else (
        f"put the folders {_named(shared)} at the top to use all")  # fmt: skip
    return Finding(what, meant, advice)


def _only_nested(outers: Sequence[Outer]) -> Finding | None:
    """Find the only folder that holds folders, as in a cloned repository."""
    nested = [outer for outer in outers if len(outer.inner) > 1]
    if len(nested) != 1 or len(outers) < 2 or not nested[0].is_holder:
        return None
    (outer,) = nested
    others = [each.name for each in outers if each is not outer]
    what = f"has folders in {outer.name} only, and not in {_named(others)}"
    return Finding(what, outer, spare=others)


def _containers(outers: Sequence[Outer]) -> Finding | None:
    """Find folders that are named like data sets or their pieces, and not like classes."""
    for outer in sorted(outers, key=_last_choice):
        if len(outer.inner) > 1 and outer.is_holder and len(outers) > 1:
            named = words(outer.name)
            if _says_nothing(outer.name) or (named and named[-1] in _CONTAINERS):
                what = f"has folders in {outer.name}, which is no name of a class"
                return Finding(what, outer)
    names = [outer.name for outer in outers]
    if _are_numbered(names) and all(_PIECES.intersection(words(name)) for name in names):
        what = f"holds {_named(names)}: pieces of data, and no class folders"
        return Finding(what, advice="give a table with the columns path and label")
    return None


Rule: TypeAlias = Callable[[Sequence[Outer]], Finding | None]

#: They are tried in this order; the first finding is the error.
RULES: tuple[Rule, ...] = (
    _copies, _parts_inside, _companions, _recurring, _only_nested, _containers,
)  # fmt: skip


# --- names and notes -------------------------------------------------------------------------


def _last_choice(outer: Outer) -> tuple[bool, int, str]:
    """Return a key whose minimum most probably holds the classes."""
    return _is_companion(outer.name), -outer.images, outer.name


def _is_companion(name: str) -> bool:
    found = set(words(name))
    return bool(found & _COMPANIONS) and found <= _COMPANIONS | FILLERS | _FORMATS


def _says_nothing(name: str) -> bool:
    """Return whether a name has only words such as images, data and jpg."""
    found = set(words(name))
    return bool(found) and found <= FILLERS | _FORMATS | _CONTAINERS


def _are_numbered(names: Sequence[str] | set[str]) -> bool:
    """Return whether names differ by numbers, as p1, p2 or 2023, 2024 do."""
    if len(names) < 2 or not all(any(map(str.isdigit, name)) for name in names):
        return False
    return 2 * len({re.sub(r"\d+", "#", name) for name in names}) <= len(names)


def _named(names: Iterable[str]) -> str:
    return listed([printable(name) for name in sorted(names)], _LISTED)


def _notes(outers: Sequence[Outer]) -> list[str]:
    """Return a note where class folders hold several folders."""
    nested = [outer for outer in outers if len(outer.inner) > 1]
    if not nested:
        return []
    count = Counter(name for outer in nested for name in outer.inner)
    shared = {name for name, times in count.items() if times > 1}
    depths = {outer.depth for outer in nested}
    first = nested[0]
    rule, what = "parent", "the images of one folder"
    if shared and len(depths) == 1:
        rule, what = str(*depths), f"the images of all folders of one name ({_named(shared)})"
    note = (
        f"all images below a class folder are of that class, also those in its folders "
        f"({first.name}: {_named(first.inner)}); `group_by={rule!r}` keeps {what} in one part"
    )
    return [note]
