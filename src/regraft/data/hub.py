"""Datasets of the Hugging Face hub, `hf:OWNER/NAME`: one commit's files are downloaded and read.

The library `datasets` is not used: it has more than twenty readers of what a repository may hold
(one of them calls torch.load), extracts archives, writes every image a second time, and brings
pandas and others. Images on the hub are Parquet files, image files or an archive of these:
huggingface_hub, which timm needs anyway, downloads them; pyarrow and this room's readers of folders
and archives read them. Of other formats the hub itself keeps a conversion to Parquet, at
`refs/convert/parquet`. Nothing of a repository is executed.
"""

from __future__ import annotations

import errno
import os
import re
import urllib.error
import urllib.request
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from regraft.data.folder import open_folder
from regraft.data.hub_tables import open_tables
from regraft.data.layout import has_image_suffix, is_hidden
from regraft.data.named import default_data_root
from regraft.data.tars import open_tar
from regraft.data.zips import open_zip
from regraft.errors import DataError, DiskFullError, MissingExtraError
from regraft.files import read_bounded, write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.data.options import Data, SourceOptions
    from regraft.data.samples import Source

_PREFIX = "hf:"
_NAME = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(/(?P<subset>[\w.-]+))?(@(?P<revision>[\w./-]+))?"
    r"(#(?P<label>[\w .-]+))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONVERTED = "refs/convert/parquet"
_TIMEOUT = 10.0  # seconds until a server that does not answer is given up
_MARK = ".complete"  # written last: what is there without it was not downloaded to the end
_LARGEST_MARK = 1 << 28
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class _Named(NamedTuple):
    """What was asked for: a repository, and of it a subset, a revision and a column."""

    text: str
    repository: str
    subset: str | None
    revision: str | None
    label: str | None


def open_hub(data: Data, options: SourceOptions) -> Source | None:
    """Download a dataset of the hub, or find it below the data root; None for anything else.

    Parameters
    ----------
    data : path, str or tuple
        "hf:OWNER/NAME"; then "/SUBSET" where there are several, "@REVISION" (a commit's sha needs
        no network where it was downloaded before), and "#COLUMN" where several may be the label.
    options : SourceOptions
        ``data_root`` is where files are downloaded to.

    Returns
    -------
    Source or None
        Its revision is the commit's sha.

    Raises
    ------
    MissingExtraError
        Where huggingface_hub or pyarrow is not installed.
    DataError
        Where it cannot be downloaded, or what it holds cannot be used.
    DiskFullError
        Where there is no space left for it.
    """
    if isinstance(data, tuple) or not os.fspath(data).startswith(_PREFIX):
        return None
    text = os.fspath(data)
    match = _NAME.fullmatch(text.removeprefix(_PREFIX))
    if match is None:
        raise DataError(
            f"{text} is not the name of a dataset of the hub",
            hint="hf:OWNER/NAME, as in https://huggingface.co/datasets/OWNER/NAME",
        )
    named = _Named(text, **match.groupdict())
    root = default_data_root() if options.data_root is None else Path(options.data_root)
    home = root.joinpath("hf", *named.repository.split("/"))
    folder = home / (named.revision or "")
    if not (_COMMIT.fullmatch(named.revision or "") and (folder / _MARK).is_file()):
        folder = _download(named, home)
    marked = read_bounded(folder / _MARK, _LARGEST_MARK)
    files = msgspec.json.decode(marked, type=list[str])
    source = _open(named, folder, files, options)
    note = f"{named.text}, commit {folder.name}, lies in {folder}"
    return replace(
        source, kind="hf", location=named.text, revision=folder.name, notes=(note, *source.notes)
    )


def _open(named: _Named, folder: Path, files: Sequence[str], options: SourceOptions) -> Source:
    """Open what was downloaded by the reader of its kind."""
    if files[0].endswith(".parquet"):
        return open_tables(named.text, folder, files, named.subset, named.label)
    if named.subset or named.label:
        raise DataError(
            f"{named.text}: only Parquet files have subsets and columns, and {folder} has none",
            hint=f"{_PREFIX}{named.repository}",
        )
    if has_image_suffix(files[0]):
        source = open_folder(folder, options)
    else:
        source = open_zip(folder / files[0], options) or open_tar(folder / files[0], options)
    if source is None:
        raise DataError(f"{named.text}: {folder / files[0]} cannot be read")
    return source


def _download(named: _Named, home: Path) -> Path:
    """Download one commit's files of images; return their folder, named after the commit."""
    try:
        import pyarrow  # noqa: F401, ICN001, PLC0415 - told before gigabytes are downloaded
        from huggingface_hub import HfApi, constants, errors  # noqa: PLC0415 - an extra
    except ImportError as error:
        package = error.name or "pyarrow"
        raise MissingExtraError(package, "hf", f"reading {named.text}") from error
    bases: Any = errors.HfHubHTTPError.__bases__  # its HTTP client's own, whichever it is
    failures = (OSError, ValueError, RuntimeError, HTTPException, *bases)
    try:
        _reach(constants.ENDPOINT)
        api = HfApi()
        commit, files = _choose(api, named, named.revision)
        if not files and named.revision is None:
            commit, files = _choose(api, named, _CONVERTED)
        if not files:
            raise DataError(
                f"{named.text} holds no Parquet files, no images and no single archive, and the "
                "hub has not converted it",
                hint="download it from its page, and give a folder of class folders",
            )
        folder = home / commit
        if not (folder / _MARK).is_file():
            api.snapshot_download(
                named.repository, repo_type="dataset", revision=commit, local_dir=folder,
                allow_patterns=[_literally(name) for name in files],
            )  # fmt: skip
            write_atomic(folder / _MARK, msgspec.json.encode(files))
    except failures as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"no space left for {named.text} below {home}",
                hint="name another place: --data-root",
            ) from error
        raise _told(named, error, home) from error
    return folder


def _reach(endpoint: str) -> None:
    """Ask the server once: its client repeats each request that fails for 23 s."""
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the client's own
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answers


def _choose(api: Any, named: _Named, revision: str | None) -> tuple[str, list[str]]:
    """Return a commit and those of its files that hold the images; none where there are none."""
    from huggingface_hub.errors import RevisionNotFoundError  # noqa: PLC0415

    try:
        found = api.dataset_info(named.repository, revision=revision, timeout=_TIMEOUT)
    except RevisionNotFoundError:
        if revision != _CONVERTED:
            raise
        return "", []
    if not _COMMIT.fullmatch(found.sha or ""):  # it becomes the name of a folder
        raise DataError(f"{named.text}: the server calls its commit {found.sha!r}")
    names = sorted(each.rfilename for each in found.siblings or ())
    # A name of a file becomes a path here.
    safe = [name for name in names if _is_safe(name)]
    kinds = (
        [name for name in safe if name.endswith(".parquet")],
        [name for name in safe if has_image_suffix(name)],
        [name for name in safe if name.lower().endswith(_ARCHIVES)],
    )
    files = next((kind for kind in kinds if kind), [])
    if files == kinds[2] and len(files) > 1:
        return found.sha, []  # which of them is what is not known
    if revision == _CONVERTED and any("partial-" in name for name in files):
        raise DataError(
            f"{named.text}: the hub has converted only the first gigabytes of it",
            hint="download it from its page, and give a folder of class folders",
        )
    return found.sha, files


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not (
        path.is_absolute()
        or "\\" in name
        or ":" in name
        or any(part == ".." or is_hidden(part) for part in path.parts)
    )


def _literally(name: str) -> str:
    """Return a pattern that matches this name alone."""
    return re.sub(r"([\[*?])", r"[\1]", name)


def _told(named: _Named, error: Exception, home: Path) -> DataError:
    """Say what kept a dataset from being downloaded."""
    from huggingface_hub import errors  # noqa: PLC0415

    page = f"https://huggingface.co/datasets/{named.repository}"
    log_in = "log in with `hf auth login`, or put a token into HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return DataError(
            f"{named.text} is given to those only who have agreed to its terms",
            hint=f"agree on {page}, and {log_in}",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(
            f"{named.text}: the hub has no such dataset, or it is private",
            hint=f"hf:OWNER/NAME, as in {page}; where it is private, {log_in}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(
            f"{named.text}: there is no revision {named.revision}",
            hint=f"{page}/commits/main lists them",
        )
    reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
    reason = re.sub(r"\?\S+", "?...", reason)  # what is signed is for nobody's eyes
    there = [path.parent.name for path in sorted(home.glob(f"*/{_MARK}"))]
    hint = "look at the network, or download it elsewhere and give the folder"
    if there:
        hint = f"what was downloaded before needs no network: hf:{named.repository}@{there[0]}"
    return DataError(f"{named.text} cannot be downloaded: {reason}", hint=hint)
