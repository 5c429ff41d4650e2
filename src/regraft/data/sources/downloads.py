"""Errors of downloads, in one form for every server."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError

from regraft.core.files import is_full
from regraft.core.transfers import OTHER_FORM
from regraft.errors import DiskFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from regraft.errors import DataError


_LONGEST_REASON = 400  # characters: servers send texts, too


@contextmanager
def download_errors(
    what: str,
    setting: str,
    failures: tuple[type[Exception], ...],
    explain: Callable[[Exception], DataError],
) -> Iterator[None]:
    """Replace the failures of a download: a full disk by DiskFullError, others by DataError.

    ``setting`` is the setting of the folder for downloads; ``explain`` makes the DataError.

    Examples
    --------
    >>> from errno import ENOSPC
    >>> from regraft.errors import DataError
    >>> with download_errors("mnist", "`data_root`", (OSError,), DataError):
    ...     raise OSError(ENOSPC, "No space left on device")
    Traceback (most recent call last):
    regraft.errors.DiskFullError: no space left for mnist
    hint: free some space; `data_root` names another folder
    """
    try:
        yield
    except failures as error:
        if is_full(error):
            raise DiskFullError(
                f"no space left for {what}",
                hint=f"free some space; {setting} names another folder",
            ) from error
        raise explain(error) from error


def reason_of(error: Exception) -> str:
    r"""Return an error's message in one line, without the secrets of an address.

    These are the signature of a signed address, and a name and password before its host.

    Examples
    --------
    >>> reason_of(OSError("https://example.org/a.zip?key=5d1\n is not there"))
    'https://example.org/a.zip?... is not there'
    >>> reason_of(OSError("https://me:5d1@example.org/a.zip is not there"))
    'https://...@example.org/a.zip is not there'
    >>> reason_of(EOFError())
    'EOFError'
    """
    message = str(error)
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        message = str(error.reason)
    message = " ".join(message.split()) or type(error).__name__
    if isinstance(error, OTHER_FORM):
        message = f"the server answers in an unknown form ({type(error).__name__}: {message})"
    message = re.sub(r"(?<=//)[^/\s@]+@", "...@", re.sub(r"\?\S+", "?...", message))
    return message if len(message) <= _LONGEST_REASON else f"{message[:_LONGEST_REASON]}..."
