"""Hostile bundles: each ends in a BundleError, or in a working model that passed its golden images.

Nothing else may happen: no other error, no lost process, no file outside the bundle opened, no
package imported, no process started, no socket made, no pickle obeyed, no 200 MB more of memory, no
five seconds (``hunting`` and ``guard`` watch).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from attacks.bundle_draft import CANARY_MODULE, Draft, read_sound
from attacks.bundle_mutations import MUTATIONS, Kinds, mutate
from attacks.guard import ForbiddenError, Guard
from attacks.hunting import Report, hunt
from regraft.bundle.predictor import Predictor
from regraft.errors import BundleError, visible
from tiny_bundles import tiny_model, write_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

SOUND = ("linear", "knn", "views")
PIXELS = np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3).astype(np.uint8)


def run(count: int, seed: int, first: int = 0) -> Report:
    """Attack with so many hostile bundles of a seed.

    Parameters
    ----------
    count, seed, first : int
        Which ones: numbers ``first`` to ``first + count - 1``.

    Returns
    -------
    Report
    """
    with prepared() as folder:
        return hunt(partial(attack, folder), count, seed, first)


@contextmanager
def prepared() -> Iterator[Path]:
    """Make a folder with sound bundles, and one beside them that nothing must touch."""
    with tempfile.TemporaryDirectory(prefix="regraft-attack-") as name:
        folder = Path(name)
        outside = folder / "outside"
        outside.mkdir()
        (outside / "secret").write_text("nobody reads this", encoding="utf-8")
        marks = f"open({str(outside / 'imported')!r}, 'w').close()\n"
        (outside / f"{CANARY_MODULE}.py").write_text(marks, encoding="utf-8")
        write_tiny(folder / "linear", tiny_model())
        write_tiny(folder / "knn", tiny_model("knn", taps="last"))
        write_tiny(folder / "views", tiny_model(views=2))
        yield folder


class _Place:
    """The one folder of this process into which hostile bundles are written, one after another."""

    def __init__(self, folder: Path) -> None:
        self.outside = folder / "outside"
        self.sound = [read_sound(folder / name, self.outside) for name in SOUND]
        self.guard = Guard()
        self.bundle = Path(tempfile.mkdtemp(dir=folder), "bundle")
        self.canaries = {path.name for path in self.outside.iterdir()}
        self._written: dict[str, bytes] = {}

    def write(self, draft: Draft) -> None:
        """Write what differs from what is there."""
        (self.bundle / "golden").mkdir(parents=True, exist_ok=True)
        for name, data in draft.files.items():
            if self._written.get(name) is not data:
                (self.bundle / name).write_bytes(data)
                self._written[name] = data
        (self.bundle / "manifest.json").write_bytes(draft.encoded())
        for act in draft.disk:
            with suppress(OSError):  # the second of two may find nothing left to replace
                act(self.bundle)

    def clear(self, draft: Draft) -> None:
        """Take away what the next one must not find."""
        if draft.disk:
            shutil.rmtree(self.bundle)
            self._written = {}


@cache
def _place(folder: Path) -> _Place:
    torch.set_num_threads(1)
    sys.path.append(str(folder / "outside"))
    return _Place(folder)


def attack(folder: Path, seed: int, number: int, kinds: Kinds = MUTATIONS) -> str:
    """Load one hostile bundle; number -1 loads the sound ones, unwatched: first uses import.

    Parameters
    ----------
    folder : Path
        As ``prepared`` made it.
    seed, number : int
        Which one.
    kinds : dict
        Mutations to draw from, with their weights.

    Returns
    -------
    str
        "works", or "refused" with the file that is named.
    """
    place = _place(folder)
    if number < 0:
        for draft in place.sound:
            place.write(draft)
            assert _load(place) == "works"
        return "works"
    draft = mutate(seed, number, place.sound, kinds)
    place.write(draft)
    try:
        with suppress(ForbiddenError), place.guard.watching(place.bundle):
            outcome = _load(place)
    finally:
        place.clear(draft)
    assert not place.guard.seen, f"{draft.kinds}: {place.guard.seen}"
    assert {path.name for path in place.outside.iterdir()} == place.canaries, (
        f"{draft.kinds}: a canary sang"
    )
    return outcome


def _load(place: _Place) -> str:
    try:
        predictor = Predictor.load(place.bundle, device="cpu")
        (answer,) = predictor.predict_many([PIXELS])
    except BundleError as error:
        return _refused(error)
    if answer.error is not None:
        assert answer.error.kind in {"not finite", "too many pixels"}, answer.error
        return "works, and refuses an image"
    assert answer.label in predictor.classes
    assert abs(answer.probabilities.sum() - 1) < 1e-4
    return "works"


def _refused(error: BundleError) -> str:
    text = str(error)
    assert len(text) < 2000, f"{len(text)} characters: {text[:200]}"
    assert visible(text) == text, "control characters in the message"
    with suppress(StopIteration):
        names = ("manifest.json", ".safetensors", "golden", "bundle")
        return "refused: " + next(name for name in names if name in text)
    return "refused: other"
