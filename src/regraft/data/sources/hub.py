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
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from regraft.core.files import read_bounded, refuse_full_disk, write_atomic
from regraft.core.transfers import (
    LARGEST_TEXTS,
    SILENCE,
    Allowance,
    bounded_hub,
    hub_failures,
    require_answer,
)
from regraft.data.sources.downloads import download_errors, reason_of
from regraft.data.sources.folder import open_folder
from regraft.data.sources.hub_files import choose_files, is_table, patterns, short_list
from regraft.data.sources.hub_listing import (
    MOST_FILES,
    HubFile,
    Listing,
    is_commit,
    read_listing,
    require_files,
)
from regraft.data.sources.hub_tables import choose_tables, open_tables
from regraft.data.sources.members import has_image_suffix
from regraft.data.sources.named import default_data_root
from regraft.data.sources.tars import open_tar
from regraft.data.sources.zips import open_zip
from regraft.errors import DataError, InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from regraft.data.samples import Source
    from regraft.data.sources.options import Data, SourceOptions

_PREFIX = "hf:"
_NAME = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(/(?P<subset>[^@#/][^@#]*))?(@(?P<revision>[\w./-]+))?"
    r"(#(?P<label>[\w .-]+))?",
    re.ASCII,
)
_CONVERTED = "refs/convert/parquet"
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
    """A commit on the server, with the choice of its files."""

    sha: str
    listed: Mapping[str, HubFile]  # all its files
    files: list[str]  # those that hold the images
    notes: list[str]


class _Record(msgspec.Struct):
    """A commit that was downloaded, at least in part; kept as JSON in its folder."""

    files: list[str]  # those that hold the images
    notes: list[str]
    complete: list[str] = msgspec.field(name="here")  # those of them that are in the folder


class _CommitFolder(NamedTuple):
    """A folder that has all files that were asked for; its name is the commit's sha."""

    folder: Path
    record: _Record


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
    folder, record = _find_complete(request, home) or _fetch_commit(request, home)
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


def _find_complete(request: _Request, home: Path) -> _CommitFolder | None:
    """Return the commit that is asked for by its sha, if all files asked for were downloaded."""
    if request.revision is None or not is_commit(request.revision):
        return None
    folder = home / request.revision
    record = _read_record(folder)
    return _CommitFolder(folder, record) if _is_complete(request, record) else None


def _read_record(folder: Path) -> _Record:
    """Return the record of a downloaded commit; it has no files where nothing was downloaded."""
    try:
        return msgspec.json.decode(read_bounded(folder / _RECORD, _LARGEST_RECORD), type=_Record)
    except (InputError, msgspec.DecodeError):
        return _Record([], [], [])


def _is_complete(request: _Request, record: _Record) -> bool:
    """Return whether all files that are asked for were downloaded."""
    return bool(record.files) and set(_asked_files(request, record.files)) <= set(record.complete)


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


def _fetch_commit(request: _Request, home: Path) -> _CommitFolder:
    """Ask the server which commit is meant; download the files asked for that are not complete."""
    client = _Client(request, home)
    client.require_answer()
    commit = _find_usable(client, request)
    folder = home / commit.sha
    record = _Record(commit.files, commit.notes, _read_record(folder).complete)
    if not _is_complete(request, record):
        wanted = _asked_files(request, commit.files)
        client.download(commit, wanted, folder)
        record.complete = sorted({*record.complete, *wanted})
        write_atomic(folder / _RECORD, msgspec.json.encode(record))
    return _CommitFolder(folder, record)


def _find_usable(client: _Client, request: _Request) -> _Commit:
    """Return the commit to download.

    Without a revision that is the newest one, or the hub's conversion to Parquet if the newest has
    no labelled images.
    """
    newest = client.list_files(request.revision)
    try:
        return _choose(request, newest)
    except DataError:
        converted = client.list_conversion() if request.revision is None else None
        if converted is not None:
            with suppress(DataError):
                return _choose(request, converted)
        raise


def _choose(request: _Request, listing: Listing) -> _Commit:
    """Choose the files that hold the images."""
    sizes = {name: file.size for name, file in listing.files.items()}
    return _Commit(listing.sha, listing.files, *choose_files(request.text, sizes))


class _Client:
    """The hub's own client for one dataset; each of its failures becomes a DataError.

    Only calls of the client are inside ``self._explained()``: an error in the rest of this module
    must not be reported as a failure of the network.
    """

    def __init__(self, request: _Request, home: Path) -> None:
        self._request = request
        self._hub = _import_client(request)
        self._explained = partial(
            download_errors,
            what=f"{request.text} in {home}",
            setting="`data_root`",
            failures=hub_failures(),
            explain=partial(_explain, request, home),
        )

    def require_answer(self) -> None:
        """Send one request to the server: the client repeats a request that fails for 23 s."""
        with self._explained():
            require_answer(self._hub.constants.ENDPOINT)

    def list_files(self, revision: str | None) -> Listing:
        """List the files of a commit; without a revision, of the newest one."""
        with self._explained():
            answered = self._list(revision)
        return read_listing(self._request.text, *answered)

    def list_conversion(self) -> Listing | None:
        """List the files of the hub's conversion to Parquet; None where there is none."""
        with self._explained():
            try:
                answered = self._list(_CONVERTED)
            except self._hub.errors.RevisionNotFoundError:
                return None
        return read_listing(self._request.text, *answered)

    def _list(self, revision: str | None) -> tuple[object, list[object]]:
        """Return the commit's sha and its files and folders, as the server names them."""
        api, repository = self._hub.HfApi(), self._request.repository
        with bounded_hub(Allowance(LARGEST_TEXTS)):
            sha = api.dataset_info(repository, revision=revision, timeout=SILENCE).sha
            if not is_commit(sha):
                return sha, []
            # The other list ends after some tens of thousands of files, and has no sizes.
            tree = api.list_repo_tree(repository, repo_type="dataset", revision=sha, recursive=True)
            return sha, list(islice(tree, MOST_FILES + 1))

    def download(self, commit: _Commit, wanted: list[str], folder: Path) -> None:
        """Download the wanted files of a commit into a folder, and compare them with its list."""
        allowed = patterns(wanted, list(commit.listed))
        expected = {name: commit.listed[name] for name in wanted}
        absent = [file for name, file in expected.items() if not (folder / name).is_file()]
        needed = sum(file.size for file in absent)
        refuse_full_disk(folder, needed, f"the files of {self._request.text}", "`data_root`")
        # Twice: a server may begin a file again that was interrupted.
        with self._explained(), bounded_hub(Allowance(2 * needed + LARGEST_TEXTS)):
            self._hub.HfApi().snapshot_download(
                self._request.repository,
                repo_type="dataset",
                revision=commit.sha,
                local_dir=folder,
                allow_patterns=allowed,
                ignore_patterns=list(_UNSAFE),
            )
        # If the server stops answering, the client accepts a folder that has other files.
        with self._explained():
            require_files(folder, expected)


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


def _explain(request: _Request, home: Path, error: Exception) -> DataError:
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
