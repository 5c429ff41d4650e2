"""Flags of the command line, made from the fields of TrainConfig.

Every flag of a twin class is None until it is given, so that only what was given replaces what the
configuration file says, and that what the defaults say. (Handing cyclopts a default instance of
TrainConfig would lose that instance's values as soon as any flag is given.)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

from cyclopts import Group, Parameter

from regraft.config.settings import (
    COMPARING,
    GROUPS,
    PREDICTING,
    READING,
    SHOWING,
    STEPPING,
    default_text,
    placeholder,
    setting_types,
)
from regraft.config.train_config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

#: First in the help, behind the arguments: groups keep the order in which they were made.
OPTIONS = Group.create_ordered("Options")

ConfigFile = Annotated[
    Path | None,
    Parameter(
        name=["--config", "-c"],
        help="A config.yaml, such as a run's own; flags go before what it says.",
        metavar="PATH",
    ),
]
CacheFolder = Annotated[
    Path | None,
    Parameter(help="The store's folder; else $REGRAFT_CACHE, else the platform's cache folder."),
]
Picture = Annotated[Path | None, Parameter(metavar="PATH")]
Names = Annotated[str | None, Parameter(metavar="NAMES")]


def _flags(name: str, settings: Iterable[str]) -> Any:
    """Make a class with one optional field and flag for each setting."""
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    headings = {setting: heading for heading, names in GROUPS.items() for setting in names}
    groups = {heading: Group.create_ordered(heading) for heading in GROUPS}
    types = setting_types()
    twins: list[tuple[str, Any, Any]] = []
    for setting in settings:
        metadata = fields[setting].metadata
        default = default_text(setting)
        if setting == "max_pixels" and name in {"EvaluateFlags", "PredictFlags"}:
            default = "as in training"
        if setting == "strategy" and name == "FindFlags":  # the probe takes no steps
            default = "finetune"
        flag = Parameter(
            name=[f"--{setting.replace('_', '-')}", *filter(None, [metadata.get("short")])],
            help=metadata["help"] + (f" [default: {default}]" if default else ""),
            metavar=placeholder(setting),
            group=groups[headings[setting]],
            show_choices=False,
        )
        # None and not the default: see above.
        kind: Any = Annotated[Optional[types[setting]], flag]  # noqa: UP045 - made at run time
        twins.append((setting, kind, dataclasses.field(default=None)))
    return dataclasses.make_dataclass(
        name,
        twins,
        kw_only=True,
        frozen=True,
        # Without a module of ours cyclopts takes the class for a builtin and finds no flags in it.
        namespace={"__module__": __name__, "__doc__": ""},
    )


if TYPE_CHECKING:
    TrainFlags: TypeAlias = Any
    FindFlags: TypeAlias = Any
    CompareFlags: TypeAlias = Any
    EvaluateFlags: TypeAlias = Any
    PredictFlags: TypeAlias = Any
    ShowFlags: TypeAlias = Any
else:
    TrainFlags = _flags("TrainFlags", setting_types())
    FindFlags = _flags("FindFlags", STEPPING)
    CompareFlags = _flags("CompareFlags", COMPARING)
    EvaluateFlags = _flags("EvaluateFlags", READING)
    PredictFlags = _flags("PredictFlags", PREDICTING)
    ShowFlags = _flags("ShowFlags", SHOWING)


def given(flags: Any) -> dict[str, Any]:
    """Return the settings that were given as flags.

    Parameters
    ----------
    flags : TrainFlags, FindFlags, CompareFlags, EvaluateFlags, PredictFlags, ShowFlags or None
        None where no flag was given at all.

    Returns
    -------
    dict of str to value
        Names as in TrainConfig.
    """
    if flags is None:
        return {}
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    return {name: value for name, value in values.items() if value is not None}


def combine(file: Path | None, flags: Any, base: TrainConfig | None = None) -> TrainConfig:
    """Return the defaults, replaced by the configuration file, replaced by the flags.

    Parameters
    ----------
    file : Path or None
        A configuration file.
    flags : TrainFlags or None
        As parsed.
    base : TrainConfig, optional
        A recipe's, in place of the defaults.

    Raises
    ------
    ConfigError
        The file or a value cannot be used.
    """
    if file is None:
        return (base or TrainConfig()).replace(**given(flags))
    from regraft.config.yaml_file import read_config  # noqa: PLC0415 - YAML costs 0.02 s

    return read_config(file, base).replace(**given(flags))
