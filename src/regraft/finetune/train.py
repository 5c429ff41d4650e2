"""Fine-tuning: a probe in, the model of the best epoch out. Read ``train_network`` first.

Only this module reads ``TrainConfig``; the others get values. The loop itself is in ``loop``.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.backbones.freeze import frozen
from regraft.config.settings import harmless
from regraft.core.machine import n_threads
from regraft.core.reporter import Stopwatch
from regraft.core.text import counted
from regraft.errors import ConfigError, DataError
from regraft.features.compute import repeatable
from regraft.finetune.batches import TrainingBatches, n_batches
from regraft.finetune.checkpoint import Checkpoints, NoCheckpoints
from regraft.finetune.frozen.prefix import (
    FrozenPrefix,
    Prefixes,
    ViewSettings,
    cut_if_possible,
    without_prefixes,
)
from regraft.finetune.loop import Loop, LoopSettings
from regraft.finetune.network import TrainableNetwork, random_head
from regraft.finetune.paths import remove_rows
from regraft.finetune.processes.exchange import hash_of, send_probe
from regraft.finetune.processes.group import SINGLE_PROCESS, ProcessGroup
from regraft.finetune.rate_trial import try_rates
from regraft.finetune.reader import ImageReader, lost_image_error
from regraft.finetune.result import finish
from regraft.finetune.resume import begin_or_resume, fit_step
from regraft.finetune.schedule import Schedule, make_optimizer, parameter_groups, rate_factor
from regraft.finetune.state import State
from regraft.finetune.step import StepSettings, TrainingStep
from regraft.finetune.validation import Validation
from regraft.heads.fit import class_weights
from regraft.images.augment import AUGMENTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from regraft.config.train_config import TrainConfig
    from regraft.core.reporter import Reporter
    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples
    from regraft.features.compute import Compute
    from regraft.features.extractor import Extractor
    from regraft.features.features import Features
    from regraft.finetune.rate_trial import Rates
    from regraft.heads.fitted import FittedHead
    from regraft.model import Model

#: (optimizer, strategy) to the learning rate where none is given.
LEARNING_RATES = {
    # 214 flowers at 96 pixels, last two stages, four epochs, one seed: test accuracy 0.801 (probe:
    # 0.784); with 5e-4 at 128 pixels the validation accuracy fell from 0.78 to 0.63 before it rose.
    ("adamw", "finetune"): 1e-4,
    ("adamw", "scratch"): 2e-3,
    ("sgd", "finetune"): 5e-3,
    ("sgd", "scratch"): 5e-2,
}

#: Settings that may differ in a resumed run; the fingerprint has the images of each part instead.
_MAY_DIFFER = {*harmless(), "split", "strict", "max_refused"}


@dataclass(frozen=True)
class Trained:
    """A model, how its head was fitted, and the features of its network."""

    model: Model
    fitted: FittedHead
    features: Features  # of the model's network
    seconds: dict[str, float] = field(default_factory=dict)  # by phase


@dataclass(frozen=True)
class Job:
    """One training: the arguments that the functions below share."""

    probe: Model  # fitted on the training part alone
    dataset: Dataset
    extractor: Extractor  # the one of the probe's features: then epoch 0 is the probe, bit for bit
    group: ProcessGroup = SINGLE_PROCESS  # each process of it has the same job

    @property
    def config(self) -> TrainConfig:
        """Settings; ``augment`` is no longer "auto", but other fields may be."""
        return self.extractor.config

    @property
    def compute(self) -> Compute:
        """Device, precision and batch size."""
        return self.extractor.compute

    @property
    def reporter(self) -> Reporter:
        """Prints choices and epochs."""
        return self.extractor.reporter

    @property
    def samples(self) -> Samples:
        """All images, of which two parts are read."""
        return self.dataset.samples


def train_network(
    probe: Trained,
    dataset: Dataset,
    extractor: Extractor,
    checkpoints: Path,
    callbacks: Sequence[object] = (),
    group: ProcessGroup = SINGLE_PROCESS,
) -> Trained:
    """Train the network from the probe on; return the probe itself where that is what is asked for.

    If the network has changed, its features are read again.
    """
    if extractor.config.strategy == "probe":
        return probe
    seconds = Stopwatch()
    send_probe(group, probe.model, dataset)
    model, fitted = run_loop(Job(probe.model, dataset, extractor, group), checkpoints, callbacks)
    seconds.lap("train")
    features = probe.features
    if model.backbone is not probe.model.backbone:
        features = _read_again(model, dataset, extractor)
        seconds.lap("extract again")
    return Trained(model, fitted, features, seconds.phases)


def follow_network(
    probe: Model, dataset: Dataset, extractor: Extractor, group: ProcessGroup
) -> Model:
    """Take part in the training of the first process; return the model, which is the same there."""
    model, _ = run_loop(Job(probe, dataset, extractor, group), Path(os.devnull))
    return model


def run_loop(
    job: Job, checkpoints: Path, callbacks: Sequence[object] = ()
) -> tuple[Model, FittedHead]:
    """Train by gradient; return the model of the best epoch, or the probe where none is better.

    The training part gives gradients; the validation part chooses epoch and temperature.
    """
    loop = build_loop(job, checkpoints, callbacks)
    begin_or_resume(loop, resume=job.config.resume, overwrite=job.config.overwrite)
    _remove_rows_of_other_runs(checkpoints, loop.prefixes)
    network = loop.state.network
    with frozen(network.backbone, set(network.frozen_names())), repeatable(job.compute.device):
        loop.run()
    start = "random-head" if job.config.strategy == "scratch" else job.config.start
    return finish(loop, job.probe, {"name": job.config.strategy, "start": start})


def try_rates_from(probe: Model, dataset: Dataset, extractor: Extractor) -> Rates:
    """Try learning rates from where a training would begin, on its training part alone."""
    job = Job(probe, dataset, extractor)
    _require_validation(job)
    network = trainable_network(job)
    views = dataclasses.replace(view_settings(job.config), cached_views="0")
    batches = training_batches(job, views)
    training_step = make_training_step(job, network)
    _require_enough_images(job, training_step)
    job.reporter.say(f"trying rates on {_stages_and_head(network)}")
    fit_step(training_step)
    with repeatable(job.compute.device):
        return try_rates(training_step, batches)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a complete run, and the outputs of its frozen stages."""
    remove_rows(folder)
    Checkpoints(folder, {}).remove()


def _read_again(model: Model, dataset: Dataset, extractor: Extractor) -> Features:
    """Return the features of the trained network; an image that is lost meanwhile is an error."""
    features = extractor.read(dataset, model.backbone)
    for index, error in features.refused.items():
        raise lost_image_error(dataset.samples.ids[index], str(error))
    return features


def _remove_rows_of_other_runs(folder: Path, prefixes: Prefixes) -> None:
    used = (prefixes.training, prefixes.validation)
    remove_rows(folder, but=[prefix.file.path for prefix in used if prefix])


# --- before the first step ----------------------------------------------------------------------


def build_loop(job: Job, folder: Path, callbacks: Sequence[object] = ()) -> Loop:
    """Assemble a loop that has not begun; ``folder`` is for its checkpoints."""
    _require_validation(job)
    network = trainable_network(job)
    job.reporter.say(f"training {_stages_and_head(network)}")
    training_step = make_training_step(job, network)
    _require_enough_images(job, training_step)
    views = view_settings(job.config)
    prefixes = cut_for_job(job, network, views, folder)
    checkpoints_class = Checkpoints if job.group.first else NoCheckpoints
    return Loop(
        training_step=training_step,
        batches=training_batches(job, views, prefixes.training),
        validation=Validation(
            image_reader(job),
            job.dataset.val,
            job.compute,
            class_weight=job.config.class_weight,
            group=job.group,
            prefix=prefixes.validation,
        ),
        checkpoints=checkpoints_class(folder, fingerprint(job, network)),
        settings=loop_settings(job.config),
        prefixes=prefixes,
        callbacks=callbacks,
    )


def _require_validation(job: Job) -> None:
    if not len(job.dataset.val):
        raise DataError(
            "no image can be held out for validation: every class has one image or group only",
            hint="add images, or a val part; `strategy='probe'` needs none",
        )


def _require_enough_images(job: Job, training_step: TrainingStep) -> None:
    """Refuse steps that leave a process with fewer images than a forward pass needs."""
    n_images = len(job.dataset.train)
    least = training_step.state.network.least_images
    if n_images < least:
        raise DataError(
            f"BatchNorm cannot train on {counted(n_images)}",
            hint="add images; `bn='frozen'` learns no statistics",
        )
    smallest = n_images // training_step.schedule.steps
    if job.group.size > 1 and smallest // job.group.size < least:
        raise ConfigError(
            f"{job.group.size} processes cannot share a step of {counted(smallest)}",
            hint="fewer processes, or a larger `batch_size`",
        )


def starting_model(job: Job) -> Model:
    """Return the probe, or with a random head where the settings say so."""
    if job.config.strategy != "scratch" and job.config.start == "probe":
        return job.probe
    width = int(job.probe.head.n_features)  # type: ignore[arg-type]
    head = random_head(width, len(job.probe.classes), job.config.seed)
    return dataclasses.replace(job.probe, head=head, temperature=1.0)


def trainable_network(job: Job) -> TrainableNetwork:
    """Return the network with gradients for the stages to train, on its device."""
    config, scratch = job.config, job.config.strategy == "scratch"
    network = TrainableNetwork(
        starting_model(job),
        unfreeze="all" if scratch else config.unfreeze,
        train_norms=config.bn == "train" or (config.bn == "auto" and scratch),
        dropout=config.dropout,
    )
    if config.batch_size < network.least_images:
        raise ConfigError(
            "BatchNorm cannot train on one image at a time",
            hint="`batch_size=2` or more, or `bn='frozen'`",
        )
    network.to(torch.device(job.compute.device))
    to_layout: Callable[..., Any] = network.to  # torch's stubs leave memory_format out
    to_layout(memory_format=torch.channels_last)
    return network


def _stages_and_head(network: TrainableNetwork) -> str:
    return f"{', '.join(network.trained_names) or 'no stage'} and the head"


def image_reader(job: Job) -> ImageReader:
    """Return the reader of both parts."""
    threads = n_threads(job.config.workers, job.group.local_size)
    preprocess = job.probe.backbone.preprocess
    return ImageReader(job.samples, preprocess, threads)


def training_batches(
    job: Job, views: ViewSettings, prefix: FrozenPrefix | None = None
) -> TrainingBatches:
    """Return the images of the training part."""
    config = job.config
    return TrainingBatches(
        image_reader(job), job.dataset.train, AUGMENTATIONS[config.augment],
        seed=config.seed, views=views.n_views, group=job.group, prefix=prefix,
    )  # fmt: skip


def make_training_step(job: Job, network: TrainableNetwork) -> TrainingStep:
    """Return the training step, with its state before the first one."""
    config = job.config
    schedule = make_schedule(config, len(job.dataset.train), network.least_images)
    groups = parameter_groups(
        network, weight_decay=config.weight_decay, layer_decay=config.layer_decay
    )
    optimizer = make_optimizer(config.optimizer, groups, schedule.learning_rate)
    state = State.new(network, optimizer, micro=config.batch_size, average=config.ema > 0)
    preprocess = job.probe.backbone.preprocess
    return TrainingStep(
        state, schedule, step_settings(job), preprocess, job.compute, job.group, job.reporter
    )


def cut_for_job(job: Job, network: TrainableNetwork, views: ViewSettings, folder: Path) -> Prefixes:
    """Cut the network if its frozen stages can run once for each view; report which it is."""
    if job.group.size > 1:
        return without_prefixes("several processes share each step", network, job.reporter)
    train, val = (
        {index: job.samples.hashes[index] for index in part.tolist()}
        for part in (job.dataset.train, job.dataset.val)
    )
    return cut_if_possible(network, (train, val), job.compute, views, folder, job.reporter)


# --- settings as values -------------------------------------------------------------------------


def loop_settings(config: TrainConfig) -> LoopSettings:
    """Return when the loop ends and saves."""
    return LoopSettings(config.strategy, config.epochs, config.patience, config.save_every)


def step_settings(job: Job) -> StepSettings:
    """Return what a step computes."""
    config, weights = job.config, None
    if config.class_weight == "balanced":
        labels = job.dataset.labels(job.dataset.train)
        balanced = class_weights(labels, len(job.dataset.classes)).astype(np.float32)
        weights = torch.from_numpy(balanced).to(torch.device(job.compute.device))
    return StepSettings(
        seed=config.seed, mixup=config.mixup, cutmix=config.cutmix,
        label_smoothing=config.label_smoothing, class_weights=weights,
        clip=config.clip, ema=config.ema,
    )  # fmt: skip


def view_settings(config: TrainConfig) -> ViewSettings:
    """Return which views of an image the epochs see."""
    return ViewSettings(
        augment=config.augment, cached_views=config.cached_views, epochs=config.epochs,
        seed=config.seed, blended=bool(config.mixup or config.cutmix),
    )  # fmt: skip


def make_schedule(config: TrainConfig, n_images: int, least: int) -> Schedule:
    """Return the steps of an epoch and their learning rates, for a number of training images.

    ``least`` is the number of images that each step needs.
    """
    steps = n_batches(n_images, config.batch_size * config.accumulate, least)
    learning_rate = config.lr or LEARNING_RATES[config.optimizer, config.strategy]
    total = steps * config.epochs
    warmup = min(round(config.warmup * steps), total)

    def rate(step: int) -> float:
        factor = rate_factor(step, total=total, warmup=warmup, schedule=config.schedule)
        return learning_rate * factor

    return Schedule(learning_rate, -(-n_images // steps), steps, rate)


def fingerprint(job: Job, network: TrainableNetwork) -> dict[str, Any]:
    """Return what identifies a run: a resumed run must have the same values of all of it."""
    settings = {
        each.name: getattr(job.config, each.name)
        for each in dataclasses.fields(job.config)
        if each.name not in _MAY_DIFFER
    }
    backbone = job.probe.backbone
    return {
        **settings,
        "backbone": backbone.weights_sha256,
        "blocks": [str(block) for block in job.probe.blocks],
        "image size": backbone.preprocess.image_size,
        "classes": list(job.dataset.classes),
        "trained stages": network.trained_names,
        "training images": hash_of(job.samples, job.dataset.train),
        "validation images": hash_of(job.samples, job.dataset.val),
    }
