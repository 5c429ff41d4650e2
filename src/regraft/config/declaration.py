"""How a setting is declared: once, at its field, with everything that anybody has to know of it.

Flags, config.yaml, recipes, the help, docs/settings.md, the checks of values and the check for
settings that nothing reads all come from the ``Setting`` at the field. This module imports nothing
that is slow to import.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_origin, get_type_hints

from regraft.core.files import can_be_path
from regraft.core.text import did_you_mean
from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Command = Literal[
    "train", "compare", "lr-find", "race", "evaluate", "predict", "drift", "show", "export"
]  # fmt: skip


#: Instead of a value, where a declaration allows it.
NONE = "none"


def _texts(value: Any) -> tuple[str, ...]:
    """Return one text or several as a tuple; numbers are taken as their text."""
    each = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str | Integral) and str(text).strip() for text in each):
        raise ConfigError(f"{value!r} holds what is no text, or empty text")
    return tuple(map(str, each))


#: By type: what may be given for it, how that is converted, and how it is called.
_TYPES: dict[type, tuple[tuple[type, ...], Callable[[Any], Any], str]] = {
    Path: ((str, os.PathLike), Path, "a path"),
    str: ((str, Real), str, "text"),  # image_size=224, memory=0.5
    int: ((Integral,), int, "a whole number"),
    float: ((Real,), float, "a number"),
    bool: ((bool,), bool, "True or False"),
    tuple: ((str, list, tuple), _texts, "texts that are not empty"),
}


class Rule(Protocol):
    """What a value has to be, besides its type."""

    def allows(self, value: Any) -> bool:
        """Return whether the setting may have this value."""

    def wanted(self, unit: str) -> str:
        """Return what a value must be, for messages and the docs: "between 0 and 1"."""


@dataclass(frozen=True)
class Bounds:
    """The smallest and the largest number; infinity is never one of them.

    Examples
    --------
    >>> Bounds(0, 1, low_included=False).wanted(""), Bounds(1).wanted("seconds")
    ('above 0, at most 1', '1 second or more')
    """

    low: float
    high: float = float("inf")
    low_included: bool = True
    high_included: bool = True
    or_zero: bool = False  # 0 too, which then means "off"

    def allows(self, value: Any) -> bool:
        """Return whether a number is within the bounds; NaN never is."""
        above = self.low <= value if self.low_included else self.low < value
        below = value <= self.high if self.high_included else value < self.high
        return bool((above and below and value < float("inf")) or (self.or_zero and value == 0))

    def wanted(self, unit: str) -> str:
        """Return the bounds in words."""
        if self.high == float("inf"):
            unit = unit.removesuffix("s") if self.low == 1 else unit
            return f"{self.low}{f' {unit}' if unit and self.low else ''} or more"
        if self.high_included and not self.low_included:
            return f"above {self.low}, at most {self.high}"
        words = "0 or " if self.or_zero else ""
        words += f"between {self.low} and {self.high}"
        if self.high_included:
            return words
        return words + (f", {self.high} excluded" if self.low_included else ", both excluded")


@dataclass(frozen=True)
class AutoOrNumber:
    """Text that is the word auto, or a whole number within bounds.

    Examples
    --------
    >>> AutoOrNumber(8, 4096).allows("224"), AutoOrNumber(8, 4096).wanted("pixels")
    (True, 'auto or a number of pixels from 8 to 4096')
    """

    low: int
    high: int

    def allows(self, value: Any) -> bool:
        """Return whether text is auto or such a number."""
        if not (value.isascii() and value.isdecimal()):
            return bool(value == "auto")
        return self.low <= int(value[:9]) <= self.high  # a longer number is too large anyway

    def wanted(self, unit: str) -> str:
        """Return the rule in words."""
        return f"auto or a number{unit and f' of {unit}'} from {self.low} to {self.high}"


@dataclass(frozen=True)
class AutoOrAmount:
    """Text that is the word auto, or a number that is not negative.

    Examples
    --------
    >>> AutoOrAmount().allows("0.5"), AutoOrAmount().allows("a lot"), AutoOrAmount().wanted("GiB")
    (True, False, 'auto or a number of GiB, 0 or more')
    """

    def allows(self, value: Any) -> bool:
        """Return whether text is auto or such a number; infinity is none."""
        try:
            return bool(value == "auto" or 0 <= float(value) < float("inf"))
        except ValueError:
            return False

    def wanted(self, unit: str) -> str:
        """Return the rule in words."""
        return f"auto or a number{unit and f' of {unit}'}, 0 or more"


@dataclass(frozen=True)
class AutoOrShare:
    """Text that is the word auto, or a number between 0 and 1, both excluded.

    Examples
    --------
    >>> [AutoOrShare().allows(text) for text in ("auto", "0.05", "0", "1", "5 %")]
    [True, True, False, False, False]
    """

    def allows(self, value: Any) -> bool:
        """Return whether text is auto or such a number."""
        try:
            return bool(value == "auto" or 0 < float(value) < 1)
        except ValueError:
            return False

    def wanted(self, unit: str) -> str:  # noqa: ARG002 - a share has none
        """Return the rule in words."""
        return "auto or a number between 0 and 1, both excluded"


@dataclass(frozen=True)
class SomeOf:
    """Text that is one word alone, such as none, or some of several words with commas."""

    words: tuple[str, ...]
    alone: str = "none"

    def allows(self, value: Any) -> bool:
        """Return whether text names nothing but these words."""
        return value == self.alone or {*split_words(value)} <= {*self.words}

    def wanted(self, unit: str) -> str:  # noqa: ARG002 - words have none
        """Return the rule in words."""
        return f"{self.alone}, or some of {', '.join(self.words)} with commas"


@dataclass(frozen=True)
class Limit:
    """Text that is a whole number from 1, alone or as in 50/class.

    Examples
    --------
    >>> [Limit().allows(text) for text in ("500", "50/class", "0", "half", "50/image")]
    [True, True, False, False, False]
    """

    def allows(self, value: Any) -> bool:
        """Return whether text is such a limit."""
        number = value.removesuffix("/class")
        # Python converts only so many digits.
        return len(number) <= 18 and number.isascii() and number.isdecimal() and int(number) > 0

    def wanted(self, unit: str) -> str:
        """Return the rule in words."""
        return f"a number{unit and f' of {unit}'} from 1, in all or as in 50/class"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything about one setting.

    ``settings_of`` fills in the last three from the field, and an empty placeholder by the type.
    """

    text: str  # for the help and the docs
    why: str  # the reason for the default, for the docs
    group: str  # heading in the help and in the docs
    unit: str = ""  # in the plural
    rule: Rule | None = None  # values that are allowed, besides the type and the words of a Literal
    placeholder: str = ""  # for the value in the help; if empty, it follows from the type
    short: str = ""  # a second flag
    commands: tuple[Command, ...] = ("train", "compare", "lr-find", "race")  # that read it
    strategies: tuple[str, ...] = ("probe", "finetune", "scratch")  # that read it
    read_with: str = ""  # another setting: if that one is on, every strategy reads this one
    unread_hint: str = ""  # what to do if it is given and the strategy does not read it
    defaults: Mapping[Command, str] = field(default_factory=dict)  # of commands with another one
    harmless: bool = False  # changes nothing of what is learnt from the same images
    or_none: bool = False  # the word none is None: so a flag can switch off what a file has set
    name: str = ""
    type: Any = str
    default: Any = None

    @property
    def flag(self) -> str:
        """The flag that sets it."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The words of a Literal; empty for another type."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def is_repeated(self) -> bool:
        """Whether it has several values: its flag may be repeated, and files have a list."""
        return get_origin(self.type) is tuple

    @property
    def base_type(self) -> type:
        """The type of a value that is given: without None; tuple for several texts."""
        if self.is_repeated:
            return tuple
        return next(each for each in (*get_args(self.type), self.type) if each is not type(None))

    @property
    def wanted_type(self) -> str:
        """The type in words, for messages."""
        return _TYPES[self.base_type][2]

    def default_text(self, command: Command = "train") -> str:
        """Return the default as the help shows it; empty for a switch that is off, and for none."""
        if command in self.defaults:
            return self.defaults[command]
        if isinstance(self.default, bool):
            return "on" if self.default else ""
        return "" if self.default is None or self.default == () else str(self.default)

    def checked(self, value: Any) -> Any:
        """Return a value in the type of the setting.

        Raises
        ------
        ConfigError
            The setting cannot have this value; the message says what it must be.
        """
        if value is None and type(None) in get_args(self.type):
            return None
        if self.or_none and isinstance(value, str | Path) and str(value) == NONE:
            return None
        if self.choices:
            if value not in self.choices:
                raise self._error(value, f"one of {', '.join(self.choices)}")
            return value
        given, convert, wanted = _TYPES[self.base_type]
        if not isinstance(value, given) or (isinstance(value, bool) and self.base_type is not bool):
            raise self._error(repr(value), wanted)
        try:
            value = convert(value)
        except ConfigError:
            raise self._error(repr(value), wanted) from None
        if isinstance(value, Path) and not can_be_path(value):
            raise self._error(value, "a path that this system can have")
        if self.rule is not None and not self.rule.allows(value):
            raise self._error(value, self.rule.wanted(self.unit))
        return value

    def is_read(self, config: Any) -> bool:
        """Return whether a training with this configuration reads the setting."""
        also = bool(self.read_with) and bool(getattr(config, self.read_with))
        return also or config.strategy in self.strategies

    def _error(self, value: Any, wanted: str) -> ConfigError:
        return ConfigError(f"{self.name} is {value}; it must be {wanted}")


def setting(default: Any, text: str, **declared: Any) -> Any:
    """Declare a field of a configuration.

    Parameters
    ----------
    default : Any
        The field's default.
    text : str
        What the setting does, for the help and the docs.
    **declared
        ``why``, ``group`` and other fields of ``Setting``.
    """
    return field(default=default, metadata={"setting": Setting(text=text, **declared)})


@cache
def settings_of(kind: type) -> dict[str, Setting]:
    """Return the settings of a configuration's class by name, in the order of its fields.

    Examples
    --------
    >>> from regraft.config.train_config import TrainConfig
    >>> found = settings_of(TrainConfig)
    >>> found["batch_size"].placeholder, found["out"].placeholder, found["bn"].placeholder
    ('N', 'PATH', 'auto|frozen|train')
    >>> found["max_pixels"].default_text(), found["max_pixels"].default_text("predict")
    ('40000000', 'as in training')
    """
    types = get_type_hints(kind)
    found = {}
    for each in dataclasses.fields(kind):
        declared: Setting = each.metadata["setting"]
        declared = dataclasses.replace(
            declared, name=each.name, type=types[each.name], default=each.default
        )
        shown = declared.placeholder or _placeholder(declared)
        found[each.name] = dataclasses.replace(declared, placeholder=shown)
    return found


def _placeholder(declared: Setting) -> str:
    if declared.choices:
        return "|".join(declared.choices)
    return {int: "N", Path: "PATH"}.get(declared.base_type, "TEXT")


def unknown_setting(name: str, known: Iterable[str], position: str = "") -> ConfigError:
    """Return the error for a name that is not a setting, with the names that are most like it.

    Examples
    --------
    >>> print(unknown_setting("sed", ["seed", "head"]))
    unknown setting sed
    hint: did you mean seed?
    """
    hint = did_you_mean(name, known) or "docs/settings.md has all"
    return ConfigError(f"{position}unknown setting {name}", hint=hint)


def split_words(text: str) -> list[str]:
    """Return the words between commas, each once, without spaces around them.

    Examples
    --------
    >>> split_words("a, b,a")
    ['a', 'b']
    """
    return [*dict.fromkeys(word.strip() for word in text.split(","))]
