"""The path of a run: chosen and reserved before any work is done, filled by a rename at the end."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from regraft.core.files import flush_folder
from regraft.errors import RunError
from regraft.runs.lock import (
    is_free,
    numbered,
    workspace,
    workspace_path,
    write_errors_as_run_errors,
)
from regraft.runs.metrics_file import is_run
from regraft.runs.names import free_names, name_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Reservation:
    """A path that this run alone may write to; made by ``reserve``.

    Attributes
    ----------
    folder : Path
        The run folder, as the user wrote it.
    """

    def __init__(self, folder: Path, path: Path, hidden: Path, *, overwrite: bool) -> None:
        self.folder = folder
        self._path, self._hidden, self._overwrite = path, hidden, overwrite

    @contextlib.contextmanager
    def new_folder(self) -> Iterator[Path]:
        """Yield an empty folder to write into; rename it to the run's path at the end.

        An earlier run is replaced only when the new one is complete. If anything fails, the old
        run stays, and nothing of the new one does.

        Raises
        ------
        RunError
            The path cannot be written to, or something else was put there: that is left alone, and
            the new run is kept next to it.
        DiskFullError
            There is no space left.
        """
        new = self._hidden / "new"
        with write_errors_as_run_errors(self._path):
            new.mkdir()
            yield new
            if not is_free(self._path):
                if not (self._overwrite and is_run(self._path)):
                    self._keep_at_other_path(
                        new, f"something else was put at {self.folder} while this run was computing"
                    )
                try:
                    self._path.replace(self._hidden / "old")
                except OSError as error:
                    self._keep_at_other_path(
                        new, f"the run at {self.folder} cannot be moved: {error.strerror}"
                    )
            elif self._path.is_dir():
                self._path.rmdir()
            new.replace(self._path)
            flush_folder(self._path.parent)

    def _keep_at_other_path(self, new: Path, reason: str) -> NoReturn:
        other = numbered(self._path)
        new.replace(other)
        raise RunError(f"{reason}; it is left alone", hint=f"the new run is at {other}")


@contextlib.contextmanager
def reserve(
    out: Path | None,
    data: object,
    *,
    overwrite: bool,
    store: Path | None = None,
    is_stopped: Callable[[Path], bool] | None = None,
    resume: bool = False,
) -> Iterator[Reservation]:
    """Choose where a run is written, and keep all other runs from writing there meanwhile.

    If no run was written at the end, no file is left.

    Parameters
    ----------
    out : Path, optional
        As the user gave it; else a new folder under ``regraft-runs/``, named after the data.
    data : object
        What is trained on; a path or a name gives the folder its name.
    overwrite : bool
        Whether a run that exists already may be replaced.
    store : Path, optional
        The feature store's folder, which must not be in the run folder.
    is_stopped : callable, optional
        Returns whether a training with this path was stopped and can be resumed. Without ``out``,
        such a path is left free for it.
    resume : bool
        Without ``out``, take the first such path instead.

    Raises
    ------
    RunError
        The folder holds something else, or a run without ``overwrite``; it is a link, holds the
        store or the data, or is in the data; or another run writes there.
    DiskFullError
        There is no space left.
    """
    free = free_names(name_after(data), is_stopped or (lambda _: False), resume=resume)
    for folder in free if out is None else [out]:
        with write_errors_as_run_errors(folder):
            # Resolved once: neither a link on the way nor a change of directory moves the run.
            named = folder.name not in {"", ".."}
            path = folder.parent.resolve() / folder.name if named else folder.resolve()
            _check_apart(folder, path, data, store)
            if out is not None:
                _check_replaceable(folder, overwrite=overwrite)
        with workspace(path) as hidden:
            if hidden is None:
                if out is None:
                    continue
                raise RunError(
                    f"another run is writing to {out}",
                    hint="`out` names another folder; where no run is alive, remove "
                    f"{workspace_path(path)}",
                )
            if out is not None:
                _check_replaceable(folder, overwrite=overwrite)
            elif not is_free(path):  # that other run has ended between the two checks
                continue
            yield Reservation(folder, path, hidden, overwrite=overwrite)
            return


def _check_replaceable(folder: Path, *, overwrite: bool) -> None:
    if folder.is_symlink():
        raise RunError(
            f"{folder} is a link",
            hint=f"name the folder itself: `out={os.path.realpath(folder)!r}`",
        )
    if is_free(folder):
        return
    if not is_run(folder):
        raise RunError(
            f"{folder} exists and is not a run; it is left alone",
            hint="`out` names another folder",
        )
    if not overwrite:
        raise RunError(
            f"{folder} already holds a run",
            hint="`overwrite=True` replaces it; `out` names another folder",
        )
    # Seen from their parents: os.walk leaves out a folder that it cannot read.
    inner = (Path(parent, name) for parent, names, _ in os.walk(folder) for name in names)
    for each in (folder, *inner):
        if not each.is_symlink() and not os.access(each, os.R_OK | os.W_OK | os.X_OK):
            raise RunError(
                f"{folder} cannot be replaced: no right to read and change {each}",
                hint=f"give it (chmod -R u+rwX {folder}); `out` names another folder",
            )


def _check_apart(folder: Path, path: Path, data: object, store: Path | None) -> None:
    """Refuse a run folder that holds the store or the data, or that is in the data."""
    source = Path(data) if isinstance(data, str | Path) and os.path.lexists(data) else None
    for what, inner in (("feature store", store), ("data", source)):
        if inner is not None and inner.expanduser().resolve().is_relative_to(path):
            raise RunError(
                f"the {what}, {inner}, would be in the run folder {folder}, which is replaced "
                "as a whole",
                hint="`out` names another folder",
            )
    if source is not None and source.is_dir() and path.is_relative_to(source.resolve()):
        raise RunError(
            f"the run folder {folder} would be in the data, {source}: the next training would take "
            "its pictures for images",
            hint="`out` names another folder",
        )
