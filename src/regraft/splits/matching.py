"""The part of some data that a trained run can be measured on: known classes, unseen images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import listed, nearest
from regraft.errors import DataError, RunError
from regraft.splits.split_csv import fitted_hashes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.data.samples import Samples

_SHOWN = 100


def match_classes(samples: Samples, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return each sample's label as an index into a run's classes, matched by name.

    Raises
    ------
    DataError
        Where a class has a name that the run does not know; it lists them.
    """
    known = {name: index for index, name in enumerate(classes)}
    unknown = [name for name in samples.classes if name not in known]
    if unknown:
        raise DataError(
            f"{len(unknown)} of the data's {len(samples.classes)} classes are unknown to the run: "
            f"{listed([_with_nearest(name, classes) for name in unknown], _SHOWN)}",
            hint=f"classes are matched by name; the run knows {listed(classes, _SHOWN)}",
        )
    return np.asarray([known[name] for name in samples.classes], dtype=np.int64)[samples.labels]


def _with_nearest(name: str, classes: tuple[str, ...]) -> str:
    """Return a name, with the known name that may be meant.

    Examples
    --------
    >>> _with_nearest("Tullip", ("rose", "tulip")), _with_nearest("ten", ("1", "10"))
    ('Tullip (tulip?)', 'ten')
    """
    near = nearest(name, classes[:_SHOWN], most=1, cutoff=0.8)
    return f"{name} ({near[0]}?)" if near else name


def missing_classes(labels: NDArray[np.int64], classes: tuple[str, ...]) -> list[str]:
    """Return a note that names the run's classes without a measured image; none, if all have one.

    Examples
    --------
    >>> missing_classes(np.array([0, 0, 2]), ("daisy", "rose", "tulip"))
    ["no image of 1 of the run's 3 classes: rose; macro figures are of the others"]
    """
    counts = np.bincount(labels, minlength=len(classes))
    names = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not names:
        return []
    what = (
        f"no image of {len(names):,} of the run's {len(classes):,} classes: {listed(names, _SHOWN)}"
    )
    return [f"{what}; macro figures are of the others"]


def choose_unseen(samples: Samples, run: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Return the samples to measure, and notes: the test part if there is one, nothing fitted on.

    ``run`` is a run folder, or the bundle in it; its split.csv has the hashes of the images that
    the run was fitted on.

    Raises
    ------
    RunError
        Where nothing is left to measure.
    """
    notes = []
    chosen = range(len(samples))
    if "test" in samples.parts:
        chosen = [index for index in chosen if samples.parts[index] == "test"]  # type: ignore[assignment]
        notes.append(f"measured on the test part of the data: {len(chosen):,} images")
    home = run.parent if (run / "manifest.json").exists() else run  # of a bundle, its run
    seen = fitted_hashes(home / "split.csv")
    if seen is None:
        notes.append(f"{run} has no split.csv: whether these images were trained on cannot be told")
        seen = frozenset()
    unseen = [index for index in chosen if samples.hashes[index] not in seen]
    if len(unseen) < len(chosen):
        notes.append(f"{len(chosen) - len(unseen):,} images that the run was fitted on left out")
    if not unseen:
        raise RunError(
            f"{run} was fitted on every image of {samples.source.location}",
            hint="its own test result is in metrics.json",
        )
    return np.asarray(unseen, dtype=np.int64), notes
