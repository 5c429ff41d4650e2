"""Datasets of Kaggle, ``kaggle:OWNER/NAME``, through Kaggle's own client.

The client finds credentials where Kaggle documents them: in KAGGLE_API_TOKEN, in KAGGLE_USERNAME
and KAGGLE_KEY, or in a file of ``~/.kaggle``. This module does not read, write or print them. The
client downloads an archive, compares its MD5 and extracts it into a cache of its own; the result is
opened like any folder.
"""

from __future__ import annotations

import errno
import lzma
import os
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

from regraft.core.files import existing_parent
from regraft.core.transfers import OTHER_FORM, Allowance, bounded_requests
from regraft.data.sources.downloads import download_errors, reason_of
from regraft.data.sources.folder import open_folder
from regraft.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from regraft.data.samples import Source
    from regraft.data.sources.options import Data, SourceOptions

_PREFIX = "kaggle:"
_HANDLE = re.compile(r"\w[\w.-]*/\w[\w.-]*(/versions/\d{1,9})?", re.ASCII)
_KEPT_FREE = 1 << 30  # bytes of the disk that no archive may take
# The readers that the client unpacks with, and their field of a member's bytes.
_ARCHIVES: tuple[tuple[Any, str], ...] = (
    (zipfile.ZipFile, "file_size"),
    (tarfile.TarFile, "size"),
)
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
        cache = Path(kagglehub.config.get_cache_folder())
        home = cache.joinpath("datasets", *handle.split("/")[:2])
        free = shutil.disk_usage(existing_parent(cache.absolute())).free
        most = max(0, free - _KEPT_FREE)
        with (
            download_errors(name, "KAGGLEHUB_CACHE", _failures(kagglehub), partial(_explain, name)),
            _without_leftovers(home),
            bounded_requests(Allowance(most)),
            _bounded_unpacking(most),
        ):
            return Path(kagglehub.dataset_download(handle))


@contextmanager
def _bounded_unpacking(most: int) -> Iterator[None]:
    """Let the client, in this thread, unpack only archives of at most ``most`` bytes.

    The client unpacks what it has downloaded in the same call: there is no other place to look at
    the archive first. A member cannot become larger than the size that its archive declares.
    """
    owner = get_ident()

    def checked(unpack: Callable[..., None], size: str) -> Callable[..., None]:
        def unpack_checked(archive: Any, *arguments: Any, **more: Any) -> None:
            left, members = most, archive.filelist if size == "file_size" else archive
            for member in members if get_ident() == owner else ():
                left -= getattr(member, size)
                if left < 0:  # at once: to look for the next member can take for ever
                    raise OSError(errno.ENOSPC, f"its archive holds more than {most:,} bytes")
            unpack(archive, *arguments, **more)

        return unpack_checked

    with ExitStack() as restored:
        for kind, size in _ARCHIVES:
            restored.callback(setattr, kind, "extractall", kind.extractall)
            kind.extractall = checked(kind.extractall, size)
        yield


@contextmanager
def _without_leftovers(home: Path) -> Iterator[None]:
    """Remove what a failed download leaves in the client's cache: an archive, some of its files.

    The client keeps both, as large as they have become. It continues an archive that the network
    or the user interrupted; any other it would take for whole, and fail again.
    """
    from requests import RequestException  # noqa: PLC0415 - kagglehub's

    def found(pattern: str) -> set[Path]:
        return set(home.glob(pattern))

    archives, folders = found("*.archive"), found("versions/*")
    try:
        yield
    except BaseException as error:
        for folder in found("versions/*") - folders:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, (RequestException, KeyboardInterrupt)):
            for archive in found("*.archive") - archives:
                archive.unlink(missing_ok=True)
        raise


def _import_client(name: str) -> Any:
    try:
        import kagglehub  # noqa: PLC0415 - an extra
        import kagglehub.config  # noqa: PLC0415
        import kagglehub.exceptions  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("kagglehub", "kaggle", f"reading {name}") from error
    return kagglehub


def _failures(kagglehub: ModuleType) -> tuple[type[Exception], ...]:
    """Return all exceptions of a download."""
    known = kagglehub.exceptions
    return (
        *(OSError, ValueError, RuntimeError, EOFError, tarfile.TarError, zipfile.BadZipFile),
        *(zlib.error, lzma.LZMAError, *OTHER_FORM),
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
