"""Bundles of a tiny network, and how to change one and make its hashes right again."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.bundle.format import write_bundle
from regraft.decision.answers import Answers
from regraft.decision.policy import Decisions, Levels
from regraft.decision.scorers import Mahalanobis, unit_rows
from regraft.decision.typicality import Typicality, fit_centre, fit_neighbours
from regraft.features.compute import Compute
from regraft.features.taps import block_widths, select_blocks
from regraft.heads.modules import HEADS, KnnHead, LinearHead
from regraft.model import Model

CLASSES = ("cat", "dog", "fish")


def tiny_model(
    head: str = "linear", taps: str = "all", views: int = 0, *, two: bool = False
) -> Model:
    """Make a model of 0.4 million parameters; its network is loaded in a hundredth of a second.

    ``two`` reads a second network beside it, at another image size.
    """
    networks = [at_image_size(load_backbone("timm/test_resnet", "none"), 32, crop=False)]
    if two:
        other = load_backbone("timm/test_efficientnet", "none")
        networks.append(at_image_size(other, 48, crop=False))
    if views:
        for k, each in enumerate(networks):
            preprocess = dataclasses.replace(each.preprocess, views=views, augment="light")
            networks[k] = dataclasses.replace(each, preprocess=preprocess)
    blocks = select_blocks(networks, taps)
    width = sum(block_widths(networks, blocks).values())
    generator = torch.Generator().manual_seed(0)
    mean, scale = torch.rand(width, generator=generator), torch.rand(width, generator=generator)
    rows = torch.nn.functional.normalize(torch.randn(3, width, generator=generator))
    made = {
        "linear": lambda: LinearHead(mean, scale, rows, torch.randn(3, generator=generator)),
        "knn": lambda: KnnHead(mean, scale, rows, torch.arange(3), k=2, n_classes=3),
    }
    assert made.keys() == HEADS.keys()
    backbone, *others = networks
    return Model(backbone, blocks, made[head](), 1.3, CLASSES, 10**6, tuple(others))


def write_tiny(
    folder: Path, model: Model | None = None, decisions: Decisions | None = None
) -> Path:
    """Write a tiny model's bundle, in float32."""
    model = tiny_model() if model is None else model
    write_bundle(folder, model, Compute("cpu", "float32", 8), decisions)
    return folder


def by_mahalanobis(pooled: np.ndarray, energies: np.ndarray | None = None) -> Typicality:
    """Return a typicality as earlier bundles without a bank have it."""
    rows = unit_rows(pooled).astype(np.float64)
    covariance = np.cov(rows.T, bias=True) + 0.01 * rows.var(0).mean() * np.eye(rows.shape[1])
    whitening = np.linalg.cholesky(np.linalg.inv(covariance)).astype(np.float32)
    scorer = Mahalanobis(rows.mean(0).astype(np.float32), whitening)
    return Typicality.of(scorer, scorer.score(pooled), energies)


#: Of images, none of which belongs to another.
N_UNITS = 120


def some_decisions(kind: str = "neighbours", width: int = 96, **levels) -> Decisions:
    """Make decisions of a training of 120 images, with a typicality of ``kind``, or none for ""."""
    rng = np.random.default_rng(5)
    fit = {"neighbours": fit_neighbours, "centre": fit_centre, "mahalanobis": by_mahalanobis}
    pooled = np.abs(rng.normal(1, 0.5, (N_UNITS, width))).astype(np.float32)
    probabilities = rng.dirichlet([0.3] * len(CLASSES), N_UNITS).astype(np.float32)
    labels = np.array([rng.choice(len(CLASSES), p=row / row.sum()) for row in probabilities])
    weights = np.array([0.5, 1.0, 2.0])
    return Decisions(
        typicality=fit[kind](pooled, energies=rng.normal(-3, 1, N_UNITS)) if kind else None,
        answers=Answers.of(probabilities, labels, weights),
        n_units=N_UNITS,
        class_weights=weights,
        levels=Levels(**levels),
    )


def edit_manifest(folder, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def replace_file(folder, name: str, data: bytes) -> None:
    """Change a file and make its hash right again: what a hostile writer would do."""
    (folder / name).write_bytes(data)

    def change(manifest):
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    edit_manifest(folder, change)


def edit_tensors(folder, name: str, change) -> None:
    tensors = load_tensors((folder / name).read_bytes())
    replaced = change(tensors)
    replace_file(folder, name, save_tensors(tensors if replaced is None else replaced))
