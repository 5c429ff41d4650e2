"""`regraft export`: files that answer without regraft."""

# ruff: noqa: PLC0415 - as in main.py

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from regraft.cli.options import ExportFlags, given
from regraft.cli.spelling import spelled
from regraft.cli.streams import complete_without_printing, write
from regraft.cli.tuning import tune_process

To = Annotated[Literal["onnx", "web"], Parameter(metavar="onnx|web", show_choices=False)]
Quantize = Annotated[
    Literal["auto", "none", "float16", "int8"],
    Parameter(metavar="none|float16|int8", show_choices=False),
]


def export(  # noqa: PLR0913 - a parameter for each flag
    run: Path,
    /,
    *images: str,
    to: To = "onnx",
    quantize: Quantize = "auto",
    bank: bool = True,
    with_resize: Annotated[bool, Parameter(negative=())] = False,
    single_file: Annotated[bool, Parameter(negative=())] = False,
    runtime: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    out: Annotated[Path | None, Parameter(metavar="PATH")] = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    flags: Annotated[ExportFlags | None, Parameter(name="*")] = None,
) -> None:
    """Write a trained classifier as files that need neither regraft nor torch.

    The files answer for up to 2,000 images of the run, its test part first, in a process of their
    own. Where they answer otherwise than the bundle, they are removed, and the exit code is 1.

    Parameters
    ----------
    run
        Folder that `regraft train` wrote, or its bundle folder.
    images
        Compare on these instead: files, folders, patterns, zip or tar files, without labels.
    to
        onnx: model.onnx, and predict.py, which needs numpy, Pillow and onnxruntime alone.
        web: a page for any static web server; images stay in the visitor's browser.
        [default: onnx]
    quantize
        Store large tables of weights as float16 (half the size) or int8 (about a quarter); the
        arithmetic is float32. With int8 no image is called unknown.
        [default: none for onnx, int8 for web]
    bank
        Keep features of training images in the files, to tell how unlike an image is; who has the
        files can then ask whether an image was in the training. [default: yes]
    with_resize
        Write a second file, whose input is a decoded image of any size: for programs that cannot
        resize as preprocess.py does.
    single_file
        With `--to web`: one HTML file that opens from disk.
    runtime
        With `--to web`: the npm package of onnxruntime-web, if it cannot be downloaded here.
    out
        Place for the files. [default: export/onnx, export/web or export/web.html in the run folder]
    overwrite
        Replace the export that is already there.
    json
        Print one JSON object instead of lines.
    """
    tune_process()
    from regraft.cli.output import as_json
    from regraft.cli.progress import ConsoleReporter
    from regraft.commands import export as command

    found = command.export(
        run,
        images,
        to=to,
        quantize=quantize,
        bank=bank,
        with_resize=with_resize,
        single_file=single_file,
        runtime=runtime,
        out=out,
        overwrite=overwrite,
        reporter=ConsoleReporter(),
        **given(flags),
    )
    with complete_without_printing(Path(found["folder"])):
        write(as_json(found) if json else spelled(found.summary()))
