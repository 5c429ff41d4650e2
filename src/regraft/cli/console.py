"""What every command does in the same way: errors, warnings, exit codes, signals.

Errors are two lines, warnings one. Exit codes: 0 done, 1 failed, 2 bad input or usage, 130 and 143
on Ctrl-C and SIGTERM, 141 if the reader of our output has closed it.
"""

# ruff: noqa: T201 - the messages of every command

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

from regraft.core.background import BACKGROUND
from regraft.errors import RegraftError, RegraftWarning, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143
#: Errors of any call after a disk has failed, or the network of a folder.
_GONE = {
    getattr(errno, name)
    for name in ("EIO", "ENOTCONN", "ESTALE", "EHOSTDOWN", "ETIMEDOUT")
    if hasattr(errno, name)
}
_GONE_HINT = "hint: the disk or its network has failed; check it and try again"


def guarded(command: Callable[[], int]) -> int:
    """Run a command; return its exit code, or that of the error which it raised.

    An expected error is printed as two lines, an unexpected one with its traceback.
    """
    _survive_narrow_encodings()
    try:
        with _short_warnings(), _terminable():
            code = command()
            sys.stdout.flush()  # a closed pipe raises here and not at exit
    except RegraftError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _silence(sys.stdout)
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost call: it returns an exit code
        if isinstance(error, OSError) and error.errno in _GONE:
            what = "" if error.filename is None else f"{visible(str(error.filename))}: "
            print(f"error: {what}{error.strerror}\n{_GONE_HINT}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    else:
        return code


def end(code: int) -> int:
    """Return the exit code, or end the process if it failed while a thread still imports torch.

    The interpreter would wait seconds for that thread, and the import is not needed any more.
    """
    if code and any(thread.name.startswith(BACKGROUND) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def print_error(error: RegraftError) -> None:
    """Print an error on stderr: the message, and the hint on its own line."""
    print(f"error: {error}", file=sys.stderr)


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Print our own warnings as one line, each text once; leave those of libraries as they are."""
    seen: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", RegraftWarning)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, RegraftWarning):
                others(message, category, filename, lineno, file, line)
            elif str(message) not in seen:
                seen.add(str(message))
                print(f"warning: {visible(str(message))}", file=sys.stderr)

        warnings.showwarning = show
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that files and progress bars are closed in order."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals can be caught in the main thread only
        return

    def terminate(number: int, frame: object) -> NoReturn:
        del number, frame
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _survive_narrow_encodings() -> None:
    """Print the number of a character that the console's encoding lacks, and go on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence(stream: TextIO) -> None:
    """Discard what is still buffered; else the interpreter prints an error at exit."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    except (OSError, ValueError):
        pass  # not a real file, as in tests: nothing is flushed at exit
