"""`regraft drift`: whether new images are still as those of the training."""

# ruff: noqa: PLC0415 - as in main.py

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from regraft.cli.options import DriftFlags, given
from regraft.cli.spelling import spelled
from regraft.cli.streams import write
from regraft.cli.tuning import tune_process
from regraft.errors import InputError

FAIL_ON = Parameter(metavar="P", validator=Number(gte=0.0001, lt=1))  # no p-value is smaller


def drift(
    run: Path,
    /,
    *paths: str,
    out: Annotated[str | None, Parameter(metavar="FOLDER")] = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    fail_on: Annotated[float | None, FAIL_ON] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    flags: Annotated[DriftFlags | None, Parameter(name="*")] = None,
) -> int:
    """Compare images without labels with the training's: how typical, and of which classes.

    Prints two p-values. A small one of the typicality says that the images are less like those of
    the training than chance explains; a small one of the shares, that some classes are more
    frequent than in the training, which need not be bad.

    Parameters
    ----------
    run
        Folder that `regraft train` wrote, or its bundle folder.
    paths
        Images as for `regraft predict`: files, folders, patterns, zip or tar files.
    out
        Write drift.csv, a row for each image, and drift.png, the least typical ones, into this
        folder.
    overwrite
        Replace the table and the picture that are already there.
    fail_on
        End with exit code 1 if the p-value of the typicality, which is at least 0.0001, is at most
        this.
    json
        Print one JSON object instead of lines.
    """
    if not paths:
        raise InputError("regraft drift needs PATHS", hint="regraft drift --help")
    tune_process()
    from regraft.cli.output import as_json
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands import drift as command

    found = command.drift(
        run, list(paths), out=out, overwrite=overwrite, reporter=ConsoleReporter(), **given(flags)
    )
    write(as_json(found) if json else spelled(found.summary()))
    return int(fail_on is not None and found["typicality"]["p_value"] <= fail_on)
