"""What is exported, and how."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from regraft.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

To = Literal["onnx", "web"]
Quantize = Literal["auto", "none", "float16", "int8"]
#: How large tables of weights are stored.
Weights = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class ExportOptions:
    """What ``regraft export`` writes.

    Parameters
    ----------
    to : "onnx" or "web"
        Kind of the files.
    quantize : "auto", "none", "float16" or "int8"
        How large tables of weights are stored; the arithmetic is float32. "auto" is "none" for
        "onnx". For "web" it is "int8": a page has to be loaded before it answers.
    bank : bool
        Keep features of training images, which tell how unlike an image is.
    with_resize : bool
        Write a second file whose input is a decoded image of any size.
    single_file : bool
        Write the page as one HTML file instead of a folder.
    runtime : Path, optional
        The package of onnxruntime-web for the page; by default it is downloaded once.

    Raises
    ------
    ConfigError
        A value cannot be used.
    """

    to: To = "onnx"
    quantize: Quantize = "auto"
    bank: bool = True
    with_resize: bool = False
    single_file: bool = False
    runtime: Path | str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("to", To), ("quantize", Quantize)):
            value, known = getattr(self, name), get_args(allowed)
            if value not in known:
                raise ConfigError(
                    f"{name} is {value!r}; it must be one of {', '.join(known)}",
                )

        if self.to == "web" and self.with_resize:
            raise ConfigError("a page resizes by itself", hint="leave out with_resize")
        for name in ("single_file", "runtime"):
            if self.to != "web" and getattr(self, name):
                raise ConfigError(f"`{name}` is only for a page", hint="add `to='web'`")

    @property
    def weights(self) -> Weights:
        """Return how large tables of weights are stored."""
        if self.quantize == "auto":
            return "int8" if self.to == "web" else "float32"
        return "float32" if self.quantize == "none" else self.quantize

    @classmethod
    def names(cls) -> set[str]:
        """Return the names of the options."""
        return {each.name for each in fields(cls)}

    @classmethod
    def taken_from(cls, settings: dict[str, Any]) -> ExportOptions:
        """Return the options among some settings, and remove them there."""
        return cls(**{name: settings.pop(name) for name in cls.names() & set(settings)})
