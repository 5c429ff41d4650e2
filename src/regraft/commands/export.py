"""``regraft export``: files that answer without regraft, with a proof that they answer the same."""

# ruff: noqa: PLC0415 - torch takes seconds to import

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft.commands.predictors import level_notes, load_predictor
from regraft.config.settings import some_settings
from regraft.core.notebook import html_table
from regraft.core.reporter import SILENT, Reporter
from regraft.core.text import counted
from regraft.decision.levels import chosen_levels
from regraft.errors import ExportError, RunError
from regraft.export.options import ExportOptions
from regraft.runs.lock import write_errors_as_run_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from regraft.bundle.predictor import Predictor
    from regraft.decision.policy import Rules
    from regraft.export.images import ProofImages


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
        parity, meta = self["parity"], self["meta"]
        labels = parity["labels"]
        agreed = (
            f"{counted(parity['n'])}, largest difference of a probability {parity['largest']:.2g}; "
            f"{labels['differ']:,} labels differ"
        )
        figures = [
            ("written", f"{self['folder']}, {meta['model']['bytes'] / 1e6:.1f} MB"),
            ("compared with the bundle", agreed),
        ]
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
        Folder for the files; by default ``export/onnx`` in the run folder.
    overwrite : bool
        Replace the export that is already there.
    reporter : Reporter
        Follows the work; silent by default.
    **settings
        Fields of ``ExportOptions``, and levels of the decisions instead of those of the training.

    Returns
    -------
    Exported
        A dictionary with ``folder``, ``meta``, ``parity`` and ``notes``.

    Raises
    ------
    ExportError
        The files answer otherwise than the bundle, and are removed; or nothing can be written.
    RunError
        Something is at the place of the export, or the run's images are not there any more.
    """
    options = ExportOptions.taken_from(settings)
    config = some_settings(settings, "export").replace(device="cpu", precision="float32")
    folder = _place(Path(run), out, options.to, overwrite=overwrite)
    from regraft.export.onnx_file import require_onnx

    require_onnx()
    predictor = load_predictor(run, config, settings)
    proof = _proof(Path(run), images, predictor)
    predictor, notes = _without_what_is_not_kept(predictor, options)
    rules = predictor.rules(**chosen_levels(settings))
    notes += level_notes(predictor, rules)
    for note in notes:
        reporter.say(note)
    with _made(folder, overwrite=overwrite) as new:
        meta, parity = _write(new, _Exporting(predictor, rules), options, proof, reporter)
    return Exported(folder=str(folder), meta=meta, parity=parity, notes=notes)


def _place(run: Path, out: Path | str | None, to: str, *, overwrite: bool) -> Path:
    """Return the folder to write; refuse, before any work, what is there already."""
    if out is None and not (run / "bundle").is_dir():
        raise RunError(f"{run} is no run folder", hint="`out` names a folder for the export")
    folder = run / "export" / to if out is None else Path(out)
    if os.path.lexists(folder) and not (overwrite and _is_export(folder)):
        hint = "`out` names another folder"
        if _is_export(folder):
            hint += "; `overwrite=True` replaces it"
        raise RunError(f"{folder} exists; it is left alone", hint=hint)
    return folder


def _is_export(folder: Path) -> bool:
    return (folder / "meta.json").is_file() and (folder / "model.onnx").is_file()


def _proof(run: Path, images: Sequence[str] | str, predictor: Predictor) -> ProofImages:
    from regraft.export.images import images_given, images_of_run

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
    from regraft.export.keep import without_bank, without_typicality

    notes: list[str] = []
    if not options.bank:
        predictor, notes = without_bank(predictor)
    if options.quantize == "int8":
        predictor, more = without_typicality(predictor)
        notes += more
    return predictor, notes


@contextmanager
def _made(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Make a folder beside the place, which takes it once the work is done; else it is removed."""
    with write_errors_as_run_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        new.chmod(0o755)
        yield new
        with write_errors_as_run_errors(folder):
            if overwrite and _is_export(folder):
                old = new.with_name(f"{new.name}.old")
                folder.rename(old)
                new.rename(folder)
                shutil.rmtree(old)
            else:
                new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write(
    new: Path, answers: _Exporting, options: ExportOptions, proof: ProofImages, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files and compare them; raise ExportError where they answer otherwise."""
    from regraft.export import folder, parity
    from regraft.export.onnx_file import make_onnx
    from regraft.export.smaller import with_weights

    with reporter.track("export", 1) as advance:
        proto = make_onnx(answers.predictor.model, answers.rules)
        model = with_weights(proto, options.weights).SerializeToString()
        meta = folder.meta_of(*answers, model, options.weights)
        folder.write_folder(new, meta, model)
        advance(1)
    with reporter.track("compare", len(proof.indices)) as advance:
        found = parity.compare(new, *answers, proof.each(), advance)
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
