"""Datasets of the Hugging Face hub, ``hf:OWNER/NAME``: one commit's files, downloaded and read.

The library ``datasets`` is not used: it has more than twenty readers of what a repository may hold
(one of them calls torch.load), extracts archives, writes every image a second time, and needs
pandas and others. Images on the hub are Parquet files, image files or an archive of these:
huggingface_hub, which timm needs in any case, downloads them; pyarrow and the readers of folders
and archives read them. For other formats the hub keeps a conversion to Parquet, at
``refs/convert/parquet``. Nothing of a repository is executed.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from regraft.core.files import read_bounded, write_atomic
from regraft.data.sources.downloads import download_errors, reason_of
from regraft.data.sources.folder import open_folder
from regraft.data.sources.hub_files import choose_files, is_table, patterns, short_list
from regraft.data.sources.hub_tables import choose_tables, open_tables
from regraft.data.sources.layout import has_image_suffix
from regraft.data.sources.named import default_data_root
from regraft.data.sources.tars import open_tar
from regraft.data.sources.zips import open_zip
from regraft.errors import DataError, InputError, MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

    from regraft.data.samples import Source
    from regraft.data.sources.options import Data, SourceOptions

_PREFIX = "hf:"
_NAME = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(/(?P<subset>[^@#/][^@#]*))?(@(?P<revision>[\w./-]+))?"
    r"(#(?P<label>[\w .-]+))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONVERTED = "refs/convert/parquet"
_TIMEOUT = 10.0  # seconds to wait for a server that does not answer
_RECORD = ".complete"  # written last: a folder without it was not downloaded to the end
_LARGEST_RECORD = 1 << 28  # bytes
_UNSAFE = ("../*", "*/../*", "*:*")  # the client lists the files again: the server may add some


class _Request(NamedTuple):
    """The parts of ``hf:OWNER/NAME/SUBSET@REVISION#COLUMN``."""

    text: str  # as the user wrote it
    repository: str  # OWNER/NAME
    subset: str | None
    revision: str | None
    label: str | None  # the column


class _Commit(NamedTuple):
    """A commit on the server."""

    sha: str
    names: list[str]  # all its files
    files: list[str]  # those that hold the images
    notes: list[str]


class _DownloadRecord(msgspec.Struct):
    """A commit that was downloaded, wholly or in part; kept in its folder."""

    files: list[str]  # those that hold the images
    notes: list[str]
    here: list[str]  # those of them that are complete


class _Download(NamedTuple):
    """A folder that has all files that were asked for; its name is the commit's sha."""

    folder: Path
    record: _DownloadRecord


def open_hub(data: Data, options: SourceOptions) -> Source | None:
    """Download a dataset of the hub, or find it below the data root; None for other data.

    The name is ``hf:OWNER/NAME``. ``/SUBSET`` follows where there are several, ``@REVISION`` for
    another than the newest (a commit's sha needs no network if it was downloaded before), and
    ``#COLUMN`` where several columns could be the label. The source's revision is the commit's sha.
    """
    if isinstance(data, tuple) or not os.fspath(data).startswith(_PREFIX):
        return None
    request = _parse(os.fspath(data))
    root = default_data_root() if options.data_root is None else Path(options.data_root)
    home = root.joinpath("hf", *request.repository.split("/"))
    folder, record = _downloaded_before(request, home) or _download(request, home)
    source = _open_files(request, folder, record.files, options)
    note = f"{request.text}, commit {folder.name}, is in {folder}"
    return replace(
        source,
        kind="hf",
        location=request.text,
        revision=folder.name,
        notes=(note, *record.notes, *source.notes),
    )


def _parse(text: str) -> _Request:
    match = _NAME.fullmatch(text.removeprefix(_PREFIX))
    if match is None:
        raise DataError(
            f"{text} is not the name of a dataset of the hub",
            hint="hf:OWNER/NAME, as in https://huggingface.co/datasets/OWNER/NAME",
        )
    return _Request(text, **match.groupdict())


def _open_files(
    request: _Request, folder: Path, files: list[str], options: SourceOptions
) -> Source:
    """Open downloaded files with the reader of their kind."""
    if is_table(files[0]):
        tables = choose_tables(request.text, files, request.subset)
        return open_tables(request.text, folder, tables, request.label)
    if has_image_suffix(files[0]):
        source = open_folder(folder, options)
    else:
        source = open_zip(folder / files[0], options) or open_tar(folder / files[0], options)
    if source is None:
        raise DataError(f"{request.text}: {folder / files[0]} cannot be read")
    return source


# --- what was downloaded -----------------------------------------------------------------------


def _downloaded_before(request: _Request, home: Path) -> _Download | None:
    """Return the commit that is asked for by its sha, if its files are there."""
    if request.revision is None or not _COMMIT.fullmatch(request.revision):
        return None
    folder = home / request.revision
    record = _read_record(folder)
    return _Download(folder, record) if _is_complete(request, record) else None


def _read_record(folder: Path) -> _DownloadRecord:
    """Return the record of a downloaded commit; it has no files where nothing was downloaded."""
    try:
        return msgspec.json.decode(
            read_bounded(folder / _RECORD, _LARGEST_RECORD), type=_DownloadRecord
        )
    except (InputError, msgspec.DecodeError):
        return _DownloadRecord([], [], [])


def _is_complete(request: _Request, record: _DownloadRecord) -> bool:
    """Return whether all files that are asked for were downloaded."""
    return bool(record.files) and set(_asked_files(request, record.files)) <= set(record.here)


def _asked_files(request: _Request, files: list[str]) -> list[str]:
    """Return the files to download: all, or those of one subset."""
    if is_table(files[0]):
        return choose_tables(request.text, files, request.subset).files
    if request.subset or request.label:
        raise DataError(
            f"{request.text}: only Parquet files have subsets and columns, and it holds "
            f"{short_list(files[:1])}",
            hint=f"{_PREFIX}{request.repository}",
        )
    return files


# --- downloading -------------------------------------------------------------------------------


def _download(request: _Request, home: Path) -> _Download:
    """Download the files that are asked for, unless they are there."""
    hub = _import_client(request)
    with download_errors(
        f"{request.text} in {home}",
        "--data-root",
        _failures(hub),
        partial(_download_error, request, home),
    ):
        _require_answer(hub.constants.ENDPOINT)
        api = hub.HfApi()
        commit = _find_usable(api, request)
        folder = home / commit.sha
        record = _DownloadRecord(commit.files, commit.notes, _read_record(folder).here)
        if not _is_complete(request, record):
            record.here = _download_files(api, request, commit, folder)
            write_atomic(folder / _RECORD, msgspec.json.encode(record))
    return _Download(folder, record)


def _import_client(request: _Request) -> ModuleType:
    """Return huggingface_hub; check for pyarrow, too, before gigabytes are downloaded."""
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra
        import huggingface_hub.constants  # noqa: PLC0415
        import huggingface_hub.errors  # noqa: PLC0415
        import pyarrow  # noqa: F401, ICN001, PLC0415
    except ImportError as error:
        package = error.name or "pyarrow"
        raise MissingExtraError(package, "hf", f"reading {request.text}") from error
    return huggingface_hub


def _failures(hub: ModuleType) -> tuple[type[Exception], ...]:
    """Return all exceptions of a download; the last ones are of the client's own HTTP library."""
    return (OSError, ValueError, RuntimeError, HTTPException, *hub.errors.HfHubHTTPError.__bases__)


def _require_answer(endpoint: str) -> None:
    """Send one request to the server: its client repeats a request that fails for 23 s."""
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the client's own
    with suppress(urllib.error.HTTPError):  # also an answer
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()  # noqa: S310


def _find_usable(api: Any, request: _Request) -> _Commit:
    """Return the commit to download.

    Without a revision that is the newest one, or the hub's conversion to Parquet if the newest has
    no labelled images.
    """
    from huggingface_hub.errors import RevisionNotFoundError  # noqa: PLC0415

    try:
        return _list_commit(api, request, request.revision)
    except DataError:
        if request.revision is None:
            with suppress(DataError, RevisionNotFoundError):
                return _list_commit(api, request, _CONVERTED)
        raise


def _list_commit(api: Any, request: _Request, revision: str | None) -> _Commit:
    """List the files of a commit, and choose those that hold the images."""
    repository = request.repository
    sha = api.dataset_info(repository, revision=revision, timeout=_TIMEOUT).sha
    if not _COMMIT.fullmatch(sha or ""):  # it becomes the name of a folder
        raise DataError(f"{request.text}: the server calls its commit {sha!r}")
    # The other list ends after some tens of thousands of files, and has no sizes.
    tree = api.list_repo_tree(repository, repo_type="dataset", revision=sha, recursive=True)
    sizes = {each.path: each.size for each in tree if hasattr(each, "size")}  # folders have none
    files, notes = choose_files(request.text, sizes)
    return _Commit(sha, list(sizes), files, notes)


def _download_files(api: Any, request: _Request, commit: _Commit, folder: Path) -> list[str]:
    """Download the files that are asked for; return all complete files of the folder."""
    wanted = _asked_files(request, commit.files)
    api.snapshot_download(
        request.repository,
        repo_type="dataset",
        revision=commit.sha,
        local_dir=folder,
        allow_patterns=patterns(wanted, commit.names),
        ignore_patterns=list(_UNSAFE),
    )
    # If the server stops answering, the client accepts a folder that has other files.
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{short_list(missing)} did not arrive")
    return sorted({*_read_record(folder).here, *wanted})


def _download_error(request: _Request, home: Path, error: Exception) -> DataError:
    """Return the error that says why a dataset cannot be downloaded, and what to do."""
    from huggingface_hub import errors  # noqa: PLC0415

    text, page = request.text, f"https://huggingface.co/datasets/{request.repository}"
    log_in = "log in with `hf auth login`, or put a token into HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return DataError(
            f"{text} is only for those who have agreed to its terms",
            hint=f"agree on {page}, and {log_in}",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(
            f"{text}: the hub has no such dataset, or it is private",
            hint=f"hf:OWNER/NAME, as in {page}; if it is private, {log_in}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(
            f"{text}: there is no revision {request.revision}",
            hint=f"{page}/commits/main lists them",
        )
    return DataError(
        f"{text} cannot be downloaded: {reason_of(error)}", hint=_offline_hint(request, home)
    )


def _offline_hint(request: _Request, home: Path) -> str:
    """Return how to use a commit that was downloaded before, if there is one."""
    for path in sorted(home.glob(f"*/{_RECORD}")):
        with suppress(DataError):
            if _is_complete(request, _read_record(path.parent)):
                name = "/".join(filter(None, (request.repository, request.subset)))
                commit = f"{_PREFIX}{name}@{path.parent.name}"
                return f"what was downloaded before needs no network: {commit}"
    return "check the network, or download it elsewhere and give the folder"
