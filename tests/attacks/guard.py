"""An audit hook that notices what loading must never do, and raises there.

Python tells its hooks of every file that is opened, module imported, process started, socket made
and pickle that looks up a class (PEP 578). A hook cannot be taken away again, so this one belongs
into a process of its own, and is armed only while something is under attack.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Beginnings of the events that are never allowed.
FORBIDDEN = (
    "_posixsubprocess", "_winapi.CreateProcess", "code.__new__", "compile", "ctypes.", "exec",
    "fcntl.", "ftplib.", "http.", "imaplib.", "marshal.", "os.chmod", "os.chown", "os.exec",
    "os.fork", "os.kill", "os.link", "os.mkdir", "os.posix_spawn", "os.putenv", "os.remove",
    "os.rename", "os.rmdir", "os.spawn", "os.startfile", "os.symlink", "os.system", "os.truncate",
    "os.unsetenv", "pickle.find_class", "poplib.", "pty.", "shutil.", "signal.", "smtplib.",
    "socket.", "sqlite3.", "subprocess.", "tempfile.", "urllib.", "webbrowser.", "winreg.",
)  # fmt: skip
_READ_ONLY = {None, "r", "rb", "rt"}


class ForbiddenError(RuntimeError):
    """Something happened that must not; also in ``Guard.seen``, should somebody swallow it."""


class Guard:
    """The hook of this process; make one, and only where it may stay.

    Attributes
    ----------
    seen : list of str
        What was noticed while it watched.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._inside: str | None = None
        self._known: set[str] = set()
        self._counted = 0
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self, inside: Path) -> Iterator[None]:
        """Watch a block of code; files may be read in one folder only, and no new package comes in.

        Parameters
        ----------
        inside : Path
            The folder.

        Yields
        ------
        None
        """
        self.seen = []
        self._learn()
        known = self._known
        self._inside = os.path.realpath(inside)
        try:
            yield
        finally:
            self._inside = None
            self._learn()
            # Not every way to import tells the hooks.
            self.seen += [f"imported {name}" for name in self._known - known]

    def _learn(self) -> None:
        if len(sys.modules) != self._counted:  # a set of 3,000 names takes two milliseconds
            self._known = {name.partition(".")[0] for name in sys.modules}
            self._counted = len(sys.modules)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._inside is None:
            return
        if event in {"open", "os.listdir", "os.scandir"}:
            wrong = self._wrong_place(arguments)
        elif event == "import":
            wrong = str(arguments[0]).partition(".")[0] not in self._known
        else:
            wrong = event.startswith(FORBIDDEN)
        if wrong:
            self.seen.append(f"{event} {arguments!r:.200}")
            raise ForbiddenError(event)

    def _wrong_place(self, arguments: tuple[Any, ...]) -> bool:
        path, mode = arguments[0], arguments[1] if len(arguments) > 1 else None
        if isinstance(path, int):  # a descriptor: its opening was seen
            return mode not in _READ_ONLY
        flags = arguments[2] if len(arguments) > 2 else 0
        place = os.path.realpath(os.fsdecode(path if path is not None else "."))
        writes = mode not in _READ_ONLY or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return writes or os.path.commonpath([place, self._inside or "/"]) != self._inside
