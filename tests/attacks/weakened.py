"""Checks that are removed one at a time: the attacks must find it."""

from __future__ import annotations

import importlib
import pickle
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec

from attacks import bundle
from attacks.bundle_draft import CANARY_MODULE, Draft
from attacks.bundle_mutations import manifest_text, on_disk
from attacks.bundle_tensors import not_safetensors
from regraft.bundle import format as bundle_format
from regraft.bundle.manifest import Manifest
from regraft.decision.answers import Answers
from regraft.decision.policy import Decisions, Levels
from regraft.errors import BundleError

if TYPE_CHECKING:
    import random
    from pathlib import Path

_strict_tensors, _strict_read = bundle_format._tensors, bundle_format.read_regular
_strict_plan = bundle_format.plan_backbone


def loads_pickles(data: bytes, name: str) -> Any:
    """Load a pickle where the safe format fails, as other toolkits did."""
    try:
        return _strict_tensors(data, name)
    except BundleError:
        return pickle.loads(data)  # noqa: S301 - the mistake


def follows_links(path: Path, limit: int, *, follow: bool) -> bytes:
    """Read a file through links."""
    return _strict_read(path, limit, follow=not follow)


def imports_by_name(record: Any) -> Any:
    """Import the module that the manifest names (Keras, CVE-2025-1550)."""
    with suppress(ImportError, ValueError):
        importlib.import_module(record.weights)
    return _strict_plan(record)


def raises_a_foreign_error(data: bytes) -> Manifest:
    """Raise the error of another library."""
    return msgspec.json.decode(data, type=Manifest)


def believes_answers(record: Any, tensors: Any, _n_classes: int, _widths: Any) -> Decisions:
    """Take over answers without a look at them."""
    arrays = [tensors[name] for name in ("labels", "true", "confidence", "answered")]
    levels = Levels(coverage_by="class")
    return Decisions(None, Answers(*arrays), record.n_units, levels=levels)


def of_no_class(rng: random.Random, draft: Draft) -> None:
    """Answer for classes that there are not."""
    tensors = draft.tensors("decisions.safetensors")
    tensors["labels"][rng.randrange(120)] = rng.choice([-1, 3])
    draft.put_tensors("decisions.safetensors", tensors)


def names_the_canary(_rng: random.Random, draft: Draft) -> None:
    """Name a module that writes a file when it is imported."""
    draft.network()["weights"] = CANARY_MODULE


#: Function of the format, its replacement, mutations that must find it, and words of the finding.
WEAKENED = [
    ("_tensors", loads_pickles, not_safetensors, "pickle.find_class"),
    ("read_regular", follows_links, on_disk, r"\[.open "),
    ("plan_backbone", imports_by_name, names_the_canary, "canary_module|imported"),
    (
        "read_decisions",
        believes_answers,
        of_no_class,
        "ValueError|IndexError",
    ),
    ("read_manifest", raises_a_foreign_error, manifest_text, "ValidationError|DecodeError"),
]


def attack(folder: Path, seed: int, number: int) -> str:
    """Attack with one check removed, each in turn; as ``bundle.attack``."""
    if number < 0:
        return bundle.attack(folder, seed, number)
    name, weak, kind, _ = WEAKENED[number % len(WEAKENED)]
    with mock.patch.object(bundle_format, name, weak):
        return bundle.attack(folder, seed, number, {kind: 1})
