"""config.yaml: a TrainConfig as a flat YAML mapping, written by every run and read by ``-c``.

A file holds ``schema_version`` and any of the settings; the others keep their defaults. It is read
strictly: unknown, repeated or nested entries are errors that name the line. Text settings are taken
as they are written: YAML's ``no`` is then the word and not the boolean.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from regraft.config.declaration import NONE, settings_of, unknown_setting
from regraft.config.train_config import SCHEMA_VERSION, TrainConfig
from regraft.core.files import read_bounded
from regraft.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Collection

    from regraft.config.declaration import Setting

MAX_BYTES = 65_536  # a full config.yaml has 700


def to_yaml(config: TrainConfig) -> str:
    """Return a configuration as YAML, every setting with its value.

    Examples
    --------
    >>> to_yaml(TrainConfig(seed=3)).splitlines()[:3]
    ['schema_version: 1', 'model: embedded', 'weights: default']
    """
    values = {
        name: value.as_posix() if isinstance(value, Path) else value
        for name, value in ((name, getattr(config, name)) for name in settings_of(type(config)))
    }
    # YAML folds some invisible characters, such as U+0085: then everything is written in escapes.
    visible = all(
        str(text).isprintable()
        for value in values.values()
        for text in (value if isinstance(value, tuple) else (value,))
    )
    return yaml.safe_dump(
        {"schema_version": SCHEMA_VERSION, **values}, sort_keys=False, allow_unicode=visible
    )


def from_yaml(
    text: str, source: str = "config.yaml", base: TrainConfig | None = None
) -> TrainConfig:
    """Return a configuration from YAML; what the text does not set is as in ``base``.

    Raises
    ------
    ConfigError
        The text is too long, not YAML, not a flat mapping, from a newer regraft, or holds an
        unknown setting or a value that the setting cannot have; the message names file and line.

    Examples
    --------
    >>> from_yaml("seed: 3").seed
    3
    >>> from_yaml("sed: 3")
    Traceback (most recent call last):
        ...
    regraft.errors.ConfigError: config.yaml, line 1: unknown setting sed
    hint: did you mean seed?
    """
    return parse(text, source, base or TrainConfig())[0]


def parse(
    text: str, source: str, base: TrainConfig, words: Collection[str] = ()
) -> tuple[TrainConfig, dict[str, str]]:
    """Return a configuration, and entries that are not settings but plain text.

    ``words`` are the names that such entries may have; ``source`` is the file's name for messages.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source} is longer than {MAX_BYTES} characters: not a configuration")
    settings = settings_of(type(base))
    values: dict[str, Any] = {}
    found: dict[str, str] = {}
    repeated = [name for name, each in settings.items() if each.is_repeated]
    for key, node in _entries(text, source, repeated).items():
        line = f"{source}, line {node.start_mark.line + 1}"
        if key == "schema_version":
            _check_version(node.value, line)
        elif key in words:
            found[key] = "" if node.tag.endswith(":null") else node.value.strip()
        elif key not in settings:
            raise unknown_setting(key, (*settings, *words), f"{line}: ")
        else:
            values[key] = _value(node, settings[key], line)
    try:
        return base.replace(**values), found
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}", hint=error.hint) from None


def read_config(path: Path, base: TrainConfig | None = None) -> TrainConfig:
    """Return the configuration in a YAML file of at most 64 KiB."""
    return from_yaml(read_text(path), str(path), base)


def read_text(path: Path) -> str:
    """Return the text of a file of at most 64 KiB; it must be UTF-8."""
    try:
        return read_bounded(path, MAX_BYTES).decode("utf-8-sig")
    except InputError as error:
        raise ConfigError(error.message, hint=error.hint) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None


def _is_flat(node: yaml.Node, name: str, repeated: Collection[str]) -> bool:
    """Return whether a value is a scalar, or a list of them for a setting with several values."""
    if isinstance(node, yaml.SequenceNode) and name in repeated:
        return all(isinstance(item, yaml.ScalarNode) for item in node.value)
    return isinstance(node, yaml.ScalarNode)


def _entries(
    text: str, source: str, repeated: Collection[str]
) -> dict[str, yaml.ScalarNode | yaml.SequenceNode]:
    """Return key and value node of each entry: PyYAML alone would take the last of two equal ones.

    Nodes are composed and not constructed; PyYAML's own loader is used since libyaml's recursion
    ends the process at deep nesting.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{source}{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(f"{source}: not YAML") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{source}: settings are written as `name: value`, one a line")
    entries: dict[str, yaml.ScalarNode | yaml.SequenceNode] = {}
    for key, value in root.value:
        line = f"{source}, line {key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and _is_flat(value, key.value, repeated)):
            raise ConfigError(f"{line}: settings are written as `name: value`, not nested")
        if key.value in entries:
            raise ConfigError(f"{line}: {key.value} is set twice")
        entries[key.value] = value
    return entries


def _check_version(text: str, line: str) -> None:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= 1):
        raise ConfigError(f"{line}: schema_version is {text}; it must be a number from 1")
    if int(text) > SCHEMA_VERSION:
        raise ConfigError(
            f"{line}: schema_version is {int(text)}; this regraft reads up to {SCHEMA_VERSION}",
            hint="the file was written by a newer regraft: update with pip install -U regraft",
        )


def _value(node: yaml.ScalarNode | yaml.SequenceNode, setting: Setting, line: str) -> Any:
    """Convert a value to the type of its setting; that of a text setting stays as written."""
    if isinstance(node, yaml.SequenceNode):
        return tuple(item.value for item in node.value)
    tag = node.tag.rpartition(":")[2]
    value: Any = node.value
    if setting.choices:
        return value  # TrainConfig names the choices
    if setting.or_none and value == NONE:
        return None
    if setting.is_repeated:
        return () if tag == "null" else (value,)
    if tag == "null":
        value = None
    elif setting.type is bool and tag == "bool":  # YAML's yes, no, on and off too
        value = yaml.SafeLoader.bool_values[node.value.lower()]
    try:
        # Not strict: for PyYAML 1e-1 is text, and it is a number all the same.
        return msgspec.convert(value, setting.type, strict=False, dec_hook=_convert_path)
    except (msgspec.ValidationError, ValueError):
        given = node.value[:80] or "empty"
        raise ConfigError(
            f"{line}: {setting.name} is {given}; it must be {setting.wanted_type}"
        ) from None


def _convert_path(kind: Any, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
