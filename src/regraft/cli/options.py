"""Flags of the command line, made from the declarations of the settings.

A flag is None unless it is given, so that only what was given replaces the configuration file, and
the file the defaults. (If cyclopts had an instance of TrainConfig as the default, it would lose the
values of that instance as soon as any flag is given.)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, get_args

from cyclopts import Group, Parameter, convert

from regraft.config.declaration import settings_of
from regraft.config.settings import groups, read_by
from regraft.config.train_config import Augment, TrainConfig

if TYPE_CHECKING:
    from typing import TypeAlias

    from regraft.config.declaration import Command, Setting

#: First in the help, after the arguments: groups keep the order in which they were made.
OPTIONS = Group.create_ordered("Options")

ConfigFile = Annotated[
    Path | None,
    Parameter(
        name=["--config", "-c"],
        help="A config.yaml, such as that of a run; flags go before it.",
        metavar="PATH",
    ),
]
Augmentation = Annotated[
    Augment | None,
    Parameter(metavar=settings_of(TrainConfig)["augment"].placeholder, show_choices=False),
]
CacheFolder = Annotated[Path | None, Parameter(help=settings_of(TrainConfig)["cache_dir"].text)]
Picture = Annotated[Path | None, Parameter(metavar="PATH")]
Names = Annotated[str | None, Parameter(metavar="NAMES")]
Engine = Annotated[Literal["torch", "onnx"], Parameter(metavar="torch|onnx", show_choices=False)]


def make_flags(command: Command, kind: type[TrainConfig] = TrainConfig) -> Any:
    """Make a class with an optional field, which is a flag, for each setting that a command reads.

    ``given`` returns the settings of an instance.
    """
    headings = {heading: Group.create_ordered(heading) for heading in groups(kind)}
    settings = settings_of(kind)
    fields: list[tuple[str, Any, Any]] = []
    for name in read_by(command, kind):
        flag = _flag(settings[name], command, headings[settings[name].group])
        optional: Any = Annotated[Optional[_type(settings[name])], flag]  # noqa: UP045 - at run time
        fields.append((name, optional, dataclasses.field(default=None)))
    return dataclasses.make_dataclass(
        f"{command.title().replace('-', '')}Flags",
        fields,
        kw_only=True,
        frozen=True,
        # Without a module of ours cyclopts takes the class for a builtin and finds no flags in it.
        namespace={"__module__": __name__, "__doc__": ""},
    )


def _type(setting: Setting) -> Any:
    """Return the type of a value that is given."""
    kind: Any = setting.base_type if type(None) in get_args(setting.type) else setting.type
    return kind | Literal["none"] if setting.or_none else kind


def _convert(kind: Any, tokens: Any) -> Any:
    """Convert what was given to its type; by itself, cyclopts takes "none" for not given."""
    return convert(kind, tokens)


def _flag(setting: Setting, command: Command, heading: Group) -> Parameter:
    default = setting.default_text(command)
    return Parameter(
        name=[setting.flag, *filter(None, [setting.short])],
        help=setting.text + (f" [default: {default}]" if default else ""),
        metavar=setting.placeholder,
        group=heading,
        show_choices=False,
        negative_iterable=(),
        converter=None if setting.type is bool else _convert,
    )


if TYPE_CHECKING:
    TrainFlags: TypeAlias = Any
    FindFlags: TypeAlias = Any
    CompareFlags: TypeAlias = Any
    RaceFlags: TypeAlias = Any
    EvaluateFlags: TypeAlias = Any
    PredictFlags: TypeAlias = Any
    DriftFlags: TypeAlias = Any
    ShowFlags: TypeAlias = Any
    ExportFlags: TypeAlias = Any
else:
    TrainFlags = make_flags("train")
    FindFlags = make_flags("lr-find")
    CompareFlags = make_flags("compare")
    RaceFlags = make_flags("race")
    EvaluateFlags = make_flags("evaluate")
    PredictFlags = make_flags("predict")
    DriftFlags = make_flags("drift")
    ShowFlags = make_flags("show")
    ExportFlags = make_flags("export")


def given(flags: Any) -> dict[str, Any]:
    """Return the settings that were given as flags; ``flags`` is None where there were none."""
    if flags is None:
        return {}
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    return {name: value for name, value in values.items() if value is not None}


def combine(file: Path | None, flags: Any, base: TrainConfig | None = None) -> TrainConfig:
    """Return a recipe's settings or the defaults, replaced by the file's, replaced by the flags."""
    if file is None:
        return (base or TrainConfig()).replace(**given(flags))
    from regraft.config.yaml_file import read_config  # noqa: PLC0415 - YAML costs 0.02 s

    return read_config(file, base).replace(**given(flags))
