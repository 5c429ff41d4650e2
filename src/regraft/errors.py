"""All errors and warnings that regraft raises on purpose.

::

    RegraftError                 exit code 1: something failed
    ├── InputError               exit code 2: the input cannot be used
    │   ├── ConfigError          a setting has a value that it cannot have
    │   ├── DataError            the images, labels or parts as a whole
    │   │   ├── ArchiveError     an archive, or one member of it
    │   │   ├── TableError       a CSV or Parquet table, or one row of it
    │   │   └── ImageError       one image: has a ``kind`` and a ``reason``
    │   ├── BackboneError        an unknown or unusable network
    │   ├── WeightsError         weights that are missing, do not fit or have the wrong hash
    │   ├── BundleError          a bundle that is damaged, altered, or gives other results here
    │   ├── RunError             a run folder that cannot be read or must not be replaced
    │   ├── EstimatorError       images or labels given to ``Classifier``; a ValueError as well
    │   └── MissingExtraError    an optional package; names its ``pip install 'regraft[x]'``
    ├── FrozenError              parameters that must not change have changed
    ├── DivergedError            a training's loss, gradient or weights are no longer finite
    ├── StoreError               the feature store cannot be used
    ├── ExportError              files cannot be exported, or answer otherwise than the bundle
    ├── OutputError              the results cannot be printed
    ├── MemoryShortError         there is not enough memory
    └── DiskFullError            no space left; names the path

    RegraftWarning               shown as one line, never stops anything
    ├── ConvergenceWarning       a fit stopped before its gradient was small
    ├── SmallSampleWarning       too few images for a reliable result
    ├── LevelWarning             a level that was asked for cannot be had
    ├── StoreWarning             the run goes on without the store
    ├── RunWarning               a run is complete, and something of an earlier one is left
    └── LogWarning               the run goes on, and a log of it is not up to date

A message names the problem and the value or file; the hint says what to do. This module imports
nothing of regraft.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Escapes(dict[int, str]):
    """How each character is written, by its code; filled in as they come."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character.isprintable() or character in _KEPT:
            self[code] = character
        elif code < 256:
            self[code] = f"\\x{code:02x}"
        else:
            self[code] = f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        return self[code]


_KEPT = "\t\n\u3000"  # and the blank of Japanese names, which is seen: it is two columns wide
_ESCAPES = _Escapes()


def visible(text: str) -> str:
    r"""Write characters that are not seen as escapes: names from files must not control a terminal.

    These are, as in Python's ``repr``: control characters, marks that change the direction of text,
    characters without a width, other blanks than the space, and halves of characters. Tabs and line
    breaks stay.

    Examples
    --------
    >>> print(visible("a tulip" + chr(27) + "[2J" + chr(0x200F)))
    a tulip\x1b[2J\u200f
    """
    return text if text.isprintable() else text.translate(_ESCAPES)


def one_line(text: str) -> str:
    r"""Write line breaks as escapes too: a name must not write a line of its own.

    Examples
    --------
    >>> print(one_line("a.jpg" + chr(10) + "error: none"))
    a.jpg\nerror: none
    """
    return visible(text).replace("\n", "\\n")


class RegraftError(Exception):
    """Base of all errors; printed as one or two lines, without a traceback.

    Parameters
    ----------
    message : str
        The problem, with the value or the file.
    hint : str, optional
        What to do about it; printed after ``hint:``.
    lines : sequence of str
        Further lines, printed between the two.

    Examples
    --------
    >>> error = InputError("no images in photos/", hint="put them into one folder per class")
    >>> print(error)
    no images in photos/
    hint: put them into one folder per class
    >>> error.exit_code
    2
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None, lines: Sequence[str] = ()) -> None:
        self.message = visible("\n".join([message, *lines]))
        self.hint = None if hint is None else visible(hint)
        self._lines = [visible(line) for line in lines]
        super().__init__(self.message)

    def __str__(self) -> str:
        return "\n".join(self.parts)

    @property
    def parts(self) -> list[str]:
        """What is printed, line by line; a line break in one of them comes from a name."""
        message = self.message.removesuffix("\n".join(["", *self._lines]))
        hint = [] if self.hint is None else [f"hint: {self.hint}"]
        return [message, *self._lines, *hint]


class InputError(RegraftError):
    """The input cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A setting has a value that it cannot have."""


class DataError(InputError):
    """The images, labels or parts cannot be used as a whole."""


class ArchiveError(DataError):
    """An archive, or one member of it, cannot be used."""


class TableError(DataError):
    """A CSV or Parquet table, or one row of it, cannot be used."""


class ImageError(DataError):
    """One image cannot be used.

    Parameters
    ----------
    kind : str
        A short fixed word for the ledger, such as ``"truncated"``.
    reason : str
        One sentence with the details.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason


#: Of an image on which the network fails, in training and in prediction.
NOT_FINITE = ImageError("not finite", "the network gives infinite or undefined features")


class BackboneError(InputError):
    """A network is unknown or cannot be used here."""


class WeightsError(InputError):
    """Weights are missing, do not fit the network or have the wrong hash."""


class BundleError(InputError):
    """A bundle is damaged, altered, or gives other results on this machine."""


class RunError(InputError):
    """A run folder cannot be read, or must not be replaced."""


class EstimatorError(InputError, ValueError):
    """Images, labels or settings that ``regraft.Classifier`` cannot use; a ValueError as well."""


class MissingExtraError(InputError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}", hint=f"pip install 'regraft[{extra}]'")


class ExportError(RegraftError):
    """Files cannot be exported, or answer otherwise than the bundle."""


class FrozenError(RegraftError):
    """Parameters or buffers that must not change have changed."""


class DivergedError(RegraftError):
    """A training's loss, gradient or weights are no longer finite."""


class StoreError(RegraftError):
    """The feature store cannot be used."""


class OutputError(RegraftError):
    """Results cannot be printed: stdout is closed, or on a full disk."""


class MemoryShortError(RegraftError):
    """The system or a limit gives no more memory."""


class DiskFullError(RegraftError):
    """There is no space left for a file."""


class RegraftWarning(UserWarning):
    """Base of all warnings."""


class ConvergenceWarning(RegraftWarning):
    """A fit stopped before its gradient was small."""


class SmallSampleWarning(RegraftWarning):
    """There are too few images for a reliable result."""


class LevelWarning(RegraftWarning):
    """A coverage or a precision that was asked for cannot be had: each set has all classes, say."""


class StoreWarning(RegraftWarning):
    """The run goes on without the store, or with a new one."""


class RunWarning(RegraftWarning):
    """A run is complete, and something of an earlier one could not be removed."""


class LogWarning(RegraftWarning):
    """The run goes on, and a log of it is not up to date."""
