"""Names from files and archives: one Unicode form, and fit to print."""

from __future__ import annotations

import re
import unicodedata

# Characters that change lines, colours or the direction of text on a terminal, and C's end of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

LONGEST_LABEL = 1000  # characters of a class's name


def normalise(name: str) -> str:
    """Return the name in NFC: macOS stores accents as characters of their own, others do not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    r"""Return the name with escapes for control characters and for bytes that are not text.

    Examples
    --------
    >>> print(printable("tu\nlip"), printable("\udcff"))
    tu\nlip \udcff
    """
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
