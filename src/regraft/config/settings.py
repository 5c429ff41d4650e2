"""What the fields of TrainConfig are to the command line, to config.yaml and to the docs."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from regraft.config import train_config as config_module
from regraft.config.train_config import TrainConfig, unknown_setting
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: Headings of the help, each with its settings.
GROUPS = {
    "The network": ("model", "weights", "image_size", "taps", "grids", "views", "tta"),
    "The data": (
        *("test_fraction", "folds", "split", "group_by", "seed"),
        *("data_root", "strict", "max_pixels"),
    ),
    "The head": ("head", "class_weight", "memory"),
    "Fine-tuning": (
        *("strategy", "unfreeze", "start", "val_fraction", "epochs", "patience", "augment"),
        *("cached_views", "lr", "optimizer", "weight_decay", "layer_decay", "schedule"),
        *("warmup", "accumulate", "clip", "label_smoothing", "mixup", "cutmix", "dropout", "ema"),
        *("bn", "resume", "save_every"),
    ),
    "The machine": ("device", "precision", "batch_size", "workers", "cache", "cache_dir"),
    "The result": ("out", "overwrite", "log"),
}

#: Settings of an evaluation: how images are read and computed, and not what is learnt.
READING = (
    *("data_root", "strict", "max_pixels", "device", "precision"),
    *("batch_size", "workers", "cache", "cache_dir"),
)

#: Settings of a prediction.
PREDICTING = ("max_pixels", "device", "precision", "batch_size", "workers")

#: Settings of a look at the images: how they are read, drawn and rendered.
SHOWING = (
    *("image_size", "group_by", "seed", "data_root", "strict", "max_pixels"),
    "workers",
)

#: Settings of ``lr-find``: those of a training that say what one step does.
STEPPING = tuple(
    name
    for names in GROUPS.values()
    for name in names
    if name
    not in {
        *("folds", "epochs", "patience", "lr", "schedule", "warmup", "ema", "resume"),
        *("save_every", "out", "overwrite", "log", "cached_views", "views", "tta"),
    }
)

#: Settings of a comparison of trainings: all but those that it chooses for each of them.
COMPARING = tuple(
    name
    for names in GROUPS.values()
    for name in names
    if name not in {"model", "strategy", "resume", "out", "overwrite"}
)

#: Settings that change nothing of what is learnt from images that are the same.
HARMLESS = (
    *("out", "overwrite", "log", "resume", "save_every", "workers", "cache", "cache_dir"),
    "data_root",
)

#: What stands for a value in the help where the type's name would say too little.
PLACEHOLDERS = {
    "model": "NAME",
    "weights": "NAME|FILE",
    "image_size": "PIXELS|auto",
    "taps": "NAMES",
    "grids": "NUMBERS",
    "memory": "GIB",
    "test_fraction": "SHARE",
    "group_by": "RULE",
    "unfreeze": "N|all|NAMES",
    "val_fraction": "SHARE",
    "cached_views": "K|auto",
    "lr": "RATE",
    "label_smoothing": "SHARE",
    "dropout": "SHARE",
    "weight_decay": "DECAY",
    "layer_decay": "FACTOR",
    "ema": "DECAY",
    "warmup": "EPOCHS",
    "clip": "NORM",
    "mixup": "ALPHA",
    "cutmix": "ALPHA",
    "save_every": "SECONDS",
    "log": "NAMES",
    "device": "NAME",
}


def unread(config: TrainConfig) -> set[str]:
    """Return the settings that a training with this strategy does not read.

    Examples
    --------
    >>> "epochs" in unread(TrainConfig()), "augment" in unread(TrainConfig(views=2))
    (True, False)
    """
    if config.strategy == "probe":
        return {*GROUPS["Fine-tuning"]} - {"strategy", *(["augment"] if config.views else [])}
    return {"unfreeze", "start"} if config.strategy == "scratch" else set()


def refuse_unread(config: TrainConfig, given: Collection[str]) -> None:
    """Refuse settings that were asked for one by one and would change nothing.

    Parameters
    ----------
    config : TrainConfig
        What is about to be run; a file or a recipe may say more than its strategy reads.
    given : collection of str
        Names of settings that were given as flags, or by name.

    Raises
    ------
    ConfigError
        Names them all.

    Examples
    --------
    >>> refuse_unread(TrainConfig(epochs=20), ["epochs"])
    Traceback (most recent call last):
        ...
    regraft.errors.ConfigError: epochs is given, and strategy probe does not read it
    hint: --strategy finetune trains the network too; a probe has no epochs and no steps
    """
    # One command serves a scheduler: --resume begins where there is nothing to resume.
    names = [name for name in given if name in unread(config) - {"resume"}]
    if not names:
        return
    hint = "--strategy finetune starts from a probe, and trains as many stages as --unfreeze says"
    if config.strategy == "probe":
        hint = "--strategy finetune trains the network too; a probe has no epochs and no steps"
    if names == ["augment"]:
        hint = "--views 2 shows a probe augmented views; --strategy finetune draws some each epoch"
    verb, what = ("is", "it") if len(names) == 1 else ("are", "them")
    raise ConfigError(
        f"{', '.join(names)} {verb} given, and strategy {config.strategy} does not read {what}",
        hint=hint,
    )


def some_settings(given: Mapping[str, Any], allowed: Collection[str]) -> TrainConfig:
    """Return a configuration of some settings alone.

    Parameters
    ----------
    given : mapping of str to value
        As for ``TrainConfig``.
    allowed : collection of str
        ``READING`` or ``PREDICTING``.

    Raises
    ------
    ConfigError
        Where a name is unknown or belongs to training, or a value is out of range.

    Examples
    --------
    >>> some_settings({"seed": 1}, PREDICTING)
    Traceback (most recent call last):
        ...
    regraft.errors.ConfigError: seed belongs to training and changes nothing here
    hint: what can be set is max_pixels, device, precision, batch_size, workers
    """
    for name in given:
        if name not in setting_types():
            raise unknown_setting(name, setting_types())
        if name not in allowed:
            raise ConfigError(
                f"{name} belongs to training and changes nothing here",
                hint=f"what can be set is {', '.join(allowed)}",
            )
    return TrainConfig(**given)


@cache
def setting_types() -> dict[str, Any]:
    """Return the type of each field of TrainConfig, in their order.

    Returns
    -------
    dict of str to type
        Resolved: ``Path | None`` is the type and not its name.

    Examples
    --------
    >>> setting_types()["test_fraction"]
    <class 'float'>
    """
    hints = get_type_hints(TrainConfig, vars(config_module))
    return {field.name: hints[field.name] for field in dataclasses.fields(TrainConfig)}


def default_text(name: str) -> str:
    """Return a setting's default as the help and the documentation show it.

    A switch that is off needs no word, nor does what has no default.

    Examples
    --------
    >>> default_text("max_pixels"), default_text("cache"), default_text("strict")
    ('40000000', 'on', '')
    """
    default = getattr(TrainConfig, name)
    if isinstance(default, bool):
        return "on" if default else ""
    return "" if default is None else str(default)


def placeholder(name: str) -> str:
    """Return what stands for a setting's value in the help, such as ``N`` or ``knn|mean``.

    Examples
    --------
    >>> placeholder("batch_size"), placeholder("out"), placeholder("class_weight")
    ('N', 'PATH', 'none|balanced')
    """
    kind = setting_types()[name]
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if kind is int:
        return "N"
    return "PATH" if Path in (kind, *get_args(kind)) else PLACEHOLDERS.get(name, "TEXT")
