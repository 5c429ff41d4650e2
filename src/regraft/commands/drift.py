"""``regraft drift``: images without labels compared with those of the training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regraft.commands.predictors import import_predictor, load_predictor
from regraft.config.settings import some_settings
from regraft.core.background import in_background
from regraft.core.csv_text import warn_of_formulas
from regraft.core.machine import n_threads
from regraft.core.notebook import html_table
from regraft.core.reporter import SILENT, Reporter
from regraft.core.text import columns, counted, listed
from regraft.data.ledger import LedgerEntry
from regraft.data.losses import check_share
from regraft.data.sources.options import with_groups
from regraft.data.sources.recorded import Recorded
from regraft.data.sources.unlabelled import open_unlabelled
from regraft.decision.drift import compare_shares, compare_typicality
from regraft.decision.levels import chosen_levels, levels_with
from regraft.errors import ConfigError, DataError, ImageError
from regraft.evaluation.metrics import share_estimate
from regraft.images.ahead import decode_ahead
from regraft.images.decode import hash_payload
from regraft.images.pixels import shrunk
from regraft.runs.names import check_folder, made_folder, write_table
from regraft.splits.clusters import joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from regraft.bundle.prediction import Prediction
    from regraft.bundle.predictor import Predictor
    from regraft.data.samples import Source
    from regraft.decision.policy import Decisions, Rules

TABLE, PICTURE = "drift.csv", "drift.png"
_HINT = "`out` names another folder; `overwrite=True` replaces table and picture"
COLUMNS = ("id", "unit", "typicality", "unknown", "predicted", "probability", "error")
#: Of the object that ``--json`` prints; a reader of this version may ignore further fields.
DRIFT_VERSION = 1
#: Units with which a test can say anything: of the training, for a p-value of 0.05, and new ones.
LEAST_SCORES, LEAST_UNITS = 19, 5
#: Images with a p-value of at most this do not count for the shares: they are of no class.
_STRANGE = 0.01
_SHOWN, _SIDE = 25, 384  # images in the picture, pixels of each
_NAMED = 5
_LONGEST_NAME = 60  # columns of a class in the table


class Drift(dict[str, Any]):
    """What was compared: a dictionary that ``summary`` and a notebook show in words."""

    def summary(self) -> str:
        """Return what was found, in lines for people."""
        classes = self["shares"]["classes"]
        header = ["predicted", "in training", "here", "images"]
        rows = [
            [
                each["class"][:_LONGEST_NAME],
                f"{each['training']:.3f}",
                f"{each['found']:.3f}",
                f"{each['n']:,}",
            ]
            for each in classes
        ]
        lines = [f"{name}: {text}" if name else text for name, text in self._figures()]
        return "\n".join([*lines, columns(header, rows, right={1, 2, 3})])

    def _figures(self) -> list[tuple[str, str]]:
        data, typicality, shares = self["data"], self["typicality"], self["shares"]
        counts = f"{counted(data['images'])}, {data['units']:,} of them counted"
        figures = [("", f"{counts}: copies, and images of a group, count once")]
        if data["refused"]:
            names = [f"{each['id']} ({each['error']})" for each in data["refused"]]
            total = data["images"] + len(names)
            text = f"{len(names):,} of {counted(total)}: {listed(names, _NAMED)}"
            figures.insert(0, ("not read", text))
        meaning = "small: less typical than the training images"
        figures.append(("typicality", f"p {typicality['p_value']:.4f} ({meaning})"))
        unknown = typicality["unknown"]
        if unknown is not None:
            share = "{value:.3f} (95 %: {low:.3f} to {high:.3f})".format(**unknown["share"])
            figures.append(("called unknown", f"{share}, {unknown['level']:g} aimed at"))
        meaning = (
            "small: some classes are more frequent than in the training, which need not be bad"
        )
        among = f"among {counted(shares['n'])} with a p-value above {_STRANGE:g}"
        told = shares["reason"] or f"p {shares['p_value']:.4f} {among} ({meaning})"
        figures.append(("shares of the predicted classes", told))
        return figures

    def _repr_html_(self) -> str:
        figures = [(name or "images", text) for name, text in self._figures()]
        return html_table(f"{self['run']} and {self['data']['source']}", figures, "")


def drift(
    run: Path | str,
    paths: Sequence[str] | str,
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> Drift:
    """Compare images without labels with those of the training.

    Parameters
    ----------
    run : Path or str
        Run folder, or the bundle in it.
    paths : str or sequence of str
        Files, folders, patterns, zip or tar files.
    out : Path or str, optional
        Folder for drift.csv, with a row for each image, and drift.png, the least typical ones.
    overwrite : bool
        Replace the table and the picture that are already there.
    reporter : Reporter
        Follows the work; silent by default.
    **settings
        Fields of TrainConfig that say how images are read, computed and grouped.

    Returns
    -------
    Drift
        A dictionary with ``typicality`` and ``shares``, each with its ``p_value``.

    Raises
    ------
    ConfigError
        The bundle does not tell how unlike an image is, or by too few images.
    DataError
        There are too few images, or too many cannot be read.
    """
    given = [str(paths)] if isinstance(paths, str | Path) else list(paths)
    folder = None
    if out is not None:
        folder = check_folder(out, (TABLE, PICTURE), given, _HINT, overwrite=overwrite)
    with in_background(import_predictor) as importing:
        config = some_settings(settings, "drift")
        source = with_groups(open_unlabelled(given, without=folder), config.group_by)
    for note in source.notes:
        reporter.say(note)
    importing.result()
    predictor = load_predictor(run, config, settings)
    levels = chosen_levels(settings)
    decisions, rules, n_scores = _required(predictor, levels)
    with made_folder(folder):
        seen = _Seen.of(predictor, source, n_threads(config.workers), levels)
        refused = seen.refused(source)
        check_share(refused, len(seen.read) + len(refused), config.max_refused)
        if len(seen.units) < LEAST_UNITS:
            raise DataError(
                f"drift needs {LEAST_UNITS} images that do not depend on each other, "
                f"there {'is' if len(seen.units) == 1 else 'are'} {len(seen.units)}"
            )
        typicality = {
            "p_value": compare_typicality(seen.p_values[seen.units], n_scores),
            "unknown": _unknown(seen, rules),
        }
        data = {
            "source": source.location,
            "images": len(seen.read),
            "units": len(seen.units),
            "refused": [
                {"id": each.path, "error": f"{each.kind}: {each.reason}"} for each in refused
            ],
        }
        shares = _shares(seen, decisions, predictor.classes)
        found = Drift({"schema_version": DRIFT_VERSION, "run": str(run), "data": data,
                       "typicality": typicality, "shares": shares})  # fmt: skip
        if folder is not None:
            limit = predictor.max_pixels
            _write(folder, seen, source, limit, config.workers, overwrite=overwrite)
            reporter.say(f"{folder / PICTURE}, {folder / TABLE}")
    return found


def _required(predictor: Predictor, levels: Any) -> tuple[Decisions, Rules, int]:
    """Return what the bundle can tell; refuse one that cannot tell enough."""
    decisions = predictor.decisions
    if decisions is None or decisions.typicality is None:
        raise ConfigError(
            "drift needs a bundle that tells how unlike an image is, and this does not",
            hint="train again, with more images if they were few: bundles of this version do",
        )
    n = len(decisions.typicality.scores)
    if n < LEAST_SCORES:
        raise ConfigError(
            f"drift needs {LEAST_SCORES} images of the training that do not depend on each other, "
            f"there are {n}"
        )
    asked = levels_with(decisions.levels, predictor.classes, levels)
    return decisions, decisions.rules(len(predictor.classes), asked), n


class _Seen(NamedTuple):
    """What was said of all images; those that could be read have a row in the arrays."""

    all: list[Prediction]
    read: NDArray[np.int64]  # (R,), their places in ``all``
    p_values: NDArray[np.float64]  # (R,)
    unit_of: NDArray[np.int64]  # (R,)
    units: NDArray[np.int64]  # (U,), the row that stands for each unit

    def refused(self, source: Source) -> list[LedgerEntry]:
        """Return what could not be read."""
        errors = [(each.id, each.error) for each in self.all if each.error is not None]
        return [
            *(each for each in source.refused if each.status == "refused"),
            *(LedgerEntry(name, "refused", error.kind, error.reason) for name, error in errors),
        ]

    @classmethod
    def of(cls, predictor: Predictor, source: Source, workers: int, levels: Any) -> _Seen:
        recorded = Recorded(source, hash_payload)
        every: list[Prediction] = []
        digests, read = [], []
        answers = predictor.stream(recorded.source, workers=workers, top_k=1, **levels)
        for index, answer in enumerate(answers):
            digest = recorded.take(index)
            if answer.error is None and digest is not None:
                read.append(index)
                digests.append(digest)
            every.append(dataclasses.replace(answer, probabilities=np.empty(0, np.float32)))
        groups = [source.entries[index].group for index in read]
        unit_of = _units(digests, groups)
        # Any one of a unit: the one with the smallest hash, whatever its name.
        order = np.array(sorted(range(len(digests)), key=digests.__getitem__), dtype=np.int64)
        units = np.sort(order[np.unique(unit_of[order], return_index=True)[1]])
        return cls(
            every,
            np.array(read, dtype=np.int64),
            np.array([every[index].typicality for index in read], dtype=np.float64),
            unit_of,
            units,
        )


def _units(digests: Sequence[bytes], groups: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the unit of each image: images of the same bytes or of one group are in one."""
    contents: dict[bytes, int] = {}
    numbers = np.array([contents.setdefault(d, len(contents)) for d in digests], dtype=np.int64)
    first: dict[str, int] = {}
    pairs = [
        (first.setdefault(group, at), at) for at, group in enumerate(groups) if group is not None
    ]
    return joined(numbers, pairs)


def _unknown(seen: _Seen, rules: Rules) -> dict[str, Any] | None:
    if rules.level is None:
        return None
    n_unknown = int((seen.p_values[seen.units] <= rules.level).sum())
    return {"level": rules.level, "share": share_estimate(n_unknown, len(seen.units), "no image")}


def _shares(seen: _Seen, decisions: Decisions, names: Sequence[str]) -> dict[str, Any]:
    """Return shares of classes among units that are not strange, beside those of the training."""
    known = decisions.answers.answered
    usual = seen.units[seen.p_values[seen.units] > _STRANGE]
    number = {name: k for k, name in enumerate(names)}
    new = np.array([number[seen.all[at].label] for at in seen.read[usual].tolist()], dtype=np.int64)
    p_value, reason = None, None
    if len(new) < LEAST_UNITS or not len(known):
        reason = f"not compared: {counted(len(new), 'unit')} with a p-value above {_STRANGE:g}"
    else:
        p_value = compare_shares(new, known, len(names)).p_value
    counts = [np.bincount(each, minlength=len(names)) for each in (known, new)]
    training, found = (count / max(count.sum(), 1) for count in counts)
    each = zip(names, training.tolist(), found.tolist(), counts[1].tolist(), strict=True)
    return {
        "p_value": p_value,
        "reason": reason,
        "n": len(new),
        "classes": [
            {"class": name, "training": share, "found": here, "n": count}
            for name, share, here, count in each
        ],
    }


# --- files ----------------------------------------------------------------------------------------


def _write(
    out: Path, seen: _Seen, source: Source, max_pixels: int, workers: int, *, overwrite: bool
) -> None:
    units = dict(zip(seen.read.tolist(), seen.unit_of.tolist(), strict=True))
    table: list[list[object]] = [[*COLUMNS]]
    for index, answer in enumerate(seen.all):
        if answer.error is not None:
            table.append([answer.id, "", "", "", "", "", str(answer.error)])
            continue
        unknown = "" if answer.unknown is None else str(answer.unknown).lower()
        told = [answer.typicality, unknown, answer.label, answer.probability]
        table.append([answer.id, units[index] + 1, *told, ""])
    path = out / TABLE
    write_table(path, table, _HINT, overwrite=overwrite)
    warn_of_formulas(str(path), (cell for row in table[1:] for cell in row))
    from regraft.plots.grid import Item, draw_grid  # noqa: PLC0415 - imports matplotlib

    strangest = seen.units[np.argsort(seen.p_values[seen.units], kind="stable")][:_SHOWN]
    places = seen.read[strangest].tolist()
    pictures = dict(_pictures(source, sorted(places), max_pixels, n_threads(workers)))
    items = []
    for at in places:
        answer, picture = seen.all[at], pictures[at]
        image = None if isinstance(picture, ImageError) else picture
        words = f"{'unknown' if answer.unknown else answer.label}, p {answer.typicality:.2g}"
        reason = picture.reason if isinstance(picture, ImageError) else ""
        items.append(Item(image, None, words, None, answer.id, reason))
    some = "" if len(items) == len(seen.units) else f"{len(items)} of "
    title = f"{some}{counted(len(seen.units))}, the least typical first"
    n_unknown = sum(bool(seen.all[at].unknown) for at in seen.read[seen.units].tolist())
    if n_unknown:
        title += f"; {n_unknown:,} {'is' if n_unknown == 1 else 'are'} called unknown"
    draw_grid(out / PICTURE, items, title)


def _pictures(
    source: Source, places: Sequence[int], max_pixels: int, threads: int
) -> Iterator[tuple[int, NDArray[np.uint8] | ImageError]]:
    for index, image in decode_ahead(source.stream(places), threads, max_pixels):
        yield index, image if isinstance(image, ImageError) else shrunk(image, _SIDE)
