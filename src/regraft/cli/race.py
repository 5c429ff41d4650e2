"""`regraft race`: which network suits the images."""

# ruff: noqa: PLC0415 - as in main.py

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from regraft.cli.options import ConfigFile, RaceFlags, combine, given
from regraft.cli.spelling import spelled
from regraft.cli.streams import complete_without_printing, write
from regraft.cli.tuning import tune_process
from regraft.config.declaration import split_words
from regraft.config.settings import refuse_unread


def race(  # noqa: PLR0913 - a parameter for each flag
    data: str,
    /,
    *,
    models: Annotated[str, Parameter(metavar="NAMES")] = "offline",
    seconds: Annotated[float | None, Parameter(metavar="S")] = None,
    latency: Annotated[float | None, Parameter(metavar="MS")] = None,
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    config: ConfigFile = None,
    flags: Annotated[RaceFlags | None, Parameter(name="*")] = None,
) -> None:
    """Find the network, or the sum of two or three, that suits the images.

    Networks are compared by probes on a sample of the training part, then on four times as many
    images those that are not significantly worse, until all. The winner is tested once. The same
    command again goes on where it was stopped.

    Parameters
    ----------
    data
        As for `regraft train`.
    models
        Networks with commas between them, or a list: offline (what is installed), small, medium,
        large. [default: offline]
    seconds
        Begin no network and no round that would take longer. [default: no limit]
    latency
        Leave out what takes more milliseconds an image on this machine. [default: no limit]
    out
        Folder of race.json and race.png. [default: one under regraft-runs/, named after the data]
    overwrite
        Replace the race that is already in --out.
    """
    settings = combine(config, flags).replace(out=out, overwrite=overwrite)
    refuse_unread(settings, given(flags))
    tune_process()
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands.race import race as command

    found = command(
        data,
        split_words(models),
        settings,
        ConsoleReporter(),
        seconds=seconds,
        latency=latency,
    )
    with complete_without_printing(found.folder):
        write(spelled(found.text))
