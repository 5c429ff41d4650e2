"""Small trainings for the tests of the fine-tuning room: textures, tiny networks, seconds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conftest import CLASSES, texture
from regraft.backbones.registry import load_backbone
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import SILENT
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.features.compute import Compute, choose_compute
from regraft.features.extractor import Extractor
from regraft.features.taps import select_blocks
from regraft.finetune.network import random_head
from regraft.finetune.reader import ImageReader
from regraft.finetune.train import Job, run_loop, try_rates_from
from regraft.finetune.validation import Validation
from regraft.model import Model
from regraft.splits.split import split

if TYPE_CHECKING:
    from regraft.data.samples import Parts, Samples

TINY = {
    "augment": "light",  # as the main path would settle it
    "model": "timm/test_efficientnet", "image_size": "32", "batch_size": 8, "epochs": 2,
    "strategy": "finetune", "val_fraction": 0.3, "precision": "float32", "unfreeze": "2",
    "taps": "last", "workers": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """Everything that a training takes, and the folder of its checkpoints."""

    probe: Model
    samples: Samples
    parts: Parts
    compute: Compute
    config: TrainConfig
    folder: Path

    def run(self, *callbacks, **changes):
        """Train; return the model and the fitted head with its record."""
        return run_loop(self.job(**changes), self.folder, callbacks)

    def rates(self, **changes):
        """Try learning rates."""
        job = self.job(**changes)
        return try_rates_from(job.probe, job.dataset, job.extractor)

    def job(self, reporter=SILENT, **changes):
        """Return the arguments of a training, with other settings."""
        config = self.config.replace(**changes)
        extractor = Extractor([self.probe.backbone], self.compute, config, reporter)
        return Job(self.probe, Dataset(self.samples, self.parts), extractor)

    def validation(self, probe=None, samples=None, parts=None, n_threads=1):
        """Return the validation part by itself."""
        preprocess = (probe or self.probe).backbone.preprocess
        reader = ImageReader(samples or self.samples, preprocess, n_threads)
        return Validation(reader, (parts or self.parts).val, self.compute)

    def at(self, folder):
        return dataclasses.replace(self, folder=folder)


def make_trial(folder, a_class=8, side=32, **changes):
    """Return a trial of a network with random weights and a random head: nothing is extracted."""
    config = TrainConfig(**{**TINY, **changes})
    names = [(name, number) for name in CLASSES for number in range(a_class)]
    images = np.stack([texture(name, number, side) for name, number in names])
    samples = scan((images, [name for name, _ in names]), config)
    parts = split(samples, test_fraction=0.2, seed=0, val_fraction=config.val_fraction)
    backbone = load_backbone(config.model, "none", image_size=int(config.image_size))
    blocks = select_blocks((backbone,), config.taps)
    channels = {stage.name: stage.channels for stage in backbone.stages}
    channels["pooled"] = backbone.n_features
    width = sum(channels[block.tap] * block.grid**2 for block in blocks)
    head = random_head(width, len(CLASSES), seed=1)
    model = Model(backbone, blocks, head, 1.0, samples.classes, config.max_pixels)
    compute = choose_compute("cpu", config.precision, config.batch_size)
    return Trial(model, samples, parts, compute, config, Path(folder))


def tensors(model):
    """Return every tensor of a model by name."""
    found = {f"backbone.{name}": t for name, t in model.backbone.module.state_dict().items()}
    return found | {f"head.{name}": t for name, t in model.head.tensors().items()}


def equal(one, other):
    """Whether two models are the same to the bit."""
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(fitted):
    """Return a history without what a clock says."""
    clock = {"seconds", "images_per_second"}
    return [{k: v for k, v in row.items() if k not in clock} for row in fitted.history]
