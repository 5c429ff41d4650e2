"""Datasets of Kaggle, `kaggle:OWNER/NAME`, through Kaggle's own client.

The client finds credentials where Kaggle documents them: in KAGGLE_API_TOKEN, in KAGGLE_USERNAME
and KAGGLE_KEY, or in a file of `~/.kaggle`. Nothing here reads, writes or shows them. It downloads
an archive, compares its MD5, extracts it into a cache of its own, and what lies there is then
opened like any folder.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tarfile
import zipfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.data.sources.folder import open_folder
from regraft.errors import DataError, DiskFullError, MissingExtraError

if TYPE_CHECKING:
    from regraft.data.samples import Source
    from regraft.data.sources.options import Data, SourceOptions

_PREFIX = "kaggle:"
_HANDLE = re.compile(r"\w[\w.-]*/\w[\w.-]*(/versions/\d{1,9})?", re.ASCII)
_REFUSED = {401, 403}


def open_kaggle(data: Data, options: SourceOptions) -> Source | None:
    """Download a dataset of Kaggle, or find it in its client's cache; None for anything else.

    Parameters
    ----------
    data : path, str or tuple
        "kaggle:OWNER/NAME", the newest version, or "kaggle:OWNER/NAME/versions/3", which needs no
        network where it was downloaded before.
    options : SourceOptions
        As for a folder.

    Returns
    -------
    Source or None
        Its revision is the version's number.

    Raises
    ------
    MissingExtraError
        Where kagglehub is not installed.
    DataError
        Where it cannot be downloaded, or holds no class folders.
    DiskFullError
        Where there is no space left for it.
    """
    if isinstance(data, tuple) or not os.fspath(data).startswith(_PREFIX):
        return None
    name = os.fspath(data)
    handle = name.removeprefix(_PREFIX)
    if not _HANDLE.fullmatch(handle):
        raise DataError(
            f"{name} is not the name of a dataset of Kaggle",
            hint="kaggle:OWNER/NAME, as in https://www.kaggle.com/datasets/OWNER/NAME",
        )
    folder = _download(handle, name)
    source = open_folder(folder, options)
    if source is None:
        raise DataError(f"{name} was downloaded to {folder}, which is no folder")
    # .../versions/3, but in Kaggle's own notebooks
    version = folder.name if folder.parent.name == "versions" else None
    note = f"{name}, version {version or 'unknown'}, lies in {folder}"
    return replace(
        source, kind="kaggle", location=name, revision=version, notes=(note, *source.notes)
    )


def _download(handle: str, name: str) -> Path:
    """Return the folder of a dataset's files; what fails becomes an error that says what to do."""
    try:
        with redirect_stdout(sys.stderr):  # its log goes to stdout, which is for results
            import kagglehub  # noqa: PLC0415 - an extra
            from kagglehub import exceptions  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("kagglehub", "kaggle", f"reading {name}") from error
    failures = (
        *(OSError, ValueError, RuntimeError, EOFError, tarfile.TarError, zipfile.BadZipFile),
        *(exceptions.BackendError, exceptions.NotFoundError, exceptions.DataCorruptionError),
        *(exceptions.CredentialError, exceptions.UnauthenticatedError),
        *(exceptions.KaggleEnvironmentError, exceptions.ColabEnvironmentError),
    )
    try:
        with redirect_stdout(sys.stderr):
            return Path(kagglehub.dataset_download(handle))
    except failures as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"no space left for {name}", hint="name another place with KAGGLEHUB_CACHE"
            ) from error
        raise _told(name, error) from error


def _told(name: str, error: Exception) -> DataError:
    """Say what kept a dataset from being downloaded."""
    import requests  # noqa: PLC0415 - kagglehub's

    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in _REFUSED:
        return DataError(
            f"{name}: Kaggle refuses it ({status}): it is private or asks for consent, or the "
            "credentials are missing or wrong",
            hint="put a token of https://www.kaggle.com/settings into KAGGLE_API_TOKEN or "
            "~/.kaggle/access_token; accept the dataset's terms on its page",
        )
    if status == 404:
        return DataError(
            f"{name}: Kaggle has no such dataset or version",
            hint="kaggle:OWNER/NAME, as in https://www.kaggle.com/datasets/OWNER/NAME",
        )
    unreachable = (requests.exceptions.ConnectionError, requests.exceptions.Timeout)
    if isinstance(error, unreachable):
        innermost: BaseException = error  # the others repeat it at length
        while innermost.__context__ is not None:
            innermost = innermost.__context__
        return DataError(
            f"{name} cannot be downloaded: Kaggle cannot be reached: {innermost}",
            hint="a version that was downloaded before needs no network: "
            f"{name.partition('/versions/')[0]}/versions/N",
        )
    # Addresses of downloads are signed: what follows the question mark is for nobody's eyes.
    reason = re.sub(r"\?\S+", "?...", " ".join(str(error).split())) or type(error).__name__
    return DataError(
        f"{name} cannot be downloaded: {reason}",
        hint="download it from its page, and give the folder or the zip",
    )
