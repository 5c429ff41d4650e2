"""A bundle in memory that can be changed, and hostile values to put into it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from regraft.backbones.freeze import state_hash

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    import torch

#: A file that an executed pickle writes, and a module that writes a file when it is imported.
CANARY, CANARY_MODULE = "canary-executed", "canary_module"


@dataclass
class Draft:
    """A bundle in memory, before it is written."""

    manifest: dict
    files: dict[str, bytes]  # all others; bytes that are the same are shared with the sound bundle
    outside: str  # a folder with canaries, which must not change
    text: bytes | None = None  # the manifest, where it is not ``manifest``
    disk: list[Callable[[Path], None]] = field(default_factory=list)  # last changes to the folder
    kinds: list[str] = field(default_factory=list)  # mutations that were applied

    def put(self, name: str, data: bytes) -> None:
        """Replace a file, and correct its hash and size."""
        self.files[name] = data
        record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        if isinstance(self.manifest.get("files"), dict):
            self.manifest["files"][name] = record

    def network(self) -> dict:
        """Return what the manifest says of the first network, in either version."""
        versions = self.manifest, self.manifest.get("networks")
        return versions[1][0] if isinstance(versions[1], list) else versions[0]["backbone"]

    def pixels_name(self) -> str:
        return "pixels" if "backbone" in self.manifest else "pixels-1"

    def allow_all(self) -> None:
        """Set the tolerances of the golden images to their largest values."""
        place = self.manifest["golden"] if "backbone" in self.manifest else self.network()
        place.update(pixel_tolerance=64, feature_tolerance={"float32": 1, "bfloat16": 1})
        self.manifest["golden"]["logit_tolerance"] = 1

    def tensor_files(self) -> list[str]:
        return [name for name in self.files if name.endswith(".safetensors")]

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return dict(sorted(load_tensors(self.files[name]).items()))  # it has no fixed order

    def put_tensors(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        self.put(name, save_tensors({k: v.contiguous() for k, v in tensors.items()}))
        if name in ("network-1.safetensors", "backbone.safetensors"):
            like_a_module = SimpleNamespace(state_dict=lambda: tensors)
            self.network()["weights_sha256"] = state_hash(like_a_module)

    def encoded(self) -> bytes:
        return json.dumps(self.manifest).encode() if self.text is None else self.text


def read_sound(folder: Path, outside: Path) -> Draft:
    """Read a sound bundle as the start of all mutations."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = {name: (folder / name).read_bytes() for name in manifest["files"]}
    return Draft(manifest, files, str(outside))


# --- values -----------------------------------------------------------------------------------


def hostile_string(rng: random.Random, outside: str) -> str:
    return rng.choice([
        "", " ", "\0", "a\0b", "\n", "\x1b[2J\x1b]0;owned\x07", "\ud800", "\u202eslived", "é" * 999,
        "a" * 10**6, "../../etc/passwd", "/etc/passwd", f"{outside}/secret", f"file://{outside}/x",
        "C:\\Windows\\win.ini", "\\\\host\\share", "//host/share", "http://127.0.0.1:9/x",
        "https://huggingface.co/timm/resnet18", "hf-hub:timm/resnet18", f"local-dir:{outside}",
        "os.system", "__import__('os')", "__class__", "__reduce__", CANARY_MODULE, "builtins.eval",
        "{0.__class__}", "%s%n", "${HOME}", "`id`", "; touch x", "pickle", "True", "null", "NaN",
        "timm/resnet18", "embedded", "layer1", "layer1.0.conv1", "fc", "pooled", "linear", "knn",
        "0" * 64, "g" * 64, "0" * 64 + "\n", "golden/wide.jpg", "golden/wide.jpg\n", "golden/..",
        "golden/x.png", "manifest.json", "network-1.safetensors", "CON", "aux.png", "bfloat16",
        "neighbours", "centre", "mahalanobis", "class", "abstain", "network-2.safetensors",
        "README.md",
    ])  # fmt: skip


def hostile_number(rng: random.Random) -> int | float:
    return rng.choice([
        0, -1, 1, 2, 3, 7, 31, 33, 64, 65, 255, 4096, 4097, 10**6, 10**9, 2**31 - 1, 2**31, 2**32,
        2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63), 10**400, 0.5, -0.0,
        1e-300, 5e-324, 1e308, -1e308, 1.5, 1e-45, float("nan"), float("inf"), float("-inf"),
    ])  # fmt: skip


def deep(rng: random.Random) -> object:
    value: object = 1
    for _ in range(rng.choice([2, 50, 500])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def hostile_value(rng: random.Random, outside: str) -> object:
    return rng.choice([
        lambda: hostile_string(rng, outside),
        lambda: hostile_number(rng),
        lambda: rng.choice([None, True, False, [], {}, [[]], [None], {"": None}, {"a": 1}]),
        lambda: deep(rng),
        lambda: [hostile_number(rng)] * rng.choice([1, 3, 1001]),
        lambda: [hostile_string(rng, outside) for _ in range(rng.choice([1, 2, 17]))],
        lambda: {str(number): number for number in range(rng.choice([1, 33, 1000]))},
        lambda: {"__class__": "os.system", "__reduce__": ["touch x"], "$ref": "http://127.0.0.1:9"},
    ])()  # fmt: skip


def positions(tree: object, found: list[tuple[object, object]] | None = None) -> list:
    """List every (container, key) of a JSON tree."""
    found = [] if found is None else found
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            found.append((tree, key))
            positions(tree[key], found)
    return found
