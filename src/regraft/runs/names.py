"""Names of run folders and pictures, and which of them are free."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.errors import RunError
from regraft.runs.lock import write_errors_as_run_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEFAULT_RUNS_FOLDER = Path("regraft-runs")
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
        raise RunError(f"{path} exists; it is left alone", hint=hint)


def prepare_folder(folder: Path, names: Sequence[str], paths: Sequence[str], hint: str) -> None:
    """Make a folder that new files are written into.

    Raises RunError, before any work, if a file of one of the names is there, or if the folder is in
    one of ``paths``, whose images it would join.
    """
    for path in map(Path, paths):
        if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
            raise RunError(
                f"{folder} would be in {path}: what is kept there would be asked about again",
                hint=hint.partition(";")[0],
            )
    for name in names:
        refuse_existing_file(folder / name, hint)
    with write_errors_as_run_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def prepare_table(path: Path, *, overwrite: bool) -> None:
    """Make the folder of a table that is written at the end of long work.

    Raises RunError, before the work, if no table can be written there: the path exists (only a
    file is replaced, and only with ``overwrite``), or its folder cannot be made.
    """
    if not (overwrite and path.is_file()):
        instead = (
            "" if os.path.lexists(path) and not path.is_file() else "; `overwrite=True` replaces it"
        )
        refuse_existing_file(path, f"`csv` names another file{instead}")
    with write_errors_as_run_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)


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
