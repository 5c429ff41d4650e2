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
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from regraft.core.files import read_bounded, write_atomic
from regraft.data.sources.folder import open_folder
from regraft.data.sources.hub_tables import choose_tables, listed, open_tables
from regraft.data.sources.layout import arrange, has_image_suffix, is_hidden
from regraft.data.sources.named import default_data_root
from regraft.data.sources.tars import open_tar
from regraft.data.sources.zips import open_zip
from regraft.errors import DataError, DiskFullError, InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
_TIMEOUT = 10.0  # seconds until a server that does not answer is given up
_MARK = ".complete"  # written last: what is there without it was not downloaded to the end
_LARGEST_MARK = 1 << 28
_OUT = ("../*", "*/../*", "*:*")  # what a server may name when it is asked for a second time
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class _Named(NamedTuple):
    """What was asked for: a repository, and of it a subset, a revision and a column."""

    text: str
    repository: str
    subset: str | None
    revision: str | None
    label: str | None


class _Found(NamedTuple):
    """A commit, its files, those that hold the images, and what there is to say of them."""

    commit: str
    names: list[str]
    files: list[str]
    notes: list[str]
    problem: DataError | None


class _Mark(msgspec.Struct):
    """As ``_Found``; and ``here`` those files whose download has come to its end."""

    files: list[str]
    notes: list[str]
    here: list[str]


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
    mark = _read_mark(folder) if _COMMIT.fullmatch(named.revision or "") else None
    if mark is None or not set(_wanted(named, mark.files)) <= set(mark.here):
        folder, mark = _download(named, home)
    source = _open(named, folder, mark.files, options)
    note = f"{named.text}, commit {folder.name}, lies in {folder}"
    notes = (note, *mark.notes, *source.notes)
    return replace(source, kind="hf", location=named.text, revision=folder.name, notes=notes)


def _read_mark(folder: Path) -> _Mark | None:
    """Return what was written when a download had come to its end; None where it has not."""
    try:
        return msgspec.json.decode(read_bounded(folder / _MARK, _LARGEST_MARK), type=_Mark)
    except (InputError, msgspec.DecodeError):
        return None


def _wanted(named: _Named, files: list[str]) -> list[str]:
    """Return those files of a commit that are asked for: one subset's, where there are several."""
    if _is_table(files[0]):
        return choose_tables(named.text, files, named.subset).files
    if named.subset or named.label:
        raise DataError(
            f"{named.text}: only Parquet files have subsets and columns, and it holds "
            f"{listed(files[:1])}",
            hint=f"{_PREFIX}{named.repository}",
        )
    return files


def _is_here(named: _Named, mark: _Mark | None) -> bool:
    try:
        return mark is not None and set(_wanted(named, mark.files)) <= set(mark.here)
    except DataError:
        return False


def _open(named: _Named, folder: Path, files: list[str], options: SourceOptions) -> Source:
    """Open what was downloaded by the reader of its kind."""
    if _is_table(files[0]):
        tables = choose_tables(named.text, files, named.subset)
        return open_tables(named.text, folder, tables, named.label)
    if has_image_suffix(files[0]):
        source = open_folder(folder, options)
    else:
        source = open_zip(folder / files[0], options) or open_tar(folder / files[0], options)
    if source is None:
        raise DataError(f"{named.text}: {folder / files[0]} cannot be read")
    return source


def _download(named: _Named, home: Path) -> tuple[Path, _Mark]:
    """Download one commit's files of images into a folder named after the commit."""
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
        found = _look(api, named, named.revision)
        if found.problem and named.revision is None:
            with suppress(errors.RevisionNotFoundError):
                converted = _look(api, named, _CONVERTED)
                found = found if converted.problem else converted
        if found.problem:
            raise found.problem
        folder, wanted = home / found.commit, _wanted(named, found.files)
        before = _read_mark(folder)
        mark = _Mark(found.files, found.notes, before.here if before else [])
        if not set(wanted) <= set(mark.here):
            api.snapshot_download(
                named.repository, repo_type="dataset", revision=found.commit, local_dir=folder,
                allow_patterns=_patterns(wanted, found.names), ignore_patterns=list(_OUT),
            )  # fmt: skip
            # Where the server has gone meanwhile, it is content with a folder of other files.
            lacking = [name for name in wanted if not (folder / name).is_file()]
            if lacking:
                raise FileNotFoundError(f"{listed(lacking)} did not come")
            mark.here = sorted({*mark.here, *wanted})
            write_atomic(folder / _MARK, msgspec.json.encode(mark))
    except failures as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"no space left for {named.text} below {home}",
                hint="name another place: --data-root",
            ) from error
        raise _told(named, error, home) from error
    return folder, mark


def _reach(endpoint: str) -> None:
    """Ask the server once: its client repeats each request that fails for 23 s."""
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the client's own
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answers


def _look(api: Any, named: _Named, revision: str | None) -> _Found:
    """List a commit, and choose those of its files that hold the images.

    Parquet files are the data wherever there are some. Of images and archives it is what has more
    bytes: a picture for the README hides no archive, and an archive of scripts no images.
    """
    commit = api.dataset_info(named.repository, revision=revision, timeout=_TIMEOUT).sha
    if not _COMMIT.fullmatch(commit or ""):  # it becomes the name of a folder
        raise DataError(f"{named.text}: the server calls its commit {commit!r}")
    tree = api.list_repo_tree(
        named.repository, repo_type="dataset", revision=commit, recursive=True
    )  # the other list ends after some tens of thousands of files, and has no sizes
    sizes = {each.path: each.size for each in tree if hasattr(each, "size")}  # folders have none
    safe = sorted(filter(_is_safe, sizes))  # a name of a file becomes a path here
    tables, images, archives = (
        list(filter(is_one, safe))
        for is_one in (_is_table, has_image_suffix, lambda name: name.lower().endswith(_ARCHIVES))
    )
    more, fewer, what = images, archives, "the images have"
    if sum(map(sizes.__getitem__, archives)) >= sum(map(sizes.__getitem__, images)):
        more, fewer, what = archives, images, f"{listed(archives)} has"
    files = tables or more
    notes = []
    if fewer and not tables:
        notes.append(f"{listed(fewer)}: left out, since {what} more bytes")
    return _Found(commit, list(sizes), files, notes, _unusable(named, files))


def _unusable(named: _Named, files: list[str]) -> DataError | None:
    """Say what keeps files from being labelled images, as far as their names tell."""
    hint = "download it from its page, and give a folder of class folders"
    if not files:
        return DataError(
            f"{named.text} holds no Parquet files, no images and no archive, and the hub has not "
            "converted it",
            hint=hint,
        )
    if files[0].lower().endswith(_ARCHIVES) and len(files) > 1:
        return DataError(
            f"{named.text} holds several archives, and which of them is what is not known: "
            f"{listed(files)}",
            hint=hint,
        )
    if has_image_suffix(files[0]):
        try:
            classes = {entry.label for entry in arrange(files, named.text).entries}
        except DataError as error:
            return error
        if len(classes) == 1:
            return DataError(f"{named.text} holds one folder of images only: {classes.pop()}", hint)
    return None


def _is_table(name: str) -> bool:
    return name.endswith(".parquet")


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not (
        path.is_absolute()
        or "\\" in name
        or ":" in name
        or any(part == ".." or is_hidden(part) for part in path.parts)
    )


def _patterns(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return patterns that match the wanted ones of some names, and none of the others.

    A folder is one pattern where all below it is wanted: the client compares every file with every
    pattern, which took 15 s for ten thousand names, and grows with their square.
    """
    others = set(names) - set(wanted)
    mixed = {PurePosixPath(), *(up for name in others for up in PurePosixPath(name).parents)}
    patterns: dict[str, None] = {}
    for name in wanted:
        whole = [up for up in PurePosixPath(name).parents if up not in mixed]
        patterns[f"{_literally(str(whole[-1]))}/*" if whole else _literally(name)] = None
    return list(patterns)


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
    there = [path.parent for path in sorted(home.glob(f"*/{_MARK}"))]
    there = [folder for folder in there if _is_here(named, _read_mark(folder))]
    hint = "look at the network, or download it elsewhere and give the folder"
    if there:
        name = "/".join(filter(None, (named.repository, named.subset)))
        hint = f"what was downloaded before needs no network: {_PREFIX}{name}@{there[0].name}"
    return DataError(f"{named.text} cannot be downloaded: {reason}", hint=hint)
