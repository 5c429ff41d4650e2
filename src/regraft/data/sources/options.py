"""How a source is opened: its options, the function to write for a new one, groups of images."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from regraft.core.text import counted
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from regraft.data.samples import Source

#: A path, the name of a dataset, or ``(images, labels)``.
Data: TypeAlias = str | os.PathLike[str] | tuple[Any, Any]

#: The value of ``group_by`` that says: folders inside class folders are neither classes nor groups.
NO_GROUPS = "none"


@dataclass(frozen=True)
class SourceOptions:
    """What an opener may need besides the data.

    Attributes
    ----------
    data_root : Path or None
        Folder of named and downloaded datasets; ``named.default_data_root()`` where it is None.
    group_by : str or None
        ``"parent"``, the number of a part of the id, a regular expression (see ``grouping``), or
        ``"none"``. ``open_source`` makes the groups; openers of class folders ask only whether the
        user has said what folders inside class folders are.
    exclude, classes : tuple of str
        Patterns of what is left out, and names of the classes that are used (all if empty).
    at_most : str or None
        Number of images, in all or as in ``"50/class"``.
    image_root : Path or None
        Folder where the paths of a table begin; its own folder where it is None.
    max_pixels : int
        Largest height times width of an image; only for images that are decoded already, since the
        decoder checks all others.
    """

    data_root: Path | None = None
    group_by: str | None = None
    exclude: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    at_most: str | None = None
    image_root: Path | None = None
    max_pixels: int = 40_000_000

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return the options in the settings of a training."""
        return cls(**{each.name: getattr(config, each.name) for each in fields(cls)})


class Opener(Protocol):
    """Open one kind of data: the function to write for a new source.

    It lists the images and reads none of them. It must be cheap to call with data of another kind:
    every opener is tried in turn.

    Parameters
    ----------
    data : path, str or tuple
        What the user gave. A tuple holds arrays, and all else is a path or a name.
    options : SourceOptions
        ``data_root`` is where downloads go.

    Returns
    -------
    Source or None
        None where the data are of another kind. Otherwise the labelled images: ids are unique, NFC,
        with "/" between their parts, and the same each time; the files that were found and are not
        listed are in ``refused``.

    Raises
    ------
    DataError
        The data are of this kind and cannot be used.

    Examples
    --------
    A source that draws images of 8 by 8 pixels from seeds:

    >>> from functools import partial
    >>> import numpy as np
    >>> from regraft.data.samples import Entry, Source
    >>> from regraft.data.sources.stream import read_each
    >>> def draw(seed):
    ...     return np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    >>> def open_noise(data, options):
    ...     if isinstance(data, tuple) or not os.fspath(data).startswith("noise:"):
    ...         return None
    ...     seeds = range(int(os.fspath(data).removeprefix("noise:")))
    ...     entries = [Entry(f"seed/{seed}", "even" if seed % 2 == 0 else "odd") for seed in seeds]
    ...     return Source("noise", data, entries, partial(read_each, draw, seeds))
    >>> source = open_noise("noise:4", SourceOptions())
    >>> [(source.entries[index].label, load().shape) for index, load in source.stream([1, 2])]
    [('odd', (8, 8)), ('even', (8, 8))]
    """

    def __call__(self, data: Data, options: SourceOptions, /) -> Source | None:
        """Open the data, or return None."""


def grouping(group_by: str) -> Callable[[str], str | None]:
    r"""Return the function from an id to its group; None means a group of its own.

    ``"parent"`` is the whole path of the folder that holds the file, a number that part of the id
    (0 is the first). Anything else is a regular expression, searched in the id: its first group,
    else the whole match, is the name.

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
        # The pattern is the user's own: how long its search takes is the user's decision.
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
    """Replace the groups of a source by those that ``group_by`` names; "none" keeps its own.

    It is an error where no id has a group: nothing would be kept together.
    """
    if group_by is None or group_by == NO_GROUPS:
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
    note = f"group_by {group_by!r}: {counted(len(groups), 'group')}"
    if alone:
        note += f"; {counted(alone)} without a match, each a group of its own"
    return replace(source, entries=entries, notes=(*source.notes, note))
