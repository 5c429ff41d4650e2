"""Where labelled images come from: one opener a kind, in one dictionary."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.data.samples import Source
from regraft.data.sources.arrays import open_arrays
from regraft.data.sources.folder import open_folder
from regraft.data.sources.hub import open_hub
from regraft.data.sources.kaggle import open_kaggle
from regraft.data.sources.layout import LONGEST_LABEL, printable
from regraft.data.sources.named import NAMED, NamedDataset, list_datasets, nearest_names, open_named
from regraft.data.sources.options import Data, SourceOptions, with_groups
from regraft.data.sources.table import open_table
from regraft.data.sources.tars import open_tar
from regraft.data.sources.unlabelled import open_unlabelled
from regraft.data.sources.zips import open_zip
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SOURCES", "Data", "NamedDataset", "SourceOptions", "list_datasets", "open_source",
    "open_unlabelled",
]  # fmt: skip

_ACCEPTED = (
    "a folder of class folders, a .zip or .tar(.gz, .bz2, .xz) of one, a .csv or .parquet table "
    "with the columns path and label, the name of a dataset (regraft datasets lists them), "
    "kaggle:OWNER/NAME or hf:OWNER/NAME"
)


def open_source(data: Data | Source, options: SourceOptions | None = None) -> Source:
    """Open labelled images: list them without reading any.

    Parameters
    ----------
    data : path, str, tuple or Source
        A folder, an archive, a table, the name of a dataset, one of Kaggle or of the Hugging Face
        hub, ``(images, labels)``, or what is open already. A path that exists wins over a dataset
        of the same name.
    options : SourceOptions, optional
        Where datasets lie, and what groups images.

    Returns
    -------
    Source
        Entries with stable ids, and what the listing left out.

    Raises
    ------
    DataError
        Where the data are of no kind that is known, or of no use; its kinds ``ArchiveError`` and
        ``TableError`` name the member or the row.
    ConfigError
        Where ``group_by`` names no groups.

    Examples
    --------
    >>> import numpy as np
    >>> source = open_source((np.zeros((3, 8, 8), np.uint8), ["cat", "dog", "cat"]))
    >>> [(entry.id, entry.label) for entry in source.entries]
    [('0', 'cat'), ('1', 'dog'), ('2', 'cat')]
    """
    options = options or SourceOptions()
    if isinstance(data, Source):
        _check_labels(data)
        return with_groups(data, options.group_by)
    if not isinstance(data, tuple | str | os.PathLike):
        raise DataError(
            f"data of type {type(data).__name__} cannot be used",
            hint="pass a path, the name of a dataset, or (images, labels)",
        )
    # Whoever says where datasets lie means a dataset, though its folder has the same name.
    by_name = isinstance(data, str) and data in NAMED and options.data_root is not None
    for opener in [open_named] if by_name else SOURCES.values():
        try:
            source = None if data == "" else opener(data, options)
        except (OSError, ValueError) as error:  # too long, a NUL byte, a folder that is locked
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise DataError(f"{_shown(data)} cannot be looked at: {reason}") from error
        if source is None:
            continue
        _check_labels(source)
        if source.kind != "named" and not isinstance(data, tuple) and os.fspath(data) in NAMED:
            note = f"{os.fspath(data)} is read as a path here, not as the dataset of that name"
            source = replace(source, notes=(note, *source.notes))
        return with_groups(source, options.group_by)
    raise _unknown(data)


def _check_labels(source: Source) -> None:
    """Refuse names of classes that cannot be printed or written: they end in files and terminals.

    Raises
    ------
    DataError
        Naming the class and an image of it.
    """
    for label in sorted({entry.label for entry in source.entries}):
        if printable(label) != label or len(label) > LONGEST_LABEL:
            image = next(entry.id for entry in source.entries if entry.label == label)
            what = f"{len(label):,} characters" if len(label) > LONGEST_LABEL else (
                "control characters, or what is not valid text")  # fmt: skip
            raise DataError(
                f"{source.location}: the class of {_cut(image)} is called '{_cut(label)}', which "
                f"holds {what}",
                hint="give the class a plain name",
            )


def _cut(name: str) -> str:
    """Return a name fit to print, and not for ever."""
    return printable(name[:100]) + ("..." if len(name) > 100 else "")


def _shown(data: Data) -> str:
    """Return what the user gave, for a message: in one line, and not for ever."""
    return "the arrays" if isinstance(data, tuple) else repr(os.fspath(data)[:200])


def _unknown(data: Data) -> DataError:
    """Say why nothing opens the data, and what would be opened."""
    name = "" if isinstance(data, tuple) else os.fspath(data)
    if name and Path(name).exists():
        return DataError(f"{name} is no data that can be used", hint=f"give {_ACCEPTED}")
    nearest = nearest_names(name)
    close = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    return DataError(
        f"{name or 'an empty path'} does not exist, and no dataset has that name{close}",
        hint=f"give {_ACCEPTED}",
    )


#: Kinds of data, in the order in which they are tried; each opener returns None for another kind's.
SOURCES: dict[str, Callable[[Data, SourceOptions], Source | None]] = {
    "folder": open_folder,
    "zip": open_zip,
    "tar": open_tar,
    "table": open_table,
    "named": open_named,
    "kaggle": open_kaggle,
    "hf": open_hub,
    "arrays": open_arrays,
}
