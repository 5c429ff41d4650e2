"""Where a run goes: chosen and claimed before any work is done, renamed into place at the end.

While a run computes, a hidden folder beside its place holds it: ``.NAME.part`` with the file
``regraft.lock``, which the process keeps locked, ``new`` with what has been written so far, and for
a moment ``old`` with the run that is being replaced. The operating system gives the lock back when
the process ends, however it ends: a folder whose lock can be had is a leftover, and is removed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.core.files import network_file_system
from regraft.errors import DiskFullError, RunError
from regraft.runs.metrics_file import is_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOME = Path("regraft-runs")
_LOCK = "regraft.lock"
_LOOKED_AT = 1000  # names among which stopped trainings are looked for
_LOCKED = {errno.EAGAIN, errno.EACCES, errno.EDEADLK, errno.ENOENT}
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Claim:
    """A place that this run alone may write to; made by ``claim``.

    Attributes
    ----------
    folder : Path
        The run folder, as the user wrote it.
    """

    def __init__(self, folder: Path, place: Path, workspace: Path, *, overwrite: bool) -> None:
        self.folder = folder
        self._place, self._workspace, self._overwrite = place, workspace, overwrite

    @contextlib.contextmanager
    def new_run(self) -> Iterator[Path]:
        """Yield an empty folder to write into; rename it into place at the end.

        A run that is there is replaced only when the new one is complete; where anything fails, the
        old one stays and nothing new does.

        Yields
        ------
        Path
            Empty folder.

        Raises
        ------
        RunError
            Where the place cannot be written to; or where something else has been put there since:
            that is left alone, and the new run is kept beside it.
        DiskFullError
            Where there is no space left.
        """
        new = self._workspace / "new"
        with _told(self._place):
            new.mkdir()
            yield new
            if not _is_free(self._place):
                if not (self._overwrite and is_run(self._place)):
                    self._keep_beside(new)
                self._place.replace(self._workspace / "old")
            elif self._place.is_dir():
                self._place.rmdir()
            new.replace(self._place)
            _flush(self._place.parent)

    def _keep_beside(self, new: Path) -> None:
        beside = _numbered(self._place, start=2)
        new.replace(beside)
        raise RunError(
            f"something else was put at {self.folder} while this run was computing; "
            "it is left alone",
            hint=f"the new run is at {beside}",
        )


@contextlib.contextmanager
def claim(
    out: Path | None,
    data: object,
    *,
    overwrite: bool,
    store: Path | None = None,
    stopped: Callable[[Path], bool] | None = None,
    resume: bool = False,
) -> Iterator[Claim]:
    """Choose where a run goes, and keep everybody else from writing there meanwhile.

    Parameters
    ----------
    out : Path, optional
        As the user gave it; else a new folder under ``regraft-runs/``, named after the data.
    data : object
        What is trained on; a path or a name gives the folder its name.
    overwrite : bool
        Whether a run that is there already may be replaced.
    store : Path, optional
        The feature store's folder, which must not be in the run folder.
    stopped : callable, optional
        Whether a training that was stopped waits under a name, to be continued. Without ``out``
        such a name is left to it; no name is where not given.
    resume : bool
        Without ``out``, take the first such name instead.

    Yields
    ------
    Claim
        Its folder does not exist, is empty, or holds a run that may be replaced. Where no run was
        written at the end, nothing is left behind.

    Raises
    ------
    RunError
        Where the folder holds something else, or a run and ``overwrite`` is not set; where it is a
        link, holds the store or the data, or lies in the data; or where another run writes there.
    DiskFullError
        Where there is no space left.
    """
    names = _free_names(name_after(data), stopped or (lambda _: False), resume=resume)
    for folder in names if out is None else [out]:
        with _told(folder):
            # Resolved once: neither a link on the way nor a change of directory moves the run.
            named = folder.name not in {"", ".."}
            place = folder.parent.resolve() / folder.name if named else folder.resolve()
            _check_apart(folder, place, data, store)
            if out is not None:
                _check_replaceable(folder, overwrite=overwrite)
        with _workspace(place) as workspace:
            if workspace is None:
                if out is None:
                    continue
                left = place.with_name(f".{place.name}.part")
                raise RunError(
                    f"another run is writing to {out}",
                    hint=f"--out names another place; where no run is alive, remove {left}",
                )
            if out is not None:
                _check_replaceable(folder, overwrite=overwrite)
            elif not _is_free(place):  # that other run has ended between the two looks
                continue
            yield Claim(folder, place, workspace, overwrite=overwrite)
            return


def picture_place(out: Path | None, name: str, *data: object) -> Path:
    """Choose where a command that leaves nothing but a picture writes it.

    Parameters
    ----------
    out : Path, optional
        As the user gave it; else ``name`` under ``regraft-runs/``, which is replaced.
    name : str
        Of the file, ``show.png``.
    *data : object
        What is looked at: a picture in it would be taken for an image of it.

    Returns
    -------
    Path
        Its folder is there.

    Raises
    ------
    RunError
        Where there is something already that the user named, where the name is not a PNG file's, or
        where the place lies in the data.
    """
    place = HOME / name if out is None else out
    if place.suffix.lower() != ".png":
        raise RunError(f"{place} is not the name of a PNG file", hint=f"--out {name}")
    if out is not None and os.path.lexists(out):
        raise RunError(f"{out} exists; it is left alone", hint="choose another name with --out")
    for source in (Path(each) for each in data if isinstance(each, str | Path)):
        if source.is_dir() and place.parent.resolve().is_relative_to(source.resolve()):
            raise RunError(
                f"{place} would be in the data, {source}: the next training would take it for an "
                "image",
                hint="choose a place elsewhere with --out",
            )
    with _told(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    return place


def name_after(data: object) -> str:
    """Return what a run is called after its data.

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


def _candidates(stem: str) -> Iterator[Path]:
    return (HOME / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1_000_000))


def _free_names(stem: str, stopped: Callable[[Path], bool], *, resume: bool) -> Iterator[Path]:
    """Yield names that nothing has; those of stopped trainings first, or not at all."""
    some = itertools.islice(_candidates(stem), _LOOKED_AT)
    waiting = [name for name in some if not os.path.lexists(name) and stopped(name)]
    if resume:
        yield from waiting
    for name in _candidates(stem):
        if not os.path.lexists(name) and name not in waiting:
            yield name


def _numbered(place: Path, start: int) -> Path:
    names = (place.with_name(f"{place.name}-{n}") for n in range(start, 1_000_000))
    return next(path for path in names if not (path.exists() or path.is_symlink()))


def _is_free(place: Path) -> bool:
    """Tell whether there is nothing, or an empty folder."""
    if place.is_symlink() or not place.is_dir():
        return not os.path.lexists(place)
    return not any(place.iterdir())


def _check_replaceable(folder: Path, *, overwrite: bool) -> None:
    if folder.is_symlink():
        raise RunError(
            f"{folder} is a link", hint=f"name the folder itself: --out {os.path.realpath(folder)}"
        )
    if _is_free(folder):
        return
    if not is_run(folder):
        raise RunError(
            f"{folder} exists and is not a run; it is left alone",
            hint="choose another folder with --out",
        )
    if not overwrite:
        raise RunError(
            f"{folder} already holds a run", hint="--overwrite replaces it; --out names another"
        )


def _check_apart(folder: Path, place: Path, data: object, store: Path | None) -> None:
    """Refuse places where replacing the run would take something else with it."""
    source = Path(data) if isinstance(data, str | Path) and os.path.lexists(data) else None
    for what, path in (("feature store", store), ("data", source)):
        if path is not None and path.expanduser().resolve().is_relative_to(place):
            raise RunError(
                f"the {what}, {path}, would be in the run folder {folder}, which is replaced "
                "as a whole",
                hint="choose another folder with --out",
            )
    if source is not None and source.is_dir() and place.is_relative_to(source.resolve()):
        raise RunError(
            f"the run folder {folder} would be in the data, {source}: the next training would take "
            "its pictures for images",
            hint="choose a folder elsewhere with --out",
        )


@contextlib.contextmanager
def _workspace(place: Path) -> Iterator[Path | None]:
    """Yield the folder beside a place where its next run is written; None where it is taken."""
    path = place.with_name(f".{place.name}.part")
    parents = [parent for parent in place.parents if not parent.exists()]
    parent = next(parent for parent in place.parents if parent.exists())
    if not parent.is_dir():
        raise RunError(f"{place} cannot be made: {parent} is a file")
    with _told(place):
        descriptor = _take(path)
    try:
        if descriptor is not None:
            _settle(path, place)
            _sweep(place.parent)
        yield None if descriptor is None else path
    finally:
        if descriptor is not None:
            _leave(path, place, descriptor)
        for made in parents:  # those that are still empty, innermost first
            with contextlib.suppress(OSError):
                made.rmdir()


def _take(path: Path) -> int | None:
    """Make or take over a workspace; return the descriptor of its lock, None where it is taken."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = True
        try:
            path.mkdir()
        except FileExistsError:
            if not _is_leftover(path):
                return None
            made = False
        except FileNotFoundError:  # another run has removed the empty parent again
            continue
        descriptor = _lock(path, made=made)
        if descriptor is not None or path.exists():
            return descriptor


def _is_leftover(path: Path) -> bool:
    """Tell whether a folder may be a workspace that nobody uses: ours, and its lock is real."""
    try:
        ours = (path / _LOCK).is_file() or _is_free(path)
    except FileNotFoundError:  # it has just gone; whoever takes it will see
        return True
    return ours and not path.is_symlink() and network_file_system(path) is None


def _lock(path: Path, *, made: bool) -> int | None:
    """Lock a workspace; return the open descriptor, None where another process has it.

    ``made`` says that the folder is ours: on a file system without locks that has to do.
    """
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:  # its process has removed it in this moment
        return None
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - only here

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A lock on a file that was removed between opening and locking keeps nobody away.
        if os.path.samestat(os.fstat(descriptor), (path / _LOCK).stat()):
            return descriptor
    except OSError as error:
        if made and error.errno not in _LOCKED:
            return descriptor
    os.close(descriptor)
    return None


def _settle(path: Path, place: Path) -> None:
    """Bring back the run that was being replaced at a kill; remove all but the lock."""
    old, new = path / "old", path / "new"
    if old.exists() and (new.exists() or not place.exists()):
        old.replace(_numbered(place, start=2) if place.exists() else place)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)


def _leave(path: Path, place: Path, descriptor: int) -> None:
    """Remove a workspace; the lock last, and on Windows after it is closed."""
    with contextlib.suppress(OSError):
        _settle(path, place)
    if sys.platform == "win32":
        _close(descriptor)
    with contextlib.suppress(OSError):
        (path / _LOCK).unlink()
        path.rmdir()
    if sys.platform != "win32":
        _close(descriptor)
    with contextlib.suppress(OSError):  # NFS and sshfs keep an open file, by another name
        path.rmdir()


def _close(descriptor: int) -> None:
    """Close a lock; where its file system went away, what ended the run is told instead."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Remove what runs with other names left behind when they were killed."""
    for path in parent.glob(".*.part"):
        if (path / _LOCK).is_file() and _is_leftover(path):
            with contextlib.suppress(OSError):
                descriptor = _lock(path, made=False)
                if descriptor is not None:
                    place = path.with_name(path.name[1:].removesuffix(".part"))
                    _leave(path, place, descriptor)


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """Tell in one line why a place cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"no space left for {place}") from error
        raise RunError(f"{place} cannot be written: {error.strerror}") from error


def _flush(folder: Path) -> None:
    """Make the rename survive a power cut, where the platform can say so."""
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
