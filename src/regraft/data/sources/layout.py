"""Class folders: which file of a tree belongs to which class and part.

It works on lists of names, for folders and archives alike. An id leaves out the folders above the
class and part folders, so that ``flowers.zip``, its unpacked folder and the folder that holds the
class folders all give the same ids.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from regraft.core.text import counted, listed
from regraft.data.names import normalise
from regraft.data.samples import Entry, Part, Source
from regraft.data.sources.lost import classes_without_images, no_images
from regraft.data.sources.nesting import Outer, check_nesting
from regraft.data.sources.part_names import (
    find_parts,
    is_to_predict,
    part_of,
    says_only_a_part,
)
from regraft.data.sources.select import excluded_by, find_excluded
from regraft.data.sources.tree import TO_LABEL, Folder, Tree
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from regraft.data.ledger import LedgerEntry
    from regraft.data.sources.members import Members
    from regraft.data.sources.options import SourceOptions
    from regraft.images.payload import Load

Key = TypeVar("Key")

_LISTED = 5  # names in one message


def source_of_folders(
    kind: str,
    location: str,
    members: Members[Key],
    stream: Callable[[Sequence[Key], Sequence[int]], Iterator[tuple[int, Load]]],
    options: SourceOptions,
    order: Callable[[Key], int] | None = None,
) -> Source:
    """Make a source of the class folders of a tree; ``stream(keys, indices)`` reads its images.

    Entries are sorted by id, or by ``order(key)``, where images are read in one order only.
    """
    if not members.names:
        raise no_images(f"{location} holds no images", members.left_out)
    settled = options.group_by is not None or bool(options.classes)
    arranged = partial(arrange, location=location, is_folder=kind == "folder")
    if options.exclude:
        members, layout = _arrange_without(options.exclude, members, arranged, settled=settled)
    else:
        layout = arranged(members.names, settled=settled)
    images = [
        (members.keys[position], entry)
        for position, entry in zip(layout.positions, layout.entries, strict=True)
    ]
    if order is not None:
        images.sort(key=lambda image: order(image[0]))
    keys, entries = [key for key, _ in images], [entry for _, entry in images]
    classes = {entry.label for entry in entries}
    lost, no_classes = classes_without_images(layout.roots, classes, members)
    return Source(
        kind,
        location,
        entries,
        partial(stream, keys),
        (*members.left_out, *layout.refused),
        (*members.notes, *layout.notes, *no_classes),
        lost_classes=lost,
    )


def _arrange_without(
    exclude: Sequence[str],
    members: Members[Key],
    arranged: Callable[..., Arrangement],
    *,
    settled: bool,
) -> tuple[Members[Key], Arrangement]:
    """Arrange what the user does not leave out: a folder of examples hides no class folders.

    Where the rest has the same classes with what is left out and without, all is returned, and
    ``select`` leaves it out.
    """
    whole = None
    entries, positions = (
        [Entry(name, "") for name in members.names],
        list(range(len(members.names))),
    )
    with suppress(DataError):  # without class folders, patterns mean folders and files
        whole = arranged(members.names, settled=True)
        entries, positions = whole.entries, whole.positions
    gone: dict[int, str] = {}
    for pattern in map(normalise, exclude):
        found = [positions[index] for index in find_excluded(pattern, entries)]
        gone = dict.fromkeys(found, pattern) | gone
    left = members.without(gone, excluded_by)
    if not left.names:
        return members, arranged(members.names, settled=True)  # ``select`` says so
    rest = arranged(left.names, settled=settled)
    kept = [entry for at, entry in zip(positions, entries, strict=True) if at not in gone]
    if whole is not None and kept == rest.entries:
        return members, replace(whole, notes=rest.notes)
    return left, rest


@dataclass(frozen=True)
class Arrangement:
    """Which names are labelled images: ``entries[i]`` is ``names[positions[i]]``."""

    positions: list[int]
    entries: list[Entry]
    refused: list[LedgerEntry]  # or passed over
    notes: tuple[str, ...]
    roots: list[Folder]  # the folders that hold the class folders


class _Labelled(NamedTuple):
    """A class folder, or the folder of one part in a class folder."""

    folder: Folder
    label: str
    part: Part | None
    positions: list[int]


def arrange(
    names: Sequence[str], location: str, *, settled: bool = False, is_folder: bool = True
) -> Arrangement:
    """Find the class folders, with or without part folders, in the NFC names of images.

    A single folder that holds folders is skipped, and the next one if it is again alone. If the
    folders found are named like parts (``train`` and ``test``, ``training_set`` and ``test_set``,
    ``seg_train`` and ``seg_test``), each holds class folders of its own. If all class folders hold
    part folders, these are the parts. A file deep below a class folder belongs to the class: where
    its folder is probably the class, that is an error (``nesting.py``), unless it is ``settled``
    that the outer folders are the classes.
    Entries are sorted by id: the order of an archive's members changes no result.

    Examples
    --------
    >>> arrange(["top/b/1.jpg", "top/a/x/2.jpg"], "photos.zip").entries
    [Entry(id='a/x/2.jpg', label='a', part=None, group=None), Entry(id='b/1.jpg', label='b', \
part=None, group=None)]
    """
    if not names:
        raise no_images(f"{location} holds no images", ())
    tree = Tree(names, location)
    root = tree.skip_single((), tree.unique())
    below = tree.children(root)
    parts, notes = _part_folders(tree, root, below)
    roots = _class_roots(tree, root, below, parts) if parts else [(root, None)]
    labelled = [
        _Labelled((*folder, label), label, part, positions)
        for folder, part in roots
        for label, positions in tree.children(folder).items()
    ]
    if not parts and root and part_of(root[-1]):
        notes.append(f"{root[-1]} is the only part folder, so it is split like any other data")
    inside = [] if parts else _parts_of_classes(tree, labelled)
    if inside:
        names_of_parts = listed(sorted({each.folder[-1] for each in inside}), _LISTED)
        notes.append(f"the folders {names_of_parts} in the class folders are used as parts")
        labelled = inside
    elif not settled:
        notes += check_nesting(_outers(tree, labelled, root), location, is_folder=is_folder)
    found = [
        (position, Entry(tree.id_below(position, root), each.label, each.part))
        for each in labelled
        for position in each.positions
    ]
    found = sorted(tree.readable(found), key=lambda pair: pair[1].id)
    positions, entries = [position for position, _ in found], [entry for _, entry in found]
    folders = [folder for folder, _ in roots]
    return Arrangement(positions, entries, tree.left_out, tuple(notes), folders)


def _part_folders(
    tree: Tree, root: Folder, below: dict[str, list[int]]
) -> tuple[dict[str, Part], list[str]]:
    """Return the part of each folder, and notes; no part where they are class folders."""
    parts = find_parts(below)
    if not parts:
        return {}, []  # "test" or "train" (the vehicle) among others is a class like any other
    notes = []
    others = sorted(set(below) - set(parts))
    for name in list(others):
        if is_to_predict(name) and len(tree.inside((*root, name), below[name]).folders) < 2:
            others.remove(name)
            tree.pass_over(below[name], "no label", "its folder is for images without labels")
            notes.append(
                f"{name} is left out: its {counted(len(below[name]))} have no class folders"
            )
    if others:
        where = "/".join(root) or tree.location
        again = [
            name for name in others if find_parts(tree.inside((*root, name), below[name]).folders)
        ]
        hint = "leave only part folders there, or only class folders"
        if again:
            hint = f"{again[0]} has part folders, too: remove it if it is a copy"
        raise DataError(
            f"{where} holds the part folders {', '.join(sorted(parts))} and others beside them: "
            f"{listed(others, _LISTED)}",
            hint=hint,
        )
    for part in sorted(set(parts.values())):
        several = sorted(name for name in parts if parts[name] == part)
        if len(several) > 1:
            notes.append(f"{listed(several, _LISTED)} are all used as the {part} part")
    return parts, notes


def _class_roots(
    tree: Tree, root: Folder, below: dict[str, list[int]], parts: dict[str, Part]
) -> list[tuple[Folder, Part | None]]:
    """Return the folder that holds the class folders of each part.

    In ``train/train/rose`` the second folder is skipped, like a single folder at the top. A part
    with a single class keeps it where the training part has that class, too.
    """
    order = sorted(parts, key=lambda name: (parts[name] != "train", name))
    roots: list[tuple[Folder, Part | None]] = []
    known: frozenset[str] = frozenset()
    for name in order:
        others = [other for other in order if other != name]
        try:
            folder = tree.skip_single((*root, name), below[name], stop_at=known)
        except DataError as error:
            error.hint = _without(others, root)
            raise
        classes = tree.children(folder)
        if len(classes) == 1 and not classes.keys() & known:
            ((only, positions),) = classes.items()
            if known or says_only_a_part(only) or only == name:
                path = (*folder, only)
                raise tree.unlabelled(path, len(positions), _without(others, root))
        known |= classes.keys()
        roots.append((folder, parts[name]))
    return roots


def _without(others: list[str], root: Folder) -> str:
    """Return the hint for a part without class folders."""
    alone = "/".join((*root, others[0]))
    return f"{TO_LABEL}; or give {alone} alone: it is divided into parts"


def _parts_of_classes(tree: Tree, labelled: Sequence[_Labelled]) -> list[_Labelled]:
    """Return the parts of each class, where all class folders hold only these; else nothing."""
    found: list[_Labelled] = []
    for each in labelled:
        inside = tree.inside(each.folder, each.positions)
        if inside.own or len(inside.folder) > len(each.folder):
            return []
        parts = {name: part_of(name) for name in inside.folders}
        below: dict[str, list[int]] = defaultdict(list)
        for position in each.positions:
            below[tree.split[position][len(each.folder)]].append(position)
        for name, part in parts.items():
            if part is None or not tree.is_flat((*each.folder, name), below[name]):
                return []
            found.append(_Labelled((*each.folder, name), each.label, part, below[name]))
    return found if len({each.part for each in found}) > 1 else []


def _outers(tree: Tree, labelled: Sequence[_Labelled], root: Folder) -> list[Outer]:
    """Return the class folders for the rule about folders in them; parts are joined."""
    found: dict[str, Outer] = {}
    for each in labelled:
        inside = tree.inside(each.folder, each.positions)
        first = found.get(each.label)
        path, depth = "/".join(inside.folder), len(inside.folder) - len(root)
        found[each.label] = Outer(
            each.label,
            path if first is None else first.path,
            depth if first is None else first.depth,
            inside.own + (0 if first is None else first.own),
            inside.folders + (Counter() if first is None else first.inner),
        )
    return list(found.values())
