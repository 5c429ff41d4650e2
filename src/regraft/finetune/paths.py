"""The paths of a run's checkpoints; imports no torch, so that they can be checked first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from regraft.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_ROWS = "frozen-*.rows"

#: The two files of a checkpoint.
NAME = re.compile(r"(\d{8})\.(json|safetensors)")


def checkpoints_folder(run: Path) -> Path:
    """Return the folder of a run's checkpoints: beside the run, until the run is complete.

    >>> from pathlib import Path
    >>> checkpoints_folder(Path("regraft-runs/flowers")).as_posix()
    'regraft-runs/flowers.checkpoints'
    """
    return run.with_name(f"{run.name}.checkpoints")


def checkpoint_numbers(folder: Path) -> list[int]:
    """Return the numbers of the checkpoints in a folder, ascending, damaged ones too.

    One without its JSON was never finished, and does not count.
    """
    if not folder.is_dir():
        return []
    matches = (NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match and match[2] == "json")


def is_stopped(run: Path) -> bool:
    """Tell whether a training of this run folder was stopped and can be resumed."""
    return bool(checkpoint_numbers(checkpoints_folder(run)))


def refuse_existing(folder: Path) -> None:
    """Raise RunError where a folder has checkpoints that could be resumed."""
    if checkpoint_numbers(folder):
        raise RunError(
            f"{folder} holds the checkpoints of a run that was stopped",
            hint="`resume=True` continues it; `overwrite=True` starts from the beginning; "
            "`out` names another folder",
        )


def rows_file(folder: Path, name: str) -> Path:
    """Return the file for outputs of frozen stages; its name is a hash of what they depend on."""
    return folder / _ROWS.replace("*", name)


def remove_rows(folder: Path, but: Collection[Path] = ()) -> None:
    """Remove the files with outputs of frozen stages, all or all but some."""
    for path in folder.glob(_ROWS):
        if path not in but:
            path.unlink(missing_ok=True)
