"""Settings in messages, as the reader of the command line types them: with the command's flags."""

from __future__ import annotations

import ast
import shlex
from functools import cached_property
from typing import TYPE_CHECKING

from regraft.core.hints import remedies_with, settings_in, spell_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cyclopts import App

    from regraft.errors import RegraftError

#: `regraft compare` trains with several of each.
_OF_SEVERAL = {"model": "models", "strategy": "strategies"}


class Spelling:
    """The flags of one command, by the names of the settings that they set.

    ``list_flags`` is called where a text names a setting: a parser's list takes 0.05 s.
    """

    def __init__(self, list_flags: Callable[[], Iterable[str]] = tuple) -> None:
        self._list_flags = list_flags

    @cached_property
    def _flags(self) -> dict[str, str]:
        flags = [flag for flag in self._list_flags() if flag.startswith("--")]
        found = {flag.removeprefix("--").replace("-", "_"): flag for flag in flags}
        for one, several in _OF_SEVERAL.items():
            if several in found:
                found.setdefault(one, found[several])
        return found

    @classmethod
    def of(cls, app: App, words: Sequence[str]) -> Spelling:
        """Return the spelling of the command that some words call."""

        def list_flags() -> list[str]:
            chain, apps, _ = app.parse_commands(list(words))
            if not chain or chain[-1].startswith("-"):
                return []
            arguments = apps[-1].assemble_argument_collection()
            return [flag for argument in arguments for flag in argument.names]

        return cls(list_flags)

    def text(self, text: str) -> str:
        """Return a text with flags in place of settings.

        Examples
        --------
        >>> Spelling().text("`cached_views=0`; `views=4, tta=True, cache=False`")
        '--cached-views 0; --views 4 --tta --no-cache'
        """
        return spell_settings(text, self._flag)

    def error(self, error: RegraftError) -> None:
        """Write an error in flags; remedies with flags that the command does not have go."""
        first = error.parts[0]  # further lines are names
        error.message = self.text(first) + error.message.removeprefix(first)
        kept = error.hint
        if kept is not None and settings_in(kept):
            kept = remedies_with(kept, self._flags)
        error.hint = None if kept is None else self.text(kept)

    def _flag(self, name: str, value: str) -> str:
        flag = self._flags.get(name, f"--{name.replace('_', '-')}")
        if value == "False":
            return flag.replace("--", "--no-", 1)
        if value in {"", "True"}:
            return flag
        quoted = value.startswith(("'", '"'))
        return f"{flag} {shlex.quote(ast.literal_eval(value)) if quoted else value}"


class _Current:
    spelling: Spelling | None = None  # none in Python, where ConsoleReporter is used too


def use(spelling: Spelling) -> Spelling:
    """Write what is printed from now on with the flags of another command."""
    _Current.spelling = spelling
    return spelling


def spelled(text: str) -> str:
    """Return a text with the flags of the command that runs; as it is if none runs."""
    return text if _Current.spelling is None else _Current.spelling.text(text)
