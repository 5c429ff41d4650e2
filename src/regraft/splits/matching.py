"""The images of some data on which a run can be measured: known classes, unseen images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from regraft.core.text import counted, listed, nearest
from regraft.errors import DataError, RunError
from regraft.splits.split_csv import fitted_hashes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.data.samples import Samples

_SHOWN = 100


def match_classes(samples: Samples, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return each sample's label (N,) as an index into a run's classes, matched by name.

    Raises DataError with the names of classes that the run does not have.
    """
    known = {name: index for index, name in enumerate(classes)}
    unknown = [name for name in samples.classes if name not in known]
    if unknown:
        raise DataError(
            f"{len(unknown)} of the data's {len(samples.classes)} classes are unknown to the run: "
            f"{listed([_with_nearest(name, classes) for name in unknown], _SHOWN)}",
            hint=f"classes are matched by name; the run knows {listed(classes, _SHOWN)}; "
            f"`exclude={unknown[0]!r}` leaves one out",
        )
    return np.asarray([known[name] for name in samples.classes], dtype=np.int64)[samples.labels]


def _with_nearest(name: str, classes: tuple[str, ...]) -> str:
    """Return a name, with the most similar known name.

    Examples
    --------
    >>> _with_nearest("Tullip", ("rose", "tulip")), _with_nearest("ten", ("1", "10"))
    ('Tullip (tulip?)', 'ten')
    """
    near = nearest(name, classes[:_SHOWN], cutoff=0.8)
    return f"{name} ({near[0]}?)" if near else name


def missing_classes(labels: NDArray[np.int64], classes: tuple[str, ...]) -> list[str]:
    """Return a note that names the run's classes without an image; empty if all have one.

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
    """Return the samples to measure, and notes: all or the test part, without images fitted on.

    ``run`` is a run folder, or the bundle in it; its split.csv has the hashes of the images that
    the run was fitted on. Raises RunError if no image is left.
    """
    notes = []
    chosen = list(range(len(samples)))
    if "test" in samples.parts:
        chosen = [index for index in chosen if samples.parts[index] == "test"]
        notes.append(f"measured on the test part of the data: {len(chosen):,} images")
    folder = run.parent if (run / "manifest.json").exists() else run  # a bundle is in its run
    seen = fitted_hashes(folder / "split.csv")
    if seen is None:
        notes.append(f"{run} has no split.csv: some of these images may have been trained on")
        seen = frozenset()
    unseen = [index for index in chosen if samples.hashes[index] not in seen]
    if len(unseen) < len(chosen):
        n_seen = len(chosen) - len(unseen)
        notes.append(f"left out, since the run was fitted on them: {counted(n_seen)}")
    if not unseen:
        raise RunError(
            f"{run} was fitted on every image of {samples.source.location}",
            hint="the run's test result is in its metrics.json",
        )
    return np.asarray(unseen, dtype=np.int64), notes
