"""The run folder: checked early, written beside, renamed into place when everything is there."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from regraft.errors import DiskFullError, RunError
from regraft.files import read_bounded, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCHEMA_VERSION = 1
HOME = Path("regraft-runs")
_MARK = "metrics.json"  # a folder with this file and our schema is a run, and may be replaced
_MAX_METRICS = 256 * 2**20  # a confusion matrix of 5,000 classes


def choose_folder(out: Path | None, data: object, *, overwrite: bool) -> Path:
    """Decide where a run goes, before any work is done.

    Parameters
    ----------
    out : Path, optional
        As the user gave it; else a new folder under ``regraft-runs/``, named after the data.
    data : object
        What is trained on; a path or a name gives the folder its name.
    overwrite : bool
        Whether a run that is there already may be replaced.

    Returns
    -------
    Path
        It does not exist, or holds a run that may be replaced.

    Raises
    ------
    RunError
        Where the folder holds something else, or a run and ``overwrite`` is not set.

    Examples
    --------
    >>> choose_folder(None, "photos/flowers.zip", overwrite=False).as_posix()
    'regraft-runs/flowers'
    """
    if out is None:
        name = Path(data).name if isinstance(data, str | Path) else "arrays"
        name = re.sub(r"\.(zip|csv|parquet|tar|tgz|tar\.\w+)$", "", name, flags=re.IGNORECASE)
        stem = re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "run"
        candidates = (HOME / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 100_000))
        return next(folder for folder in candidates if not folder.exists())
    parent = next(place for place in out.absolute().parents if place.exists())
    if not parent.is_dir():
        raise RunError(f"{out} cannot be made: {parent} is a file")
    if out.is_dir() and not any(out.iterdir()):
        return out
    if out.exists() or out.is_symlink():
        if not is_run(out):
            raise RunError(
                f"{out} exists and is not a run; it is left alone",
                hint="choose another folder with --out",
            )
        if not overwrite:
            raise RunError(
                f"{out} already holds a run", hint="--overwrite replaces it; --out names another"
            )
    return out


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run that regraft wrote."""
    try:
        metrics = read_metrics(folder)
    except RunError:
        return False
    return {"regraft", "task", "backbone"} <= set(metrics) and (folder / "split.csv").is_file()


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return a run's metrics.json.

    Raises
    ------
    RunError
        Where there is none, or it is of a newer regraft.
    """
    path = folder / _MARK
    if not path.is_file() or path.is_symlink():
        raise RunError(f"{folder} is not a run: it has no {_MARK}")
    try:
        metrics = msgspec.json.decode(read_bounded(path, _MAX_METRICS), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: {error}") from error
    version = metrics.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema version {version}; this regraft reads {SCHEMA_VERSION}",
            hint="pip install --upgrade regraft",
        )
    return metrics


@contextlib.contextmanager
def new_run(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside the run's place; rename it into place at the end.

    A run that is there is replaced only when the new one is complete; where anything fails, the
    old one stays and nothing new does.

    Parameters
    ----------
    folder : Path
        From ``choose_folder``.

    Yields
    ------
    Path
        Empty folder to write into.

    Raises
    ------
    RunError, DiskFullError
        Where the place cannot be written to.
    """
    folder = folder.absolute()
    token = secrets.token_hex(6)  # not the process's number: containers share those
    beside = folder.with_name(f".{folder.name}.{token}.part")
    old = folder.with_name(f".{folder.name}.{token}.old")
    try:
        beside.mkdir(parents=True)
        yield beside
        if folder.exists():
            folder.replace(old) if any(folder.iterdir()) else folder.rmdir()
        beside.replace(folder)
        _flush(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise DiskFullError(f"no space left for {folder}") from error
        raise RunError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        if old.exists() and not folder.exists():  # interrupted between the two renames
            old.replace(folder)
        for leftover in (beside, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Make the rename survive a power cut, where the platform can say so."""
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_metrics(folder: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """Write metrics.json with the schema version first; return what a reader of it gets."""
    data = msgspec.json.encode({"schema_version": SCHEMA_VERSION, **value})
    write_atomic(folder / _MARK, msgspec.json.format(data, indent=2))
    return msgspec.json.decode(data, type=dict[str, Any])


def write_csv(path: Path, header: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    """Write a table; cells that a spreadsheet would take for a formula are left as they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
