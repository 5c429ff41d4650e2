"""The standard streams: results on stdout must arrive, progress on stderr may be lost.

Either may be closed (``2>&-``, a daemon, ``pythonw``), or cannot be written (a full disk). All text
that we print passes here, so that names from files are written visibly.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

from regraft.errors import OutputError, visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Nowhere(io.TextIOBase):
    """Takes the place of a stream that is closed: what is written is lost."""

    def write(self, text: str) -> int:
        return len(text)


class _Checked:
    """A stream that may be on a full disk.

    If it is ``needed``, what cannot be written is an OutputError; else it is lost. A reader of
    results that went away is a BrokenPipeError.
    """

    def __init__(self, stream: TextIO, *, needed: bool) -> None:
        self._stream, self._needed = stream, needed

    def write(self, text: str) -> int:
        with self._failures():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._failures():
            self._stream.flush()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: closed by somebody
            if self._needed and isinstance(error, BrokenPipeError):
                raise
            silence(self._stream)  # what is buffered would fail again at exit
            if self._needed:
                reason = getattr(error, "strerror", None) or error
                raise OutputError(f"the results cannot be printed: {reason}") from error

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Put something in the place of streams that are closed; a failure of stderr ends nothing."""
    _take_standard_numbers()
    before = sys.stdin, sys.stdout, sys.stderr
    for stream in before[1:]:  # a character that the console's encoding lacks: its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    sys.stdout, sys.stderr = (
        cast("TextIO", _Nowhere() if stream is None else _Checked(stream, needed=needed))
        for stream, needed in ((sys.stdout, True), (sys.stderr, False))
    )
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _take_standard_numbers() -> None:
    """Open the null device where 0, 1 or 2 is closed: else a file of ours gets that number.

    Libraries in C print to number 2, and would write into the feature store.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # noqa: FBT003 - as the system does


def write(text: str) -> None:
    """Print results on stdout, now; raise OutputError if they do not arrive.

    A BrokenPipeError passes: the reader wants no more.
    """
    if isinstance(sys.stdout, _Nowhere):
        raise OutputError("the results cannot be printed: stdout is closed")
    sys.stdout.write(f"{visible(text)}\n")
    sys.stdout.flush()


@contextmanager
def complete_without_printing(folder: Path | None = None) -> Iterator[None]:
    """Warn if the results cannot be printed: they are in files, and the work is done."""
    try:
        yield
    except OutputError as error:
        tell(f"warning: {error.message}" + ("" if folder is None else f"; they are in {folder}"))


def tell(text: str) -> None:
    """Print a message on stderr, now; it is lost if stderr is closed or cannot be written."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{visible(text)}\n")
            sys.stderr.flush()


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is open and shown on a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def silence(stream: TextIO) -> None:
    """Discard what is still buffered; else the interpreter prints an error at exit."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    except (OSError, ValueError):
        pass  # not a real file, as in tests: nothing is flushed at exit
