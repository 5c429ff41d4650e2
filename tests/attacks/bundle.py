"""Hostile bundles: each ends in a BundleError, or in a working model that passed its golden images.

Nothing else may happen: no other error, no process that dies, no file outside the bundle opened, no
package imported, no process started, no socket made, no pickle executed, no 200 MB more of memory,
no five seconds of time (``hunting`` and ``guard`` check it).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
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
from regraft.decision.costs import Costs
from regraft.errors import BundleError, visible
from tiny_bundles import some_decisions, tiny_model, write_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

SOUND = ("linear", "knn", "two", "centre", "version-2")
PIXELS = np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3).astype(np.uint8)


def run(count: int, seed: int, first: int = 0, processes: int = 1) -> Report:
    """Attack with the hostile bundles ``first`` to ``first + count - 1`` of a seed."""
    with prepared() as folder:
        return hunt(partial(attack, folder), count, seed, first, processes=processes)


@contextmanager
def prepared() -> Iterator[Path]:
    """Make a folder with sound bundles, and one beside them that must not change."""
    with tempfile.TemporaryDirectory(prefix="regraft-attack-") as name:
        folder = Path(name)
        outside = folder / "outside"
        outside.mkdir()
        (outside / "secret").write_text("must not be read", encoding="utf-8")
        marks = f"open({str(outside / 'imported')!r}, 'w').close()\n"
        (outside / f"{CANARY_MODULE}.py").write_text(marks, encoding="utf-8")
        write_sound(folder)
        yield folder


def write_sound(folder: Path) -> None:
    """Write sound bundles: with decisions of each kind, without, of two networks, of version 2."""
    write_tiny(folder / "linear", tiny_model(), some_decisions(unknown=0.05, min_precision=0.9))
    write_tiny(folder / "knn", tiny_model("knn", taps="last"), some_decisions(""))
    costs = Costs(np.eye(3, 5) + 0.25, ("abstain", "unknown"))
    aggregate = some_decisions("mahalanobis", coverage_by="class", costs=costs)
    write_tiny(folder / "two", tiny_model(views=2, two=True), aggregate)
    write_tiny(folder / "centre", tiny_model(), some_decisions("centre", unknown=0.05))
    kept = Path(__file__).parents[1] / "bundle" / "written-by-900496f.zip"
    with zipfile.ZipFile(kept) as archive:
        archive.extractall(folder / "version-2")


class _Workplace:
    """The folder of this process for hostile bundles, one after another."""

    def __init__(self, folder: Path) -> None:
        self.outside = folder / "outside"
        self.sound = [read_sound(folder / name, self.outside) for name in SOUND]
        self.guard = Guard()
        self.bundle = Path(tempfile.mkdtemp(dir=folder), "bundle")
        self.canaries = {path.name for path in self.outside.iterdir()}
        self._written: dict[str, bytes] = {}

    def write(self, draft: Draft) -> None:
        """Write the files that differ from the last bundle."""
        (self.bundle / "golden").mkdir(parents=True, exist_ok=True)
        for name in self._written.keys() - draft.files.keys():
            (self.bundle / name).unlink()
            del self._written[name]
        for name, data in draft.files.items():
            if self._written.get(name) is not data:
                (self.bundle / name).write_bytes(data)
                self._written[name] = data
        (self.bundle / "manifest.json").write_bytes(draft.encoded())
        for act in draft.disk:
            with suppress(OSError):  # the second of two may find nothing left to replace
                act(self.bundle)

    def clear(self, draft: Draft) -> None:
        """Remove what the next bundle must not find."""
        if draft.disk:
            shutil.rmtree(self.bundle)
            self._written = {}


@cache
def _workplace(folder: Path) -> _Workplace:
    torch.set_num_threads(1)
    sys.path.append(str(folder / "outside"))
    return _Workplace(folder)


def attack(folder: Path, seed: int, number: int, kinds: Kinds = MUTATIONS) -> str:
    """Load one hostile bundle; return "works", or "refused" with the file that is named.

    ``folder`` is that of ``prepared``, ``kinds`` the mutations to draw from with their weights.
    Number -1 loads the sound bundles, and nothing watches: what is used first is imported then.
    """
    workplace = _workplace(folder)
    if number < 0:
        for draft in workplace.sound:
            workplace.write(draft)
            assert _load(workplace).startswith("works")
        return "works"
    draft = mutate(seed, number, workplace.sound, kinds)
    workplace.write(draft)
    try:
        with suppress(ForbiddenError), workplace.guard.watching(workplace.bundle):
            outcome = _load(workplace)
    finally:
        workplace.clear(draft)
    assert not workplace.guard.seen, f"{draft.kinds}: {workplace.guard.seen}"
    assert {path.name for path in workplace.outside.iterdir()} == workplace.canaries, (
        f"{draft.kinds}: something was executed"
    )
    return outcome


def _load(workplace: _Workplace) -> str:
    try:
        predictor = Predictor.load(workplace.bundle, device="cpu")
        (answer,) = predictor.predict_many([PIXELS])
    except BundleError as error:
        return _refused(error)
    if answer.error is not None:
        assert answer.error.kind in {"not finite", "too many pixels"}, answer.error
        return "works, and refuses an image"
    assert answer.label in predictor.classes
    assert abs(answer.probabilities.sum() - 1) < 1e-4
    if predictor.decisions is None:
        return "works"
    _decide(predictor)
    return "works, and decides"


def _decide(predictor: Predictor) -> None:
    """Decide about images of all kinds; the levels of a bundle that was read can be borne."""
    count, decisions = len(predictor.classes), predictor.decisions
    rules = decisions.rules(count)
    width = predictor.model.backbone.n_features
    pooled = np.stack([np.full(width, value, np.float32) for value in (0, 1, 3e38, 1e-45)])
    probabilities = np.full((4, count), 1 / count, np.float32)
    probabilities[1] = np.eye(1, count)
    logits = np.stack([np.full(count, value, np.float32) for value in (0, 1, 3e38, -3e38)])
    decided = rules.decide(probabilities, pooled, logits)
    assert decided.sets.any(1).all()
    if decided.p_values is not None:
        assert ((decided.p_values > 0) & (decided.p_values <= 1)).all()
    assert decided.actions.max() < count + 2


def _refused(error: BundleError) -> str:
    text = str(error)
    assert len(text) < 2000, f"{len(text)} characters: {text[:200]}"
    assert visible(text) == text, "control characters in the message"
    with suppress(StopIteration):
        names = ("manifest.json", ".safetensors", "golden", "README.md", "bundle")
        return "refused: " + next(name for name in names if name in text)
    return "refused: other"
