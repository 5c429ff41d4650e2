"""What is exported, and how."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from regraft.errors import ConfigError

To = Literal["onnx", "web"]
Quantize = Literal["none", "float16", "int8"]
#: How large tables of weights are stored.
Weights = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class ExportOptions:
    """What ``regraft export`` writes.

    Parameters
    ----------
    to : "onnx" or "web"
        Kind of the files.
    quantize : "none", "float16" or "int8"
        How large tables of weights are stored; the arithmetic is float32.
    bank : bool
        Keep features of training images, which tell how unlike an image is.

    Raises
    ------
    ConfigError
        A value cannot be used.
    """

    to: To = "onnx"
    quantize: Quantize = "none"
    bank: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (("to", To), ("quantize", Quantize)):
            value, known = getattr(self, name), get_args(allowed)
            if value not in known:
                raise ConfigError(
                    f"{name} is {value!r}; it must be one of {', '.join(known)}",
                )

    @property
    def weights(self) -> Weights:
        """Return how large tables of weights are stored."""
        return "float32" if self.quantize == "none" else self.quantize

    @classmethod
    def names(cls) -> set[str]:
        """Return the names of the options."""
        return {each.name for each in fields(cls)}

    @classmethod
    def taken_from(cls, settings: dict[str, Any]) -> ExportOptions:
        """Return the options among some settings, and remove them there."""
        return cls(**{name: settings.pop(name) for name in cls.names() & set(settings)})
