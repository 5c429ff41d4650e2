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
    └── DiskFullError            no space left; names the path

    RegraftWarning               shown as one line, never stops anything
    ├── ConvergenceWarning       a fit stopped before its gradient was small
    ├── SmallSampleWarning       too few images for a reliable result
    ├── StoreWarning             the run goes on without the store
    ├── RunWarning               a run is complete, and something of an earlier one is left
    └── LogWarning               the run goes on, and a log of it is not up to date

A message names the problem and the value or file; the hint says what to do. This module imports
nothing.
"""

#: Control characters except tab and line break, and those that change the direction of text.
_UNSEEN = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F),
                 *range(0x2066, 0x206A))
}  # fmt: skip


def visible(text: str) -> str:
    r"""Write control characters as escapes: names from files must not control a terminal.

    Tabs and line breaks stay.

    Examples
    --------
    >>> print(visible("a tulip" + chr(27) + "[2J"))
    a tulip\x1b[2J
    """
    return text.translate(_UNSEEN)


class RegraftError(Exception):
    """Base of all errors; printed as one or two lines, without a traceback.

    Parameters
    ----------
    message : str
        The problem, with the value or the file.
    hint : str, optional
        What to do about it; printed after ``hint:``.

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

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = visible(message)
        self.hint = hint
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


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


class FrozenError(RegraftError):
    """Parameters or buffers that must not change have changed."""


class DivergedError(RegraftError):
    """A training's loss, gradient or weights are no longer finite."""


class StoreError(RegraftError):
    """The feature store cannot be used."""


class DiskFullError(RegraftError):
    """There is no space left for a file."""


class RegraftWarning(UserWarning):
    """Base of all warnings."""


class ConvergenceWarning(RegraftWarning):
    """A fit stopped before its gradient was small."""


class SmallSampleWarning(RegraftWarning):
    """There are too few images for a reliable result."""


class StoreWarning(RegraftWarning):
    """The run goes on without the store, or with a new one."""


class RunWarning(RegraftWarning):
    """A run is complete, and something of an earlier one could not be removed."""


class LogWarning(RegraftWarning):
    """The run goes on, and a log of it is not up to date."""
