"""An audit hook that raises an error where loading does something forbidden.

Python calls its hooks for every file that is opened, module that is imported, process that is
started, socket that is made and class that a pickle looks up (PEP 578). A hook cannot be removed,
so this one needs a process of its own, and is active only during an attack.
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
#: What a torch that is built for CUDA does to count the devices.
_COUNTS_DEVICES = ("ctypes.dlopen", ("libnvidia-ml.so.1",))
_READ_ONLY = {None, "r", "rb", "rt"}


class ForbiddenError(RuntimeError):
    """Something forbidden happened; ``Guard.seen`` has it, too, in case this error is caught."""


class Guard:
    """The hook of this process, which stays to its end."""

    def __init__(self) -> None:
        self.seen: list[str] = []  # forbidden events of the last block
        self._inside: str | None = None
        self._known: set[str] = set()
        self._counted = 0
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self, inside: Path) -> Iterator[None]:
        """Watch a block of code; it may read files in one folder, and import no new package."""
        self.seen = []
        self._learn()
        known = self._known
        self._inside = os.path.realpath(inside)
        try:
            yield
        finally:
            self._inside = None
            self._learn()
            # Not every kind of import calls the hooks.
            self.seen += [f"imported {name}" for name in self._known - known]

    def _learn(self) -> None:
        if len(sys.modules) != self._counted:  # a set of 3,000 names takes two milliseconds
            self._known = {name.partition(".")[0] for name in sys.modules}
            self._counted = len(sys.modules)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._inside is None:
            return
        if event in {"open", "os.listdir", "os.scandir"}:
            wrong = self._is_forbidden_file(arguments)
        elif event == "import":
            wrong = str(arguments[0]).partition(".")[0] not in self._known
        else:
            wrong = event.startswith(FORBIDDEN) and (event, arguments) != _COUNTS_DEVICES
        if wrong:
            self.seen.append(f"{event} {arguments!r:.200}")
            raise ForbiddenError(event)

    def _is_forbidden_file(self, arguments: tuple[Any, ...]) -> bool:
        path, mode = arguments[0], arguments[1] if len(arguments) > 1 else None
        if isinstance(path, int):  # a descriptor: its opening was seen
            return mode not in _READ_ONLY
        flags = arguments[2] if len(arguments) > 2 else 0
        real = os.path.realpath(os.fsdecode(path if path is not None else "."))
        writes = mode not in _READ_ONLY or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return writes or os.path.commonpath([real, self._inside or "/"]) != self._inside
