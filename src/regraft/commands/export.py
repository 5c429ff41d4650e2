"""``regraft export``: files that answer without regraft, with a proof that they answer the same."""

# ruff: noqa: PLC0415 - torch takes seconds to import

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft.commands.predictors import level_notes, load_predictor
from regraft.config.settings import some_settings
from regraft.core.files import read_regular
from regraft.core.notebook import html_table
from regraft.core.reporter import SILENT, Reporter
from regraft.core.text import counted
from regraft.decision.levels import chosen_levels
from regraft.errors import ConfigError, ExportError, RunError
from regraft.exports.options import ExportOptions
from regraft.runs.lock import write_errors_as_run_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.bundle.predictor import Predictor
    from regraft.decision.policy import Rules
    from regraft.exports.images import ProofImages
    from regraft.exports.web_runtime import Runtime


class _Exporting(NamedTuple):
    """What is exported: a predictor, and the thresholds of its decisions."""

    predictor: Predictor
    rules: Rules | None


class Exported(dict[str, Any]):
    """An exported folder with its proof: a dictionary that ``summary`` shows in words."""

    def summary(self) -> str:
        """Return what was written and what was measured, in lines for people."""
        return "\n".join([*(f"{name}: {text}" for name, text in self._figures())])

    def _figures(self) -> list[tuple[str, str]]:
        parity = self["parity"]
        labels = parity["labels"]
        agreed = (
            f"{counted(parity['n'])}, largest difference of a probability {parity['largest']:.2g}; "
            f"{labels['differ']:,} labels differ"
        )
        figures = [
            ("written", f"{self['folder']}, {self['bytes'] / 1e6:.1f} MB"),
            ("compared with the bundle", agreed),
        ]
        if parity["n_refused"]:
            refused = [f"{name} ({reason})" for name, reason in parity["refused"].items()]
            text = f"{counted(parity['n_refused'])}, such as {', '.join(refused[:3])}"
            figures.append(("read by the bundle alone", text))
        if parity["n_pixels_differ"]:
            text = f"{counted(parity['n_pixels_differ'])}, such as "
            figures.append(("decoded otherwise", text + ", ".join(parity["pixels_differ"][:3])))
        decisions, accuracy = parity["decisions"], parity["accuracy"]
        if decisions:
            differ = ", ".join(f"{name} {n:,}" for name, n in decisions["differ"].items())
            figures.append(("decisions that differ", differ))
        if accuracy:
            text = (
                "{exported:.4f}, of the bundle {bundle:.4f} (difference {difference:+.4f}, 95 %: "
                "{low:+.4f} to {high:+.4f}, n {n:,})"
            )
            figures.append(("test accuracy", text.format(**accuracy)))
        figures += [("note", note) for note in self["notes"]]
        if self["open"]:
            figures.append(("to look at it", self["open"]))
        return figures

    def _repr_html_(self) -> str:
        return html_table(f"exported: {self['folder']}", self._figures(), "")


def export(
    run: Path | str,
    images: Sequence[str] | str = (),
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> Exported:
    """Write a trained classifier as files that need neither regraft nor torch.

    Parameters
    ----------
    run : Path or str
        Run folder, or the bundle in it.
    images : str or sequence of str
        Images on which the files are compared with the bundle, as ``predict`` takes them; by
        default up to 2,000 of the run's own test part, filled up to 500 by the training part.
    out : Path or str, optional
        Folder for the files; by default ``export/onnx`` or ``export/web`` in the run folder. A file
        for a page in one file; by default ``export/web.html``.
    overwrite : bool
        Replace the export that is already there.
    reporter : Reporter
        Follows the work; silent by default.
    **settings
        Fields of ``ExportOptions``, and levels of the decisions instead of those of the training.

    Returns
    -------
    Exported
        A dictionary with ``folder``, ``bytes``, ``meta``, ``parity``, ``notes`` and ``open``, which
        says how to look at a page.

    Raises
    ------
    ExportError
        The files answer otherwise than the bundle, and are removed; or nothing can be written.
    RunError
        Something is at the place of the export, or the run's images are not there any more.
    """
    options = ExportOptions.taken_from(settings)
    config = some_settings(settings, "export").replace(device="cpu", precision="float32")
    place = _place(Path(run), out, options, overwrite=overwrite)
    from regraft.exports.onnx_file import require_onnx

    require_onnx()
    runtime = _runtime(options, reporter)
    predictor = load_predictor(run, config, settings)
    proof = _proof(Path(run), images, predictor)
    predictor, notes = _without_what_is_not_kept(predictor, options)
    rules = predictor.rules(**chosen_levels(settings))
    notes += level_notes(predictor, rules)
    for note in notes:
        reporter.say(note)
    with _made(place, single=options.single_file, overwrite=overwrite) as new:
        if runtime is None:
            meta, parity = _write(new, _Exporting(predictor, rules), options, proof, reporter)
        else:
            with tempfile.TemporaryDirectory() as work:
                exported = Path(work)
                meta, parity = _write(
                    exported, _Exporting(predictor, rules), options, proof, reporter
                )
                _write_page(new, exported, runtime, notes, options)
        size = sum(each.stat().st_size for each in new.rglob("*") if each.is_file())
    how = _how_to_open(place, options)
    return Exported(folder=str(place), bytes=size, meta=meta, parity=parity, notes=notes, open=how)


def _place(run: Path, out: Path | str | None, options: ExportOptions, *, overwrite: bool) -> Path:
    """Return the folder or the file to write; refuse, before any work, what is there already."""
    if not run.exists():
        raise RunError(f"{run} does not exist", hint="regraft train writes a run folder")
    if out is None and not (run / "bundle").is_dir():
        raise RunError(f"{run} is no run folder", hint="`out` names a place for the export")
    single = options.single_file
    name = "web.html" if single else options.to
    place = run / "export" / name if out is None else Path(out)
    if single and place.suffix.lower() not in {".html", ".htm"}:
        raise ConfigError(
            f"`out` is {place}; a page in one file needs a name that ends in .html",
            hint=f"`out` names a file, such as {place.name or 'page'}.html",
        )
    if os.path.lexists(place) and not (overwrite and _is_export(place)):
        hint = f"`out` names another {'file' if single else 'folder'}"
        if _is_export(place):
            hint += "; `overwrite=True` replaces it"
        raise RunError(f"{place} exists; it is left alone", hint=hint)
    return place


def _is_export(place: Path) -> bool:
    """Return whether a place holds what this command has written."""
    if place.is_file():
        from regraft.exports.web_page import MARK

        return MARK.encode() in read_regular(place, 0, first=2000)
    models = ("model.onnx", "model.onnx.gz")
    return (place / "meta.json").is_file() and any((place / each).is_file() for each in models)


def _runtime(options: ExportOptions, reporter: Reporter) -> Runtime | None:
    """Return what a page computes with, before any other work; None for files that are no page."""
    if options.to != "web":
        return None
    from regraft.exports.web_runtime import get_runtime

    return get_runtime(None if options.runtime is None else Path(options.runtime), reporter)


def _how_to_open(place: Path, options: ExportOptions) -> str | None:
    """Return in words how to look at a page."""
    if options.to != "web":
        return None
    if options.single_file:
        return f"open {place} in a browser"
    return (
        f"python -m http.server --directory {shlex.quote(str(place))}, then http://localhost:8000"
    )


def _proof(run: Path, images: Sequence[str] | str, predictor: Predictor) -> ProofImages:
    from regraft.exports.images import images_given, images_of_run

    paths = [images] if isinstance(images, str) else list(images)
    if paths:
        return images_given(paths)
    if not (run / "metrics.json").is_file():
        raise RunError(
            f"{run} is no run folder: its images are not known",
            hint="give images to compare on: regraft export RUN IMAGES; labels are not needed",
        )
    return images_of_run(run, predictor.classes)


def _without_what_is_not_kept(
    predictor: Predictor, options: ExportOptions
) -> tuple[Predictor, list[str]]:
    """Return the predictor as it is exported, and notes about what is left out."""
    from regraft.exports.keep import without_bank, without_typicality

    notes: list[str] = []
    if not options.bank:
        predictor, notes = without_bank(predictor)
    if options.weights == "int8":
        predictor, more = without_typicality(predictor)
        notes += more
    return predictor, notes


@contextmanager
def _made(place: Path, *, single: bool, overwrite: bool) -> Iterator[Path]:
    """Make a folder beside the place, which takes it once the work is done; else it is removed.

    If the export is a ``single`` file, the place takes that instead.
    """
    with write_errors_as_run_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        new.chmod(0o755)
        yield new
        made = next(new.iterdir()) if single else new
        with write_errors_as_run_errors(place):
            if overwrite and _is_export(place):
                old = new.with_name(f"{new.name}.old")
                place.rename(old)
                made.rename(place)
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            else:
                made.rename(place)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_page(
    new: Path, exported: Path, runtime: Runtime, notes: Sequence[str], options: ExportOptions
) -> None:
    """Write the page of an exported folder into a folder that exists."""
    from regraft.exports import folder, web_page

    meta, parity = (
        json.loads((exported / name).read_bytes()) for name in (folder.META, folder.PARITY)
    )
    model = (exported / folder.MODEL).read_bytes()
    page = web_page.Page(meta, parity, notes, model, runtime)
    if options.single_file:
        web_page.write_single(page, new / web_page.INDEX)
    else:
        web_page.write_folder(page, new)


def _write(
    new: Path, answers: _Exporting, options: ExportOptions, proof: ProofImages, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files and compare them; raise ExportError where they answer otherwise."""
    from regraft.exports import folder, parity
    from regraft.exports.compare import compare
    from regraft.exports.onnx_file import make_onnx
    from regraft.exports.resize import with_resize
    from regraft.exports.smaller import with_weights

    with reporter.track("export", 1) as advance:
        proto = with_weights(make_onnx(answers.predictor.model, answers.rules), options.weights)
        models = {folder.MODEL: proto.SerializeToString()}
        meta = folder.meta_of(*answers, models[folder.MODEL], options.weights)
        if options.with_resize:
            whole = with_resize(proto, answers.predictor.model)
            models[folder.WITH_RESIZE] = whole.SerializeToString()
            meta["with_resize"] = folder.WITH_RESIZE
        folder.write_folder(new, meta, models)
        advance(1)
    with reporter.track("compare", len(proof.indices)) as advance:
        found = compare(new, *answers, proof.each(), advance)
    record = parity.judge(found, answers.rules, options.weights)
    if record["fault"]:
        raise ExportError(
            f"the exported files answer otherwise than the bundle, and are removed: "
            f"{record['fault']}",
            hint=parity.where(record),
        )
    folder.write_json(new / folder.PARITY, record)
    (new / "README.md").write_text(folder.describe(meta, record), encoding="utf-8")
    return meta, record
