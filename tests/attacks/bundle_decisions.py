"""Hostile decisions: numbers that no training gives, in tensors and levels, with correct hashes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from attacks.bundle_draft import Draft, hostile_number, hostile_value

if TYPE_CHECKING:
    import random

FILE = "decisions.safetensors"


def decision_fields(rng: random.Random, draft: Draft) -> None:
    """Write levels at their ends, contradictions, other counts, kinds and networks."""
    decisions = draft.manifest["decisions"]
    levels = decisions["levels"]
    share = rng.choice([
        0, 1, 0.0, 1.0, -0.1, 1.1, 5e-324, 1e-300, 1e-9, 1e-6, 0.0001, 0.5, 0.999999, 1 - 2**-53,
        1 - 1e-6, 1e300, None, "0.5", [0.5], True,
    ])  # fmt: skip
    number = rng.choice([-1, 0, 1, 2, 119, 121, 4_000, 8_192, 8_193, 100_000, 100_001, 2**40, None])
    typicality = decisions["typicality"]
    rng.choice([
        lambda: levels.update(unknown=share),
        lambda: levels.update(coverage=share),
        lambda: levels.update(coverage=share, coverage_by="class"),
        lambda: levels.update(min_precision=share),
        lambda: levels.update(min_precision=0.9, costs={"extra": []}),
        lambda: levels.update(coverage_by=rng.choice(["class", "all", "none", "", None, 1])),
        lambda: levels.update(costs={"extra": rng.choice([
            ["abstain", "abstain"], ["unknown", "abstain"], ["abstain"] * 3, ["cat"], [], None,
            ["unknown"], ["abstain", "unknown"] * 10**5, "abstain", [["abstain"]],
        ])}),
        lambda: decisions.update(n_units=number),
        lambda: decisions.update(held_out=rng.choice([True, 1, None, "yes"])),
        lambda: decisions["answers"].update(n=number),
        lambda: typicality.update(n=number),
        lambda: typicality.update(network=rng.choice([1, -1, 2**63, 0.5, None])),
        lambda: typicality.update(kind=rng.choice([
            "neighbours", "centre", "mahalanobis", "knn", "", "__class__", "os.system",
        ])),
        lambda: levels.update({rng.choice([*levels]): hostile_value(rng, draft.outside)}),
    ])()  # fmt: skip


def decision_tensors(rng: random.Random, draft: Draft) -> None:
    """Write what no training gives: labels of no class, scores in disorder, costs below 0 ..."""
    tensors = draft.tensors(FILE)
    name = rng.choice([*tensors])
    tensor = tensors[name].clone()
    flat = tensor.view(-1)
    at = rng.randrange(flat.numel())
    if rng.random() < 0.3:  # another number of rows, which the manifest agrees with or not
        _resize(rng, draft, tensors, name)
    elif name in ("rows", "centre"):
        value = rng.choice([-128, 127, 0])
        flat[at if rng.random() < 0.5 else slice(None)] = value
    elif name in ("labels", "answered"):
        flat[at] = rng.choice([3, -1, 2**31 - 1, -(2**31), 10**6])
    elif name == "scores" and rng.random() < 0.4:
        tensor = rng.choice([tensor.flip(0), torch.zeros_like(tensor), tensor[[2, 0, 1]]])
    elif name in ("mean", "whitening"):
        values = [math.nan, math.inf, 1e38, 1e10, -1e9, 1e8, 0.0, 1e-45, 1.0]
        flat[at if rng.random() < 0.5 else slice(None)] = rng.choice(values)
    elif name == "class_weights":
        values = [0.0, -1.0, math.nan, math.inf, 5e-324, 1e-300, 1e300, 1e308, -0.0]
        flat[at if rng.random() < 0.5 else slice(None)] = rng.choice(values)
    elif name in ("scale", "reach"):
        values = [
            math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-4, 9e-5, 1e-6, 9e-7, 1e-12, 1e12, 1e13,
            2.001, 3.0, 3e38, -3e38,
        ]  # fmt: skip
        flat[at if rng.random() < 0.5 else slice(None)] = rng.choice(values)
    else:  # costs, true, confidence, scores
        values = [-1.0, -0.0, 1.5, 1e9, 1.1e9, 1e38, 5e-324, math.nan, math.inf, -math.inf]
        flat[at if rng.random() < 0.7 else slice(None)] = rng.choice(values)
    if name in tensors and tensors[name].shape == tensor.shape:
        tensors[name] = tensor
    draft.put_tensors(FILE, tensors)


def _resize(rng: random.Random, draft: Draft, tensors: dict[str, torch.Tensor], name: str) -> None:
    decisions = draft.manifest["decisions"]
    count = rng.choice([0, 1, 2, 5, 11, 12, 119, 4_001, 8_193])
    groups = {"labels": ("labels", "true", "confidence", "answered"), "rows": ("rows", "reach")}
    group = groups.get(name, (name,))
    for each in group:
        old = tensors[each]
        repeats = -(-count // max(len(old), 1))
        new = old.repeat(repeats, *[1] * (old.ndim - 1))[:count]
        tensors[each] = new.sort()[0] if each == "scores" else new
    if rng.random() < 0.8:
        if name == "labels":
            decisions["answers"]["n"] = count
        elif name == "scores":
            decisions["typicality"]["n"] = count


def golden_typicality(rng: random.Random, draft: Draft) -> None:
    """Write other scores or pooled features of the golden images."""
    golden = draft.tensors("golden.safetensors")
    name = rng.choice(["pooled", "typicality"])
    tensor = golden[name].clone()
    value = rng.choice([0.0, -1.0, 1e-45, 1e30, 3e38, -3e38, math.nan, math.inf])
    flat = tensor.view(-1)
    rng.choice([
        lambda: tensor.fill_(value), lambda: tensor.mul_(-1), lambda: tensor.mul_(1.001),
        lambda: flat[rng.randrange(flat.numel()) :].fill_(value),
    ])()  # fmt: skip
    golden[name] = tensor
    if rng.random() < 0.2:
        del golden[name]
    draft.put_tensors("golden.safetensors", golden)
    if rng.random() < 0.5:
        draft.allow_all()


def no_decisions(rng: random.Random, draft: Draft) -> None:
    """Remove decisions from one place and not from the others, or from all."""
    manifest, decisions = draft.manifest, draft.manifest["decisions"]
    tensors = draft.tensors(FILE)
    extra = rng.choice(
        ["class_weights", "costs", "mean", "rows", "reach", "scale", "scores", "labels", "x"]
    )

    def from_manifest() -> None:
        manifest["decisions"] = None

    def everywhere() -> None:
        manifest["decisions"] = None
        del draft.files[FILE], manifest["files"][FILE]

    rng.choice([
        from_manifest, everywhere,
        lambda: manifest.pop("decisions"),
        lambda: draft.files.pop(FILE),
        lambda: manifest["files"].pop(FILE),
        lambda: decisions.update(typicality=None),
        lambda: decisions["levels"].update(costs=None),
        lambda: decisions.update(hostile=hostile_number(rng)),
        lambda: draft.put_tensors(FILE, {k: v for k, v in tensors.items() if k != extra}),
        lambda: draft.put_tensors(FILE, {**tensors, extra: torch.zeros(3, dtype=torch.float64)}),
        lambda: draft.put_tensors(FILE, {}),
    ])()  # fmt: skip


def other_networks(rng: random.Random, draft: Draft) -> None:
    """Write no network, two of them, or files and blocks of a second one."""
    manifest, network = draft.manifest, draft.network()
    file = draft.files["network-1.safetensors"]
    rng.choice([
        lambda: manifest.update(networks=[]),
        lambda: manifest.update(networks=[network, network]),
        lambda: manifest.update(networks=[network] * 100),
        lambda: manifest.update(networks=network),
        lambda: manifest.update(networks=[[network]]),
        lambda: manifest.update(backbone=network),
        lambda: (manifest.pop("networks"), manifest.update(backbone=network)),
        lambda: (manifest.update(networks=[network] * 2), draft.put("network-2.safetensors", file)),
        lambda: draft.put("network-2.safetensors", file),
        lambda: draft.put("backbone.safetensors", file),
        lambda: draft.put("statistics.safetensors", file),
        lambda: rng.choice(manifest["blocks"]).update(network=rng.choice([1, -1, 2**40, None])),
        lambda: manifest.update(schema_version=2),
        lambda: manifest["networks"].append(hostile_value(rng, draft.outside)),
        lambda: network.update(pixel_tolerance=rng.choice([-1, 65, 0, 1.5])),
        lambda: network.update(feature_tolerance={"float32": rng.choice([-1, 2, 0, None])}),
    ])()  # fmt: skip


def card(rng: random.Random, draft: Draft) -> None:
    """Write a model card that is no text, too large, or somewhere else."""
    name = rng.choice(["README.md"] * 4 + ["readme.md", "README", "golden/README.md", "CARD.md"])
    many = 2**20
    draft.put(name, rng.choice([
        lambda: b"", lambda: b"\xff\xfe", lambda: b"\xed\xa0\x80", lambda: b"# \x1b[2J",
        lambda: b"a" * many, lambda: b"a" * (many + 1), lambda: b"\0" * 5, lambda: b"\x80\x04.",
        lambda: b"<script>x</script>", lambda: ("é" * (many // 2)).encode() + b"\xc3",
    ])())  # fmt: skip
