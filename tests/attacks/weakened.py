"""Checks taken out one at a time, to see that the harness notices."""

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
from regraft.errors import BundleError

if TYPE_CHECKING:
    import random
    from pathlib import Path

_strict_tensors, _strict_read = bundle_format._tensors, bundle_format.read_regular
_strict_plan = bundle_format.plan_backbone


def obeys_pickles(data: bytes, name: str) -> Any:
    """Fall back to a pickle where the safe way fails, as other toolkits did."""
    try:
        return _strict_tensors(data, name)
    except BundleError:
        return pickle.loads(data)  # noqa: S301 - that is the mistake


def follows_links(path: Path, limit: int, *, follow: bool) -> bytes:
    """Read whatever a name leads to."""
    return _strict_read(path, limit, follow=not follow)


def imports_by_name(record: Any) -> Any:
    """Import what the manifest names (Keras, CVE-2025-1550)."""
    with suppress(ImportError, ValueError):
        importlib.import_module(record.weights)
    return _strict_plan(record)


def forgets_an_error(data: bytes) -> Manifest:
    """Let another library's error through."""
    return msgspec.json.decode(data, type=Manifest)


def names_the_canary(_rng: random.Random, draft: Draft) -> None:
    """Name a module that leaves a mark when it is imported."""
    draft.manifest["backbone"]["weights"] = CANARY_MODULE


#: What stands in for which function, the mutations that must show it, and words of the finding.
WEAKENED = [
    ("_tensors", obeys_pickles, not_safetensors, "pickle.find_class"),
    ("read_regular", follows_links, on_disk, r"\[.open "),
    ("plan_backbone", imports_by_name, names_the_canary, "canary_module|imported"),
    ("read_manifest", forgets_an_error, manifest_text, "ValidationError|DecodeError"),
]


def attack(folder: Path, seed: int, number: int) -> str:
    """Attack with one check out, each in turn; as ``bundle.attack``."""
    if number < 0:
        return bundle.attack(folder, seed, number)
    name, weak, kind, _ = WEAKENED[number % len(WEAKENED)]
    with mock.patch.object(bundle_format, name, weak):
        return bundle.attack(folder, seed, number, {kind: 1})
