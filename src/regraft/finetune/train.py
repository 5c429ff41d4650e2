"""What the main path calls: from a probe to a fine-tuned model, or on from a checkpoint of it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.backbones.freeze import frozen
from regraft.config.settings import HARMLESS
from regraft.core.reporter import Reporter, Stopwatch
from regraft.errors import ConfigError, DataError
from regraft.features.compute import repeatable
from regraft.finetune.batches import TrainingBatches, lost_image_error
from regraft.finetune.checkpoint import Checkpoints, NoCheckpoints
from regraft.finetune.frozen.prefix import choose_prefix, n_views, without_prefix
from regraft.finetune.loop import Loop, Schedule
from regraft.finetune.memory import available_bytes, fit_memory
from regraft.finetune.network import TrainableNetwork, random_head
from regraft.finetune.paths import refuse_existing, remove_rows
from regraft.finetune.processes.exchange import hash_of, sync_state
from regraft.finetune.processes.group import SINGLE_PROCESS
from regraft.finetune.rate_trial import try_rates
from regraft.finetune.schedule import make_optimizer, parameter_groups, rate_factor
from regraft.finetune.state import State
from regraft.finetune.validation import Validation
from regraft.heads.fit import class_weights
from regraft.heads.fitted import FittedHead
from regraft.heads.temperature import fit_temperature, log_losses
from regraft.images.augment import AUGMENTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from regraft.config.train_config import TrainConfig
    from regraft.data.dataset import Dataset
    from regraft.data.samples import Parts, Samples
    from regraft.errors import ImageError
    from regraft.features.compute import Compute
    from regraft.features.extract import Features
    from regraft.features.extractor import Extractor
    from regraft.finetune.processes.group import ProcessGroup
    from regraft.finetune.rate_trial import Rates
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

#: Settings that may differ when a run is resumed; which image is in which part is in the
#: fingerprint itself.
_FREE = {*HARMLESS, "split", "strict"}


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run that is complete, and what its frozen stages gave."""
    remove_rows(folder)
    Checkpoints(folder, {}).remove()


def require_readable(samples: Samples, refused: Mapping[int, ImageError]) -> None:
    """Refuse to go on where images that were trained on cannot be read again.

    Parameters
    ----------
    samples : Samples
        Their names.
    refused : mapping of int to ImageError
        Of an extraction with the trained network.

    Raises
    ------
    DataError
        Names the first one.
    """
    for index, error in refused.items():
        raise lost_image_error(samples.ids[index], str(error))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model, how its head was fitted, and the features of its network if that has changed."""

    model: Model
    fitted: FittedHead
    features: Features | None = None  # None where those of the probe's network still serve
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # by phase


def train_network(
    probe: Model,
    dataset: Dataset,
    extractor: Extractor,
    folder: Path,
    callbacks: Sequence[object] = (),
    group: ProcessGroup = SINGLE_PROCESS,
) -> Trained:
    """Train stages and head by gradient, starting from a probe or from a random head."""
    seconds = Stopwatch()
    model, fitted = finetune(
        probe, dataset.samples, dataset.parts, extractor.compute, extractor.config, folder,
        extractor.reporter, callbacks, group=group,
    )  # fmt: skip
    seconds.lap("train")
    features = None
    if model.backbone is not probe.backbone and group.first:
        features = extractor.read(dataset, model.backbone)
        require_readable(dataset.samples, features.refused)
        seconds.lap("extract again")
    return Trained(model, fitted, features, seconds.phases)


def finetune(  # noqa: PLR0913 - what a training is made of
    probe: Model,
    samples: Samples,
    parts: Parts,
    compute: Compute,
    config: TrainConfig,
    folder: Path,
    reporter: Reporter | None = None,
    callbacks: Sequence[object] = (),
    *,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Model, FittedHead]:
    """Train stages and head by gradient, starting from a probe or from a random head.

    Parameters
    ----------
    probe : Model
        Fitted on the training part alone.
    samples : Samples
        Images and labels.
    parts : Parts
        ``train`` reaches gradients; ``val`` chooses the epoch and fits the temperature; ``test`` is
        not looked at.
    compute : Compute
        As the probe's features were extracted: then epoch 0 is the probe to the bit.
    config : TrainConfig
        The settings under "Fine-tuning", seed, class weight, batch size, workers.
    folder : Path
        Of the checkpoints.
    reporter : Reporter, optional
        Told of every epoch.
    callbacks : sequence of object, optional
        As ``Loop`` takes them.
    group : ProcessGroup
        The processes that share each step, all of which call this; the first one saves.

    Returns
    -------
    tuple of Model and FittedHead
        The probe itself where no epoch was better on the validation part. The record and the
        history go into metrics.json and history.csv.

    Raises
    ------
    ConfigError, DataError
        Where settings do not fit the network or nothing can be validated.
    RunError, DiskFullError
        Where checkpoints cannot be read, are of another run, or do not fit.
    DivergedError
        Where the loss is no longer finite.
    FrozenError
        Where a frozen tensor has changed.
    """
    reporter = reporter or Reporter()
    start, loop, told = build_loop(probe, samples, parts, compute, config, folder, reporter, group)
    loop.callbacks = callbacks
    network, prefixes = loop.state.network, (loop.images.prefix, loop.validation.prefix)
    _resume(loop, config, reporter)
    remove_rows(folder, but=[prefix.file.path for prefix in prefixes if prefix])
    with frozen(network.backbone, set(network.frozen_names())), repeatable(compute.device):
        loop.run()
    return _finish(start, loop, told, config, reporter)


def build_loop(
    probe: Model,
    samples: Samples,
    parts: Parts,
    compute: Compute,
    config: TrainConfig,
    folder: Path,
    reporter: Reporter,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Model, Loop, dict[str, Any]]:
    """Put a loop together that has not begun.

    Parameters
    ----------
    probe, samples, parts, compute, config, folder, reporter, group
        As for ``finetune``.

    Returns
    -------
    tuple of Model, Loop and dict
        What it starts from, the loop, and what metrics.json says of trained and frozen stages.

    Raises
    ------
    ConfigError, DataError
        As ``finetune``.
    """
    if not len(parts.val):
        raise DataError(
            "no image can be held out for validation: every class has one image or group only",
            hint="add images, or a val part; --strategy probe needs none",
        )
    scratch = config.strategy == "scratch"
    start = probe
    if scratch or config.start == "random-head":
        width = int(probe.head.n_features)  # type: ignore[arg-type]
        head = random_head(width, len(probe.classes), config.seed)
        start = dataclasses.replace(probe, head=head, temperature=1.0)
    network = TrainableNetwork(
        start,
        unfreeze="all" if scratch else config.unfreeze,
        train_norms=config.bn == "train" or (config.bn == "auto" and scratch),
        dropout=config.dropout,
    )
    stages = [stage.name for stage in probe.backbone.stages] or [probe.backbone.name]
    trained = [stages[number] for number in network.trained]
    reporter.say(f"training {', '.join(trained) or 'no stage'} and the head")
    if config.batch_size < network.least_images:
        raise ConfigError(
            "BatchNorm cannot train on one image at a time", hint="-b 2 or more, or --bn frozen"
        )
    device: Any = torch.device(compute.device)
    network.to(device)
    to_layout: Callable[..., Any] = network.to  # torch's stubs leave memory_format out
    to_layout(memory_format=torch.channels_last)

    preprocess = probe.backbone.preprocess
    workers = config.workers or max((os.cpu_count() or 1) // group.local_size, 1)
    read: dict[str, Any] = {"max_pixels": config.max_pixels, "workers": workers, "group": group}
    images = TrainingBatches(
        samples, parts.train, preprocess, AUGMENTATIONS[config.augment], seed=config.seed,
        views=n_views(config), **read,
    )  # fmt: skip
    validation = Validation(samples, parts.val, preprocess, compute, **read)
    schedule = _schedule(images, samples, parts, config, device)
    smallest = len(images) // images.n_batches(schedule.batch)
    if group.size > 1 and smallest // group.size < network.least_images:
        raise ConfigError(
            f"{group.size} processes cannot share a step of {smallest} images",
            hint="fewer processes, or a larger --batch-size",
        )
    groups = parameter_groups(
        network, weight_decay=config.weight_decay, layer_decay=config.layer_decay
    )
    state = State.new(
        network,
        make_optimizer(config.optimizer, groups, schedule.learning_rate),
        micro=config.batch_size,
        average=config.ema > 0,
    )
    if group.size == 1:
        prefixes, chosen = choose_prefix(
            network, start, samples, parts, compute, config, folder, reporter
        )
        images.prefix, validation.prefix = prefixes
    else:
        chosen = without_prefix("several processes share each step", network, reporter)
    told = {
        "trained_stages": trained,
        "frozen_tensors": len(network.frozen_names()),  # hashed before and after
        "frozen_stages": chosen,
    }
    kept = Checkpoints if group.first else NoCheckpoints
    checkpoints = kept(folder, _fingerprint(probe, samples, parts, config, told))
    loop = Loop(
        state, images, validation, checkpoints, schedule, config, compute, reporter, group=group
    )
    return start, loop, told


def try_rates_from(probe: Model, dataset: Dataset, extractor: Extractor) -> Rates:
    """Try learning rates from where ``train_network`` would begin; see ``rate_trial.try_rates``."""
    compute, reporter = extractor.compute, extractor.reporter
    nowhere = Path(os.devnull)  # no checkpoint is written
    config = extractor.config.replace(cached_views="0")
    _, loop, told = build_loop(
        probe, dataset.samples, dataset.parts, compute, config, nowhere, Reporter()
    )
    loop.reporter = reporter
    reporter.say(f"trying rates on {', '.join(told['trained_stages']) or 'no stage'} and the head")
    fit_memory(loop.state, loop.validation.preprocess.image_size, compute, reporter)
    with repeatable(compute.device):
        return try_rates(loop)


def _resume(loop: Loop, config: TrainConfig, reporter: Reporter) -> None:
    """Continue from the newest whole checkpoint, or make sure that a new start harms nothing."""
    state, checkpoints, group = loop.state, loop.checkpoints, loop.group
    if group.first:
        _load(loop, config, reporter)
    sync_state(state, group)
    if state.progress.step == 0:  # later the micro-batch is part of what was saved
        side, free = loop.validation.preprocess.image_size, available_bytes() // group.local_size
        fit_memory(state, side, loop.compute, reporter, free)
    # Adam's two moments are what is not there yet before the first step.
    trained = sum(t.numel() * t.element_size() for t in state.network.state().values())
    checkpoints.refuse_full_disk(trained * (4 + bool(config.ema)))


def _load(loop: Loop, config: TrainConfig, reporter: Reporter) -> None:
    checkpoints = loop.checkpoints
    if config.resume:
        saved, notes = checkpoints.load()
        for note in notes:
            reporter.say(note)
        if saved is None:
            reporter.say("nothing to resume: a new start")
        else:
            loop.state.restore(saved)
            progress = loop.state.progress
            reporter.say(f"resumed in epoch {progress.epoch}, after step {progress.step}")
            machine = json.loads(json.dumps(loop.machine()))
            changed = sorted(k for k in machine if saved.state["machine"].get(k) != machine[k])
            if changed:
                reporter.say(f"{', '.join(changed)} differ since: the last digits may, too")
    elif config.overwrite:
        checkpoints.remove()
    else:
        refuse_existing(checkpoints.folder)


def _schedule(
    images: TrainingBatches,
    samples: Samples,
    parts: Parts,
    config: TrainConfig,
    device: torch.device,
) -> Schedule:
    batch = config.batch_size * config.accumulate
    steps = images.n_batches(batch)
    rate = config.lr or LEARNING_RATES[config.optimizer, config.strategy]
    total = steps * config.epochs
    warmup = min(round(config.warmup * steps), total)
    weights = None
    if config.class_weight == "balanced":
        balanced = class_weights(samples.labels[parts.train], len(samples.classes))
        weights = torch.from_numpy(balanced.astype(np.float32)).to(device)
    return Schedule(
        learning_rate=rate,
        batch=batch,
        rate=lambda step: (
            rate * rate_factor(step, total=total, warmup=warmup, schedule=config.schedule)
        ),
        class_weights=weights,
    )


def _fingerprint(
    probe: Model, samples: Samples, parts: Parts, config: TrainConfig, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Say what a run is: whoever resumes must agree in all of it."""
    settings = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in _FREE
    }
    return {
        **settings,
        "backbone": probe.backbone.weights_sha256,
        "blocks": [str(block) for block in probe.blocks],
        "image size": probe.backbone.preprocess.image_size,
        "classes": list(samples.classes),
        "trained stages": told["trained_stages"],
        "training images": hash_of(samples, parts.train),
        "validation images": hash_of(samples, parts.val),
    }


def _finish(
    start: Model, loop: Loop, told: Mapping[str, Any], config: TrainConfig, reporter: Reporter
) -> tuple[Model, FittedHead]:
    """Make the model of the best epoch, and fit its temperature on the validation part."""
    state, validation = loop.state, loop.validation
    progress = state.progress
    how = "trained from scratch" if config.strategy == "scratch" else "fine-tuned"
    model = start
    if progress.best_epoch > 0:
        label = f"{start.backbone.weights}, {how}"
        model = state.network.to_model(state.best, label)
    logits = validation.score(model).logits
    if progress.best_epoch > 0 or config.start == "random-head" or config.strategy == "scratch":
        counted = _weights(validation.labels, loop)
        temperature = fit_temperature(logits, validation.labels, counted)
        model = dataclasses.replace(model, temperature=temperature)
    calibrated = log_losses(logits / np.float32(model.temperature), validation.labels)
    best = progress.history[progress.best_epoch]
    reporter.say(f"best epoch {progress.best_epoch}: val accuracy {best['val_accuracy']:.4f}")
    record = {
        "name": config.strategy,
        "start": "random-head" if config.strategy == "scratch" else config.start,
        **told,
        "epochs": len(progress.history) - 1,
        "steps": progress.step,
        "best_epoch": progress.best_epoch,
        "learning_rate": loop.schedule.learning_rate,
        "images_in_one_pass": progress.micro,
        "processes": loop.group.size,
        "n": len(loop.images),
        "d": model.head.n_features,
        "temperature": model.temperature,
        "validation": {
            "n": len(validation.labels),
            "log_loss": best["val_loss"],
            "calibrated_log_loss": float(calibrated.mean()),
            "accuracy": best["val_accuracy"],
        },
    }
    history = [{**row, "chosen": row["epoch"] == progress.best_epoch} for row in progress.history]
    scored = np.ones(len(logits), dtype=bool)
    return model, FittedHead(model.head, model.temperature, logits, scored, history, record)


def _weights(labels: NDArray[np.int64], loop: Loop) -> NDArray[np.float64] | None:
    weights = loop.schedule.class_weights
    return None if weights is None else weights.double().cpu().numpy()[labels]
