"""Datasets of Kaggle, ``kaggle:OWNER/NAME``, through Kaggle's own client.

The client finds credentials where Kaggle documents them: in KAGGLE_API_TOKEN, in KAGGLE_USERNAME
and KAGGLE_KEY, or in a file of ``~/.kaggle``. This module does not read, write or print them. The
client downloads an archive, compares its MD5 and extracts it into a cache of its own; the result is
opened like any folder.
"""

from __future__ import annotations

import os
import re
import sys
import tarfile
import zipfile
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.data.sources.downloads import download_errors, reason_of
from regraft.data.sources.folder import open_folder
from regraft.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

    from regraft.data.samples import Source
    from regraft.data.sources.options import Data, SourceOptions

_PREFIX = "kaggle:"
_HANDLE = re.compile(r"\w[\w.-]*/\w[\w.-]*(/versions/\d{1,9})?", re.ASCII)
_REFUSED = {401, 403}  # status of a request without the right to the dataset


def open_kaggle(data: Data, options: SourceOptions) -> Source | None:
    """Download a dataset of Kaggle, or find it in its client's cache; None for other data.

    ``kaggle:OWNER/NAME`` is the newest version. ``kaggle:OWNER/NAME/versions/3`` needs no network
    if it was downloaded before. The source's revision is the version's number.
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
    folder = _fetch(handle, name)
    source = open_folder(folder, options)
    if source is None:
        raise DataError(f"{name} was downloaded to {folder}, which is no folder")
    # the folder is .../versions/3, except in Kaggle's own notebooks
    version = folder.name if folder.parent.name == "versions" else None
    note = f"{name}, version {version or 'unknown'}, is in {folder}"
    return replace(
        source, kind="kaggle", location=name, revision=version, notes=(note, *source.notes)
    )


def _fetch(handle: str, name: str) -> Path:
    """Return the folder of a dataset's files; download them if the client's cache lacks them."""
    with redirect_stdout(sys.stderr):  # the client logs to stdout, which is for results
        kagglehub = _import_client(name)
        with download_errors(
            name, "KAGGLEHUB_CACHE", _failures(kagglehub), partial(_explain, name)
        ):
            return Path(kagglehub.dataset_download(handle))


def _import_client(name: str) -> Any:
    try:
        import kagglehub  # noqa: PLC0415 - an extra
        import kagglehub.exceptions  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("kagglehub", "kaggle", f"reading {name}") from error
    return kagglehub


def _failures(kagglehub: ModuleType) -> tuple[type[Exception], ...]:
    """Return all exceptions of a download."""
    known = kagglehub.exceptions
    return (
        *(OSError, ValueError, RuntimeError, EOFError, tarfile.TarError, zipfile.BadZipFile),
        *(known.BackendError, known.NotFoundError, known.DataCorruptionError),
        *(known.CredentialError, known.UnauthenticatedError),
        *(known.KaggleEnvironmentError, known.ColabEnvironmentError),
    )


def _explain(name: str, error: Exception) -> DataError:
    """Return the error that says why a dataset cannot be downloaded, and what to do."""
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
    return DataError(
        f"{name} cannot be downloaded: {reason_of(error)}",
        hint="download it from its page, and give the folder or the zip",
    )
