"""Which settings a command, a strategy or a file reads, from the declarations at the fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regraft.config.declaration import Command, Setting, settings_of, unknown_setting
from regraft.config.train_config import TrainConfig
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def groups(kind: type[TrainConfig] = TrainConfig) -> dict[str, list[Setting]]:
    """Return the headings of the help, each with its settings."""
    found: dict[str, list[Setting]] = {}
    for each in settings_of(kind).values():
        found.setdefault(each.group, []).append(each)
    return found


def read_by(command: Command, kind: type[TrainConfig] = TrainConfig) -> list[str]:
    """Return the names of the settings that a command reads.

    Examples
    --------
    >>> read_by("predict")  # doctest: +ELLIPSIS
    ['max_pixels', ..., 'device', 'precision', 'batch_size', 'workers']
    """
    return [name for name, each in settings_of(kind).items() if command in each.commands]


def harmless(kind: type[TrainConfig] = TrainConfig) -> set[str]:
    """Return the settings that change nothing of what is learnt from the same images."""
    return {name for name, each in settings_of(kind).items() if each.harmless}


def unread(config: TrainConfig) -> set[str]:
    """Return the settings that a training with this configuration does not read.

    Examples
    --------
    >>> "epochs" in unread(TrainConfig()), "augment" in unread(TrainConfig(views=2))
    (True, False)
    """
    return {name for name, each in settings_of(type(config)).items() if not each.is_read(config)}


def refuse_unread(config: TrainConfig, given: Collection[str]) -> None:
    """Refuse settings that were given one by one and that the training does not read.

    Settings from a file or a recipe are not refused: these may hold more than their strategy reads.

    Examples
    --------
    >>> refuse_unread(TrainConfig(epochs=20), ["epochs"])
    Traceback (most recent call last):
        ...
    regraft.errors.ConfigError: epochs is given, and strategy probe does not read it
    hint: `strategy='finetune'` trains the network too; a probe has no epochs and no steps
    """
    names = [name for name in given if name in unread(config)]
    if not names:
        return
    hint = settings_of(type(config))[names[0]].unread_hint if len(names) == 1 else ""
    if not hint and config.strategy == "probe":
        hint = "`strategy='finetune'` trains the network too; a probe has no epochs and no steps"
    elif not hint:
        hint = (
            "`strategy='finetune'` starts from a probe; `unfreeze` says how many stages are trained"
        )
    verb, them = ("is", "it") if len(names) == 1 else ("are", "them")
    raise ConfigError(
        f"{', '.join(names)} {verb} given, and strategy {config.strategy} does not read {them}",
        hint=hint,
    )


def configured(config: TrainConfig | None, settings: Mapping[str, Any]) -> TrainConfig:
    """Return a configuration, or the defaults, with some settings replaced by name.

    Raises
    ------
    ConfigError
        It is not a TrainConfig, or a setting is unknown or cannot have its value.
    """
    if config is not None and not isinstance(config, TrainConfig):
        raise ConfigError(
            f"the configuration is of type {type(config).__name__}; it must be a TrainConfig",
            hint="settings can be given by name: regraft.train(data, seed=1)",
        )
    return (config or TrainConfig()).replace(**settings)


def some_settings(
    given: Mapping[str, Any], command: Command, kind: type[TrainConfig] = TrainConfig
) -> TrainConfig:
    """Return a configuration from settings that a command reads.

    Examples
    --------
    >>> some_settings({"seed": 1}, "predict")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    regraft.errors.ConfigError: seed belongs to training and changes nothing here
    hint: what can be set is max_pixels, ..., batch_size, workers
    """
    allowed = read_by(command, kind)
    for name in given:
        if name not in settings_of(kind):
            raise unknown_setting(name, settings_of(kind))
        if name not in allowed:
            raise ConfigError(
                f"{name} belongs to training and changes nothing here",
                hint=f"what can be set is {', '.join(allowed)}",
            )
    return kind(**given)
