"""Checks that nothing outside is touched: an audit hook on opened files, and a tree's hash."""

from __future__ import annotations

import encodings.cp437
import encodings.unicode_escape
import encodings.utf_8_sig  # noqa: F401 - imported at first use, which must not be a finding
import hashlib
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Events that must not happen while data are read.
FORBIDDEN = (
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate",
    "os.chmod", "os.chown", "os.utime", "os.system", "os.exec", "os.fork", "os.posix_spawn",
    "os.spawn", "os.startfile", "os.putenv", "shutil.", "subprocess.", "socket.", "urllib.",
    "tempfile.", "pickle.find_class", "marshal.loads", "exec", "compile", "builtins.input",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_watching: list[tuple[Path, list[str]]] = []
_hooked = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching:
        return
    inside, seen = _watching[-1]
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int):
            return
        name = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        if isinstance(flags, int) and flags & _WRITING:
            seen.append(f"{name} was opened for writing")
        elif not name.startswith(str(inside)) and not name.endswith((".py", ".pyc", ".so")):
            seen.append(f"{name} was opened")
    elif event.startswith(FORBIDDEN):
        seen.append(f"{event} {arguments!r}"[:200])


@contextmanager
def watched(inside: Path) -> Iterator[None]:
    """Raise at the end if a file outside of a folder was opened, or any file was written.

    A hook cannot be removed from a process: use this in child processes.
    """
    global _hooked  # noqa: PLW0603 - one hook a process
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    seen: list[str] = []
    _watching.append((inside, seen))
    try:
        yield
    finally:
        _watching.pop()
    if seen:
        raise AssertionError("; ".join(dict.fromkeys(seen)))


def tree_hash(top: Path) -> str:
    """Return a hash of all names, kinds and contents below a folder."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)  # noqa: PTH118 - thousands of times
            digest.update(f"{path} {os.lstat(path).st_mode}".encode("utf-8", "surrogateescape"))
            if os.path.isfile(path) and not os.path.islink(path):  # noqa: PTH113, PTH114
                with open(path, "rb") as file:  # noqa: PTH123
                    digest.update(file.read())
        digest.update(repr((folder, folders)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
