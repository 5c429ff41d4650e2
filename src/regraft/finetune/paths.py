"""Where a run's checkpoints lie; imports no torch, so that it can be asked first of all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from regraft.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_ROWS = "frozen-*.rows"

#: A generation's two files.
NAME = re.compile(r"(\d{8})\.(json|safetensors)")


def checkpoints_folder(run: Path) -> Path:
    """Return where a run's checkpoints lie: beside it, and gone when it is complete.

    Examples
    --------
    >>> from pathlib import Path
    >>> checkpoints_folder(Path("regraft-runs/flowers")).as_posix()
    'regraft-runs/flowers.checkpoints'
    """
    return run.with_name(f"{run.name}.checkpoints")


def generations(folder: Path) -> list[int]:
    """Return the numbers of the generations in a folder, ascending, whole ones or not.

    What has no JSON was never finished: that is no generation.
    """
    if not folder.is_dir():
        return []
    matches = (NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match and match[2] == "json")


def refuse_existing(folder: Path) -> None:
    """Refuse to begin anew where something can be resumed.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.

    Raises
    ------
    RunError
        Where there are any.
    """
    if generations(folder):
        raise RunError(
            f"{folder} holds the checkpoints of a run that was stopped",
            hint="--resume continues it, --overwrite starts anew, --out names another place",
        )


def rows_file(folder: Path, name: str) -> Path:
    """Return where a run keeps what its frozen stages gave.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.
    name : str
        Of all that the rows depend on.
    """
    return folder / _ROWS.replace("*", name)


def remove_rows(folder: Path, but: Collection[Path] = ()) -> None:
    """Remove what frozen stages gave, all of it or all but some files."""
    for path in folder.glob(_ROWS):
        if path not in but:
            path.unlink(missing_ok=True)
