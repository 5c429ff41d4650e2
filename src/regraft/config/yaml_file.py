"""config.yaml: a TrainConfig as a flat YAML mapping, written by every run and read by ``-c``.

A file holds ``schema_version`` and any of the settings; what it leaves out keeps its default. It is
read strictly: unknown, repeated or nested entries are errors that name the line. Text settings are
taken as they are written, so that YAML's ``no`` is the word and not the boolean.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_origin

import msgspec
import yaml

from regraft.config.settings import setting_types
from regraft.config.train_config import SCHEMA_VERSION, TrainConfig, unknown_setting
from regraft.core.files import read_bounded
from regraft.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_BYTES = 65_536  # a full config.yaml has 700


def to_yaml(config: TrainConfig) -> str:
    """Write a configuration as YAML, every setting with its value.

    Parameters
    ----------
    config : TrainConfig
        What a run was started with.

    Returns
    -------
    str
        Ends with a line break; ``from_yaml`` of it gives an equal configuration.

    Examples
    --------
    >>> to_yaml(TrainConfig(seed=3)).splitlines()[:3]
    ['schema_version: 1', 'model: embedded', 'weights: default']
    """
    values = {
        name: value.as_posix() if isinstance(value, Path) else value
        for name, value in ((name, getattr(config, name)) for name in setting_types())
    }
    # YAML folds some characters that are not seen, such as U+0085: then all is written in escapes.
    seen = all(str(value).isprintable() for value in values.values())
    return yaml.safe_dump(
        {"schema_version": SCHEMA_VERSION, **values}, sort_keys=False, allow_unicode=seen
    )


def from_yaml(
    text: str, place: str = "config.yaml", base: TrainConfig | None = None
) -> TrainConfig:
    """Read a configuration from YAML.

    Parameters
    ----------
    text : str
        A flat mapping of settings; an empty text is the default configuration.
    place : str
        File name for messages.
    base : TrainConfig, optional
        What holds where the text says nothing; else the defaults.

    Returns
    -------
    TrainConfig

    Raises
    ------
    ConfigError
        The text is too long, no YAML, no flat mapping, of a newer regraft, or holds an unknown
        setting or a value that the setting cannot have; the message names file and line.

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
    return parse(text, place, base or TrainConfig())[0]


def parse(
    text: str, place: str, base: TrainConfig, words: Collection[str] = ()
) -> tuple[TrainConfig, dict[str, str]]:
    """Read settings, and beside them entries that are plain text.

    Parameters
    ----------
    text, place, base
        As for ``from_yaml``.
    words : collection of str
        Names of entries that are no settings.

    Returns
    -------
    TrainConfig
        ``base``, replaced by what the text says.
    dict of str to str
        Those of the words that the text has; empty where an entry has no value.

    Raises
    ------
    ConfigError
        As ``from_yaml``.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{place} is longer than {MAX_BYTES} characters: not a configuration")
    types = setting_types()
    values: dict[str, Any] = {}
    found: dict[str, str] = {}
    for key, node in _entries(text, place).items():
        line = f"{place}, line {node.start_mark.line + 1}"
        if key == "schema_version":
            _check_version(node.value, line)
        elif key in words:
            found[key] = "" if node.tag.endswith(":null") else node.value.strip()
        elif key not in types:
            raise unknown_setting(key, (*types, *words), f"{line}: ")
        else:
            values[key] = _value(node, types[key], f"{line}: {key}")
    try:
        return base.replace(**values), found
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", hint=error.hint) from None


def read_config(path: Path, base: TrainConfig | None = None) -> TrainConfig:
    """Read a configuration file.

    Parameters
    ----------
    path : Path
        A YAML file, at most 64 KiB.
    base : TrainConfig, optional
        What holds where the file says nothing; else the defaults.

    Returns
    -------
    TrainConfig

    Raises
    ------
    ConfigError
        The file cannot be read, or its contents cannot be used.
    """
    return from_yaml(read_text(path), str(path), base)


def read_text(path: Path) -> str:
    """Read a small text file.

    Raises
    ------
    ConfigError
        It cannot be read, is longer than 64 KiB or is not UTF-8.
    """
    try:
        return read_bounded(path, MAX_BYTES).decode("utf-8-sig")
    except InputError as error:
        raise ConfigError(error.message, hint=error.hint) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None


def _entries(text: str, place: str) -> dict[str, yaml.ScalarNode]:
    """Return key and value node of each entry: PyYAML alone would take the last of two equal ones.

    Nodes are composed and not constructed; PyYAML's own loader is used since libyaml's recursion
    ends the process at deep nesting.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{place}{line}: no YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(f"{place}: no YAML") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{place}: settings are written as `name: value`, one a line")
    entries: dict[str, yaml.ScalarNode] = {}
    for key, value in root.value:
        line = f"{place}, line {key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)):
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


def _value(node: yaml.ScalarNode, kind: Any, place: str) -> Any:
    """Convert one scalar to the setting's type; its text stands for itself where that is text."""
    tag = node.tag.rpartition(":")[2]
    value: Any = node.value
    if get_origin(kind) is Literal:
        return value  # TrainConfig tells which ones there are
    if tag == "null":
        value = None
    elif kind is bool and tag == "bool":  # YAML's yes, no, on and off too
        value = yaml.SafeLoader.bool_values[node.value.lower()]
    try:
        # Not strict: PyYAML takes 1e-1 for text, and the text is a number all the same.
        return msgspec.convert(value, kind, strict=False, dec_hook=_convert_path)
    except (msgspec.ValidationError, ValueError) as error:
        wanted = str(error).partition(", got")[0].replace("Expected", "it must be").replace("`", "")
        raise ConfigError(f"{place} is {node.value[:80] or 'empty'}; {wanted}") from None


def _convert_path(kind: Any, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
