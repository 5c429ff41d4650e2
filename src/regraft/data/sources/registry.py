"""Kinds of labelled images: one opener each, in one dictionary."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from regraft.core.text import did_you_mean
from regraft.data.labels import label_notes, require_usable
from regraft.data.samples import Source
from regraft.data.sources.arrays import open_arrays
from regraft.data.sources.doubtful import doubtful_notes
from regraft.data.sources.folder import open_folder, read_head
from regraft.data.sources.hub import open_hub
from regraft.data.sources.kaggle import open_kaggle
from regraft.data.sources.members import has_image_magic, has_image_suffix
from regraft.data.sources.named import NAMED, NamedDataset, list_datasets, open_named
from regraft.data.sources.options import Data, Opener, SourceOptions, with_groups
from regraft.data.sources.select import select
from regraft.data.sources.table import open_table
from regraft.data.sources.tars import open_tar
from regraft.data.sources.unlabelled import open_unlabelled
from regraft.data.sources.zips import open_zip
from regraft.errors import ConfigError, DataError

__all__ = [
    "SOURCES", "Data", "NamedDataset", "Opener", "SourceKind", "SourceOptions", "list_datasets",
    "open_source", "open_unlabelled",
]  # fmt: skip


class SourceKind(NamedTuple):
    """One kind of data."""

    opener: Opener
    written: str  # how a user writes it, for the hint where nothing opens the data


#: Kinds of data, in the order in which they are tried. A new source is a new entry.
SOURCES: dict[str, SourceKind] = {
    "folder": SourceKind(open_folder, "a folder of class folders"),
    "zip": SourceKind(open_zip, "a .zip of class folders"),
    "tar": SourceKind(open_tar, "a .tar(.gz, .bz2, .xz) of class folders"),
    "table": SourceKind(open_table, "a .csv or .parquet table with the columns path and label"),
    "named": SourceKind(open_named, "the name of a dataset (regraft datasets lists them)"),
    "kaggle": SourceKind(open_kaggle, "kaggle:OWNER/NAME"),
    "hf": SourceKind(open_hub, "hf:OWNER/NAME"),
    "arrays": SourceKind(open_arrays, "in Python (images, labels)"),
}


def open_source(data: Data | Source, options: SourceOptions | None = None) -> Source:
    """Open labelled images: list them without reading any.

    Parameters
    ----------
    data : path, str, tuple or Source
        A folder, an archive, a table, the name of a dataset, a dataset of Kaggle or of the Hugging
        Face hub, ``(images, labels)``, or a source that is open already. A path that exists wins
        over a dataset of the same name, unless ``options`` has a ``data_root``.
    options : SourceOptions, optional
        The folder of datasets, which images are used, and what groups them.

    Returns
    -------
    Source
        Entries with stable ids, and the files that were left out.

    Raises
    ------
    DataError
        The data are of no known kind, or cannot be used. ``ArchiveError`` names the member,
        ``TableError`` the row.
    ConfigError
        ``group_by`` names no groups, or another option names what the data do not have.

    Examples
    --------
    >>> import numpy as np
    >>> source = open_source((np.zeros((3, 8, 8), np.uint8), ["cat", "dog", "cat"]))
    >>> [(entry.id, entry.label) for entry in source.entries]
    [('0', 'cat'), ('1', 'dog'), ('2', 'cat')]
    """
    options = options or SourceOptions()
    source = data if isinstance(data, Source) else _try_openers(data, options)
    if options.image_root is not None and source.kind != "table":
        raise ConfigError(
            f"image_root is {options.image_root}, and {source.location} is no table",
            hint="it says where the paths of a CSV or Parquet table begin",
        )
    require_usable(source)
    source = select(source, options.exclude, options.classes, options.at_most)
    about = (*label_notes(source, settled=bool(options.classes)), *doubtful_notes(source))
    source = replace(source, notes=(*source.notes, *about))
    return with_groups(source, options.group_by)


def is_on_a_server(data: Data | Source) -> bool:
    """Return whether data are named by a service, such as ``hf:``, and may have to be downloaded.

    Examples
    --------
    >>> is_on_a_server("hf:owner/name"), is_on_a_server("photos"), is_on_a_server("C:photos")
    (True, False, False)
    """
    service, colon, _ = data.partition(":") if isinstance(data, str) else ("", "", "")
    return bool(colon) and service in SOURCES


def _try_openers(data: Data, options: SourceOptions) -> Source:
    """Return the source of the first opener that knows the data."""
    if not isinstance(data, tuple | str | os.PathLike):
        raise DataError(
            f"data of type {type(data).__name__} cannot be used",
            hint="pass a path, the name of a dataset, or (images, labels)",
        )
    # With a folder of datasets a name is a dataset, even if there is a folder of the same name.
    by_name = isinstance(data, str) and data in NAMED and options.data_root is not None
    for opener in [open_named] if by_name else [kind.opener for kind in SOURCES.values()]:
        try:
            source = None if data == "" else opener(data, options)
        except (OSError, ValueError) as error:  # too long, a NUL byte, a folder that is locked
            reason = (isinstance(error, OSError) and error.strerror) or error
            given = "the arrays" if isinstance(data, tuple) else repr(os.fspath(data)[:200])
            raise DataError(f"{given} cannot be opened: {reason}") from error
        if source is not None:
            return _with_name_note(source, data)
    raise _unknown(data)


def _with_name_note(source: Source, data: Data) -> Source:
    """Add a note where a path hides the dataset of the same name."""
    if source.kind == "named" or isinstance(data, tuple) or os.fspath(data) not in NAMED:
        return source
    note = f"{os.fspath(data)} is read as a path here, not as the dataset of that name"
    return replace(source, notes=(note, *source.notes))


def _unknown(data: Data) -> DataError:
    """Return the error for data that no opener knows."""
    *others, last = (kind.written for kind in SOURCES.values())
    hint = f"give {', '.join(others)} or {last}"
    whole = "" if isinstance(data, tuple) else os.fspath(data)
    exists, name = bool(whole) and Path(whole).exists(), whole[:200]
    if has_image_suffix(whole) or (exists and has_image_magic(read_head(whole))):
        what = "is one image" if exists else "does not exist"
        return DataError(
            f"{name} {what}; labelled images are a folder with one folder of images for each class",
            hint="Predictor.predict in Python, and regraft predict RUN PHOTO, take one image",
        )
    if exists:
        return DataError(f"{name} is not a kind of data that can be used", hint)
    question = did_you_mean(name, NAMED)
    return DataError(
        f"{name or 'an empty path'} does not exist, and no dataset has that name"
        + (f"; {question}" if question else ""),
        hint,
    )
