"""The command line: each command parses, calls one function and prints.

Nothing that is slow to import is imported before the command that needs it runs: ``--help``
answers without numpy, torch or matplotlib.
"""

# ruff: noqa: PLC0415 - imports inside commands, see above

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from regraft.cli.compare import compare
from regraft.cli.console import end, guarded
from regraft.cli.drift import drift
from regraft.cli.export import export
from regraft.cli.help import HelpFormatter, usage_error
from regraft.cli.lists import backbones_app, cache_app, datasets, recipes_app
from regraft.cli.options import (
    OPTIONS,
    Augmentation,
    ConfigFile,
    Engine,
    EvaluateFlags,
    FindFlags,
    Picture,
    PredictFlags,
    ShowFlags,
    TrainFlags,
    combine,
    given,
)
from regraft.cli.race import race
from regraft.cli.spelling import Spelling, spelled, use
from regraft.cli.streams import complete_without_printing, write
from regraft.cli.tuning import tune_process
from regraft.config.settings import refuse_unread
from regraft.core.launched import is_first
from regraft.core.version import __version__
from regraft.errors import InputError, RegraftError
from regraft.runs.names import place_for_table

app = App(
    name="regraft",
    version=__version__,
    help_format="plaintext",
    help_formatter=HelpFormatter(),
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    usage="Usage: regraft COMMAND ...",
    group_parameters=OPTIONS,
    help="""Labelled images in, an honest and deployable image classifier out.

    Start with `regraft demo`, or with `regraft train FOLDER`: one folder of images per class.
    """,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with arguments, or with those of the process; return the exit code."""
    if arguments is not None:
        return guarded(lambda: _run(arguments))
    return end(guarded(lambda: _run(sys.argv[1:])))


def _run(words: Sequence[str]) -> int:
    if words[:1] == ["predict"]:  # cyclopts takes a lone - for an unknown flag
        words = ["--stdin" if word == "-" else word for word in words]
    try:
        spelling = use(Spelling.of(app, words))
        code = app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise usage_error(error) from None
    except RegraftError as error:
        spelling.error(error)
        raise
    return code if isinstance(code, int) else 0


@app.command(usage="Usage: regraft train DATA [OPTIONS]", sort_key=1)
def train(
    data: Annotated[str | None, Parameter(group="Arguments")] = None,
    *,
    recipe: Annotated[str | None, Parameter(metavar="NAME|FILE")] = None,
    config: ConfigFile = None,
    flags: Annotated[TrainFlags | None, Parameter(name="*")] = None,
) -> None:
    """Train a classifier on labelled images; write a run folder with its figures and a bundle.

    Without options the pretrained network stays as it is, and a head is fitted on its features: a
    probe, in seconds to minutes and without a GPU. With `--strategy finetune` its last stages are
    trained too. A fifth of the images (or the data's own test part) is tested once at the end.

    Parameters
    ----------
    data
        Folder with one folder per class, zip or tar of it, CSV or Parquet table, the name of a
        dataset (`regraft datasets` lists them), kaggle:OWNER/NAME or hf:OWNER/NAME; by default
        the recipe's data.
    recipe
        Start from a recipe's settings (`regraft recipes` lists them); --config and flags go before
        them.
    """
    base = None
    if recipe is not None:
        from regraft.config.recipe import read_recipe

        chosen = read_recipe(recipe)
        base, data = chosen.config, data or chosen.needed_data()
    if data is None:
        raise _no_data(config)
    settings = combine(config, flags, base)
    refuse_unread(settings, given(flags))
    tune_process()
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands import train as command

    run = command.train(data, settings, ConsoleReporter())
    if is_first():  # of the processes that torchrun has started
        with complete_without_printing(run.folder):
            write(spelled(run.summary()))


def _no_data(config: Path | None) -> InputError:
    if config is None:
        return InputError("regraft train needs DATA", hint="regraft train --help")
    return InputError(
        "regraft train needs DATA: a configuration does not name any",
        hint="regraft train DATA --config config.yaml",
    )


@app.command(usage="Usage: regraft evaluate RUN DATA [OPTIONS]", sort_key=2)
def evaluate(
    run: Path,
    data: str,
    /,
    *,
    flags: Annotated[EvaluateFlags | None, Parameter(name="*")] = None,
) -> None:
    """Measure a trained classifier on labelled images; print the figures as JSON.

    Parameters
    ----------
    run
        Folder that `regraft train` wrote, or its bundle folder.
    data
        Labelled images, as for `regraft train`; if the data have parts, the test part is used.
    """
    tune_process()
    from regraft.cli.output import as_json
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands import evaluate as command

    write(as_json(command.evaluate(run, data, reporter=ConsoleReporter(), **given(flags))))


@app.command(usage="Usage: regraft predict RUN PATHS... [OPTIONS]", sort_key=3)
def predict(  # noqa: PLR0913 - a parameter for each flag
    run: Path,
    /,
    *paths: str,
    stdin: Annotated[bool, Parameter(negative=())] = False,
    csv: Annotated[Path | None, Parameter(metavar="PATH")] = None,
    keep_unknown: Annotated[str | None, Parameter(metavar="DIR")] = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    topk: Annotated[int, Parameter(metavar="K", validator=Number(gte=1))] = 1,
    engine: Engine = "torch",
    flags: Annotated[PredictFlags | None, Parameter(name="*")] = None,
) -> int:
    """Classify images; print one line per image, with the label and its probability.

    An image that cannot be used is named on stderr, and the exit code is then 1.

    Parameters
    ----------
    run
        Folder that `regraft train` wrote, or its bundle folder.
    paths
        Image files, folders, patterns such as `photos/*.jpg`, zip or tar files, and `-` for stdin:
        one image, or such paths, one per line.
    stdin
        The same as `-` among the paths.
    csv
        Write the predictions to this new file instead of lines. Names stay as they are: where one
        begins like a formula, import the columns as text into a spreadsheet.
    keep_unknown
        Copy images that are called unknown into this folder, named by a hash, with unknown.csv and
        unknown.png: clusters of them, from which a new class can be named.
    overwrite
        Replace the file that is already at --csv, or the table and picture in --keep-unknown.
    json
        Print one JSON object per line, of every image in order; with --csv, the file is written
        too.
    topk
        Number of most probable classes to print. [default: 1]
    engine
        torch computes from the bundle; onnx from the files that `regraft export` has written into
        the run: it starts in a fifth of the time, on the processor, with the levels of the export.
        [default: torch]
    """
    sources = [*paths, *(["-"] if stdin else [])]
    if not sources:
        raise InputError("regraft predict needs PATHS", hint="regraft predict --help")
    if overwrite and csv is None and keep_unknown is None:
        raise InputError("--overwrite is given without --csv", hint="--csv PATH --overwrite")
    with place_for_table(csv, overwrite=overwrite):
        tune_process()
        from regraft.cli.output import write_predictions
        from regraft.cli.progress import ConsoleReporter
        from regraft.commands import predict as command

        results = command.predict(
            run,
            sources,
            topk=topk,
            keep_unknown=keep_unknown,
            overwrite=overwrite,
            reporter=ConsoleReporter(),
            engine=engine,
            **given(flags),
        )
        return write_predictions(results, csv=csv, json=json, overwrite=overwrite)


app.command(drift, usage="Usage: regraft drift RUN PATHS... [OPTIONS]", sort_key=3.5)
app.command(export, usage="Usage: regraft export RUN [IMAGES...] [OPTIONS]", sort_key=3.7)


@app.command(usage="Usage: regraft show DATA [OPTIONS]", sort_key=4)
def show(
    data: str,
    /,
    *,
    out: Picture = None,
    augment: Augmentation = None,
    flags: Annotated[ShowFlags | None, Parameter(name="*")] = None,
) -> None:
    """Show labelled images: a picture of some, classes with their counts, sizes.

    Parameters
    ----------
    data
        As for `regraft train`.
    out
        New PNG file. [default: regraft-runs/show.png, replaced]
    augment
        Draw a few images as a test sees them, and as the first epochs of a training with this
        augmentation would see them.
    """
    tune_process()
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands import show as command

    write(spelled(command.show(data, out, augment, ConsoleReporter(), **given(flags))))


app.command(
    compare,
    usage="Usage: regraft compare RUN RUN... | DATA --models NAMES [OPTIONS]",
    sort_key=5,
)


@app.command(name="lr-find", usage="Usage: regraft lr-find DATA [OPTIONS]", sort_key=5)
def find_rate(
    data: str,
    /,
    *,
    out: Picture = None,
    config: ConfigFile = None,
    flags: Annotated[FindFlags | None, Parameter(name="*")] = None,
) -> None:
    """Suggest a learning rate: steps on the training part with a rising rate; trains nothing.

    Parameters
    ----------
    data
        As for `regraft train`.
    out
        New PNG file. [default: regraft-runs/lr-find.png, replaced]
    """
    settings = combine(config, flags)
    tune_process()
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands.find_rate import find_rate

    write(spelled(find_rate(data, settings, ConsoleReporter(), out=out).summary()))


app.command(race, usage="Usage: regraft race DATA [OPTIONS]", sort_key=5.5)


for each in (recipes_app, backbones_app):
    app.command(each)
app.command(datasets, usage="Usage: regraft datasets", sort_key=8)
app.command(cache_app)


@app.command(usage="Usage: regraft demo [--out PATH]", sort_key=10)
def demo(*, out: Annotated[Path, Parameter(metavar="PATH")] = Path("regraft-runs/demo")) -> None:
    """Train on scikit-learn's digits, compare, predict: under a minute, offline.

    Parameters
    ----------
    out
        Folder for the run and its pictures; the results of an earlier demo are replaced.
        [default: regraft-runs/demo]
    """
    tune_process()
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands.demo import run

    text = run(ConsoleReporter(), out)
    with complete_without_printing(out):
        write(text)


@app.command(usage="Usage: regraft doctor", sort_key=11)
def doctor() -> int:
    """Check this installation: what is installed, what is missing, what to do about it."""
    from regraft.cli.doctor import checks, report

    found = checks()
    write(report(found))
    return 0 if all(check.ok for check in found) else 1
