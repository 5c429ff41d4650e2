"""`regraft compare`: compare finished runs, or train on data and compare."""

# ruff: noqa: PLC0415 - as in main.py

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from regraft.cli.options import CompareFlags, ConfigFile, Names, Picture, combine, given
from regraft.cli.spelling import spelled
from regraft.cli.streams import complete_without_printing, write
from regraft.cli.tuning import tune_process
from regraft.config.settings import refuse_unread
from regraft.errors import InputError


def compare(
    *runs: str,
    models: Names = None,
    strategies: Names = None,
    out: Picture = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    config: ConfigFile = None,
    flags: Annotated[CompareFlags | None, Parameter(name="*")] = None,
) -> int:
    """Compare runs on the same test images, or train networks on DATA and compare these.

    Prints a table and paired tests, and draws a picture. Trainings that are already finished in
    --out are not repeated. If one fails, the others still run, and the exit code is 1.

    Parameters
    ----------
    runs
        Two or more folders that `regraft train` wrote; their test images are matched by content.
        Or, with --models or --strategies, DATA as for `regraft train`.
    models
        Train each of these networks, as in resnet50,vgg16, on the same parts of DATA.
    strategies
        Train each network in each of these ways, as in probe,finetune.
    out
        For runs: new PNG file. [default: regraft-runs/compare.png, replaced] For DATA: folder of
        the runs and of compare.png. [default: one under regraft-runs/, named after the data]
    overwrite
        Replace runs in --out that differ in settings or images.
    """
    tune_process()
    if models is None and strategies is None:
        if config is not None or given(flags) or overwrite:
            raise InputError(
                "settings change nothing of runs that are trained already",
                hint="regraft compare DATA trains with --models or --strategies; for other "
                "settings train a run with each, and compare the runs",
            )
        from regraft.commands.compare_runs import compare_runs

        write(spelled(compare_runs([Path(run) for run in runs], out)))
        return 0
    if len(runs) != 1:
        raise InputError(
            f"--models and --strategies train on one DATA, and {len(runs)} are given",
            hint="regraft compare --help",
        )
    settings = combine(config, flags).replace(out=out, overwrite=overwrite)
    if {*_words(strategies)} <= {settings.strategy}:  # else each reads other settings
        refuse_unread(settings, given(flags))
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands.compare_trainings import compare_trainings

    found = compare_trainings(
        runs[0], _words(models), _words(strategies), settings, ConsoleReporter()
    )
    with complete_without_printing():
        write(spelled(found.text))
    return 1 if found.failed else 0


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in text.split(",")] if text is not None else []
