"""Names of run folders and pictures, and which of them are free."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.core.csv_text import as_csv
from regraft.core.files import write_atomic, write_new
from regraft.errors import RunError
from regraft.runs.lock import write_errors_as_run_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEFAULT_RUNS_FOLDER = Path("regraft-runs")
TABLE_HINT = "`csv` names another file; `overwrite=True` replaces it"
_NAMES_SEARCHED = 1000  # for stopped trainings: NAME, NAME-2, ...


def picture_path(out: Path | None, name: str, *data: object) -> Path:
    """Return the path of a picture, ``out`` or ``regraft-runs/name``; create its folder.

    Raises RunError if ``out`` exists (the other path is replaced) or is not a PNG file, or if the
    path is in the folder of the data, where the picture would be an image of them.
    """
    path = DEFAULT_RUNS_FOLDER / name if out is None else out
    if path.suffix.lower() != ".png":
        raise RunError(f"{path} is not the name of a PNG file", hint=f"`out={name!r}`")
    if out is not None:
        refuse_existing_file(out, "`out` names another file")
    for source in (Path(each) for each in data if isinstance(each, str | Path)):
        if source.is_dir() and path.parent.resolve().is_relative_to(source.resolve()):
            raise RunError(
                f"{path} would be in the data, {source}: the next training would use it as an "
                "image",
                hint="`out` names another folder",
            )
    with write_errors_as_run_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def refuse_existing_file(path: Path, hint: str) -> None:
    """Raise RunError if something is at the path of a new file."""
    if os.path.lexists(path):
        raise _is_there(path, hint)


def _is_there(path: Path, hint: str) -> RunError:
    return RunError(f"{path} exists; it is left alone", hint=hint)


def check_folder(
    folder: Path | str, names: Sequence[str], paths: Sequence[str], hint: str, *, overwrite: bool
) -> Path:
    """Return the folder that new files of some names are going to be written into.

    Raises RunError, before any work, if one of them is there (a file is replaced with
    ``overwrite``), if the folder is none, or if it is in one of ``paths``, whose images they would
    join. The remedies in ``hint`` are another folder, and after "; " to overwrite.
    """
    another = hint.partition(";")[0]
    if not str(folder):  # Path("") would be the current folder
        raise RunError("the path of a folder is empty", hint=another)
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunError(f"{folder} is no folder", hint=another)
    for path in map(Path, paths):
        if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
            raise RunError(
                f"{folder} would be in {path}: what is kept there would be asked about again",
                hint=another,
            )
    for name in names:
        _check_file(folder / name, hint, overwrite=overwrite)
    return folder


def _check_file(path: Path, hint: str, *, overwrite: bool) -> None:
    """Raise RunError if a file cannot be written: something is there, and is not to be replaced."""
    is_file = path.is_file()
    if not (overwrite and is_file):
        refuse_existing_file(path, hint if is_file else hint.partition(";")[0])


@contextmanager
def made_folder(folder: Path | None) -> Iterator[None]:
    """Make a folder for the time of some work; if that fails, no new folder is left empty."""
    if folder is None:
        yield
        return
    with write_errors_as_run_errors(folder):
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for each in new:
            with suppress(OSError):  # something is in it
                each.rmdir()
        raise


@contextmanager
def place_for_table(path: Path | None, *, overwrite: bool) -> Iterator[None]:
    """Make the folder of a table that is written at the end of long work; none for no table.

    Raises RunError, before the work, if no table can be written there: the path exists (only a
    file is replaced, and only with ``overwrite``), or its folder cannot be made.
    """
    if path is None:
        yield
        return
    _check_file(path, TABLE_HINT, overwrite=overwrite)
    with write_errors_as_run_errors(path):
        pass  # it is a path
    with made_folder(path.parent):
        yield


def write_table(
    path: Path, table: Sequence[Sequence[object]], hint: str, *, overwrite: bool
) -> None:
    """Write a CSV table; without ``overwrite`` only where nothing is, whoever is faster."""
    data = as_csv(table).encode("utf-8", "surrogateescape")
    if overwrite:
        write_atomic(path, data)
        return
    try:
        write_new(path, data)
    except FileExistsError:
        raise _is_there(path, hint) from None


def name_after(data: object) -> str:
    """Return the name of a run, after that of its data.

    Examples
    --------
    >>> name_after("photos/flowers.zip"), name_after("kaggle:owner/flowers")
    ('flowers', 'flowers')
    """
    name = "arrays"
    if isinstance(data, str | Path):
        name = Path(data).name or Path(data).absolute().name
    name = re.sub(r"\.(zip|csv|parquet|tar|tgz|tar\.\w+)$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^\w.\-]+", "-", name).strip("-.")[:60] or "run"  # file systems take 255 bytes


def free_names(stem: str, is_stopped: Callable[[Path], bool], *, resume: bool) -> Iterator[Path]:
    """Yield paths that do not exist.

    Those of stopped trainings are first with ``resume``, and are left out without it.
    """
    some = itertools.islice(_candidates(stem), _NAMES_SEARCHED)
    stopped = [path for path in some if not os.path.lexists(path) and is_stopped(path)]
    if resume:
        yield from stopped
    for path in _candidates(stem):
        if not os.path.lexists(path) and path not in stopped:
            yield path


def _candidates(stem: str) -> Iterator[Path]:
    return (DEFAULT_RUNS_FOLDER / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1_000_000))
