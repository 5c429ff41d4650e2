"""What every command does in the same way: errors, warnings, exit codes, signals.

Errors are two lines, warnings one. Exit codes: 0 done, 1 failed, 2 bad input or usage, 130 and 143
on Ctrl-C and SIGTERM, 141 if the reader of our output has closed it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

from regraft.cli.spelling import spelled
from regraft.cli.streams import silence, standard_streams, tell
from regraft.core.background import BACKGROUND
from regraft.core.memory import lacks_memory
from regraft.errors import DataError, MemoryShortError, RegraftError, RegraftWarning, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143
#: Errors of any call after a disk has failed, or the network of a folder.
_GONE = {
    getattr(errno, name)
    for name in ("EIO", "ENOTCONN", "ESTALE", "EHOSTDOWN", "ETIMEDOUT")
    if hasattr(errno, name)
}
_GONE_HINT = "the disk or its network has failed; check it and try again"
_MEMORY_HINT = (
    "a smaller --batch-size, --memory, --workers, --image-size or --model; or raise the limit "
    "(ulimit -v, the container's, the batch system's)"
)


def guarded(command: Callable[[], int]) -> int:
    """Run a command; return its exit code, or that of the error which it raised.

    An expected error is printed as two lines, an unexpected one with its traceback.
    """
    with standard_streams():
        return _guarded(command)


def _guarded(command: Callable[[], int]) -> int:
    try:
        with _short_warnings(), _terminable():
            code = command()
            sys.stdout.flush()  # a closed pipe raises here and not at exit
    except KeyboardInterrupt:
        tell("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost call: it returns an exit code
        expected = _expected(error)
        if expected is None:
            tell(traceback.format_exc().rstrip())
            return 1
        print_error(expected)
        return expected.exit_code
    else:
        return code


def _expected(error: Exception) -> RegraftError | None:
    """Return what is said about an error; None if nobody expected it."""
    # A damaged image that asks for too much memory is reported as such.
    if not isinstance(error, MemoryShortError | DataError) and lacks_memory(error):
        return MemoryShortError("there is not enough memory", hint=_MEMORY_HINT)
    if isinstance(error, RegraftError):
        return error
    if isinstance(error, OSError) and error.errno in _GONE:
        what = "" if error.filename is None else f"{error.filename}: "
        return RegraftError(f"{what}{error.strerror}", hint=_GONE_HINT)
    return None


def end(code: int) -> int:
    """Return the exit code, or end the process if it failed while a thread still imports torch.

    The interpreter would wait seconds for that thread, and the import is not needed any more.
    """
    if code and any(thread.name.startswith(BACKGROUND) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # None if it is closed
                stream.flush()
        os._exit(code)
    return code


def print_error(error: RegraftError) -> None:
    """Print an error on stderr: the message, and the hint on its own line."""
    tell("\n".join(map(one_line, ["error: " + error.parts[0], *error.parts[1:]])))


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
                tell(f"warning: {one_line(spelled(str(message)))}")

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
