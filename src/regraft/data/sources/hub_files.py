"""Which files of a repository of the Hugging Face hub hold its images, by their names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from regraft.core.text import listed
from regraft.data.sources.layout import arrange
from regraft.data.sources.members import has_image_suffix, is_hidden
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_HINT = "download it from its page, and give a folder of class folders"


def choose_files(name: str, sizes: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Return the files that hold a repository's images, and notes about the others.

    ``sizes`` has all its files with their bytes; ``name`` is for messages. Parquet files are the
    data where there are any. Of images and archives those with more bytes are chosen: a picture in
    the README does not hide an archive, and an archive of scripts does not hide images.
    """
    safe = sorted(filter(_is_safe, sizes))  # the client makes paths of these names
    tables = list(filter(is_table, safe))
    images = list(filter(has_image_suffix, safe))
    archives = list(filter(_is_archive, safe))
    if tables:
        return tables, []
    if sum(map(sizes.__getitem__, archives)) >= sum(map(sizes.__getitem__, images)):
        chosen, others, what = archives, images, f"{short_list(archives)} has"
    else:
        chosen, others, what = images, archives, "the images have"
    _check_labelled(name, chosen)
    notes = [f"{short_list(others)}: left out, since {what} more bytes"] if others else []
    return chosen, notes


def is_table(name: str) -> bool:
    """Return whether a file is a Parquet file."""
    return name.endswith(".parquet")


def short_list(names: Sequence[str]) -> str:
    """Name files, subsets or columns of a repository; a name can have any length."""
    return listed([name[:100] for name in names])


def patterns(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return patterns that match the wanted ones of some names, and none of the others.

    Where all files below a folder are wanted, it is one pattern. The client compares every file
    with every pattern: 15 s for ten thousand names, growing with their square.
    """
    others = set(names) - set(wanted)
    mixed = {PurePosixPath(), *(up for name in others for up in PurePosixPath(name).parents)}
    found: dict[str, None] = {}
    for name in wanted:
        whole = [up for up in PurePosixPath(name).parents if up not in mixed]
        found[f"{_literal(str(whole[-1]))}/*" if whole else _literal(name)] = None
    return list(found)


def _check_labelled(name: str, files: Sequence[str]) -> None:
    """Raise an error where files are not labelled images, as far as their names show."""
    if not files:
        raise DataError(
            f"{name} holds no Parquet files, no images and no archive, and the hub has not "
            "converted it",
            hint=_HINT,
        )
    if _is_archive(files[0]) and len(files) > 1:
        raise DataError(
            f"{name} holds several archives, and it is not known what each is for: "
            f"{short_list(files)}",
            hint=_HINT,
        )
    if has_image_suffix(files[0]):
        classes = {entry.label for entry in arrange(files, name, settled=True).entries}
        if len(classes) == 1:
            raise DataError(f"{name} holds one folder of images only: {classes.pop()}", hint=_HINT)


def _is_archive(name: str) -> bool:
    return name.lower().endswith(_ARCHIVES)


def _is_safe(name: str) -> bool:
    """Return whether a name is a relative path that stays below its folder, and is not hidden."""
    path = PurePosixPath(name)
    return not (
        path.is_absolute()
        or "\\" in name
        or ":" in name
        or any(part == ".." or is_hidden(part) for part in path.parts)
    )


def _literal(name: str) -> str:
    """Return a pattern that matches this name alone."""
    return re.sub(r"([\[*?])", r"[\1]", name)
