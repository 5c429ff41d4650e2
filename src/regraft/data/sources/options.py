"""What opens a source besides the data: options, and how ids are put into groups."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from regraft.data.samples import Source

#: A path, the name of a dataset, or ``(images, labels)``.
Data: TypeAlias = str | os.PathLike[str] | tuple[Any, Any]


@dataclass(frozen=True)
class SourceOptions:
    """What a source may need besides the data.

    Attributes
    ----------
    data_root : Path or None
        Where named datasets lie or are downloaded to.
    group_by : str or None
        "parent", a part's number, or a regular expression; see ``grouping``.
    """

    data_root: Path | None = None
    group_by: str | None = None


def grouping(group_by: str) -> Callable[[str], str | None]:
    r"""Make the function that names the group of an id; None means a group of its own.

    Parameters
    ----------
    group_by : str
        ``"parent"``: the whole path of the folder that holds the file. Digits: that part of the id
        (0 is the first). Anything else: a regular expression that is searched in the id; its first
        group names the group, else the whole match.

    Raises
    ------
    ConfigError
        Where the pattern is not a regular expression.

    Examples
    --------
    >>> grouping("parent")("rose/burst7/3.jpg"), grouping("1")("rose/burst7/3.jpg")
    ('rose/burst7', 'burst7')
    >>> by_patient = grouping(r"(p\d+)_")
    >>> by_patient("rose/p12_3.jpg"), by_patient("rose/unknown.jpg")
    ('p12', None)
    """
    if group_by == "parent":
        return lambda name: name.rpartition("/")[0] or None
    if group_by.isascii() and group_by.isdecimal():
        number = int(group_by[:9])

        def part(name: str) -> str | None:
            parts = name.split("/")
            return parts[number] if number < len(parts) else None

        return part
    try:
        # The pattern is the user's own: how long it searches is in the user's hands.
        search = re.compile(group_by).search
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"group_by is {group_by!r}, which is not a regular expression: {error}",
            hint="give parent, the number of a part of the path, or a regular expression",
        ) from error

    def found(name: str) -> str | None:
        match = search(name)
        if match is None:
            return None
        return match.group(1) if match.re.groups else match.group()

    return found


def with_groups(source: Source, group_by: str | None) -> Source:
    """Return the source with the groups that ``group_by`` names, in place of its own.

    Raises
    ------
    ConfigError
        Where no id has a group: the protection that was asked for would protect nothing.
    """
    if group_by is None:
        return source
    name_of = grouping(group_by)
    entries = [replace(entry, group=name_of(entry.id)) for entry in source.entries]
    groups = {entry.group for entry in entries if entry.group is not None}
    if not groups:
        raise ConfigError(
            f"group_by is {group_by!r}, which names no group in {source.location}: the first id is "
            f"{source.entries[0].id!r}",
            hint="give parent, the number of a part of the id, or a regular expression",
        )
    alone = sum(entry.group is None for entry in entries)
    note = f"group_by {group_by!r}: {len(groups)} groups"
    if alone:
        note += f"; {alone} images match nothing and are each a group of their own"
    return replace(source, entries=entries, notes=(*source.notes, note))
