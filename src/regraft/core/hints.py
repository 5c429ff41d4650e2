"""Settings that messages name, and how a reader types them.

A message is written once for everybody, so it names a setting as Python has it, in backticks:
```out```, ```views=2```, ```views=4, tta=True```. Python users read that as it is; the command line
replaces it by flags (``regraft.cli.spelling``). A hint has one remedy or several, with "; " between
them; one that names a setting which the reader does not have is left out.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from regraft.errors import RegraftError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_NAME, _TEXT = "[a-z][a-z_]*", r"'(?:[^'\\`]|\\.)*'|\"(?:[^\"\\`]|\\.)*\""
_SETTING = rf"{_NAME}(?:=(?:{_TEXT}|[\w.+-]+))?"
_SETTINGS = re.compile(rf"`({_SETTING}(?:, {_SETTING})*)`")
_ONE = re.compile(rf"({_NAME})(?:=({_TEXT}|[\w.+-]+))?")


def settings_in(text: str) -> list[tuple[str, str]]:
    """Return the settings that a text names, each with the value that it gives or "".

    Examples
    --------
    >>> settings_in("`views=4, tta=True`, or a smaller `lr`")
    [('views', '4'), ('tta', 'True'), ('lr', '')]
    """
    return [pair for found in _SETTINGS.findall(text) for pair in _ONE.findall(found)]


def spell_settings(text: str, spell: Callable[[str, str], str]) -> str:
    """Replace the settings that a text names by what a function of name and value returns."""

    def replaced(found: re.Match[str]) -> str:
        return " ".join(spell(name, value) for name, value in _ONE.findall(found[1]))

    return _SETTINGS.sub(replaced, text)


def remedies_with(hint: str | None, known: Collection[str]) -> str | None:
    """Return the remedies of a hint that name only known settings; None if there is none.

    Examples
    --------
    >>> remedies_with("`overwrite=True` replaces it; `out` names another folder", {"out"})
    '`out` names another folder'
    """
    remedies = (hint or "").split("; ")
    kept = [each for each in remedies if {name for name, _ in settings_in(each)} <= set(known)]
    return "; ".join(kept) or None


@contextmanager
def only_remedies(known: Collection[str]) -> Iterator[None]:
    """Take from the hints of errors what names settings that the caller does not have."""
    try:
        yield
    except RegraftError as error:
        error.hint = remedies_with(error.hint, known)
        raise
