"""Help and usage errors of the command line: plain text, without boxes.

Plain text reads the same in a terminal, a log and docs/help.md, and needs only half of rich.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from cyclopts import CycloptsError, MissingArgumentError, UnknownCommandError, UnknownOptionError
from cyclopts.exceptions import UnusedCliTokensError

from regraft.cli.synonyms import suggest_command, suggest_flag
from regraft.errors import InputError

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

WIDEST = 100  # columns; longer lines are hard to read
LABELS = 27  # columns of the names on the left


class HelpFormatter:
    """Writes two columns, names and text, with one heading per group."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Write one group of flags, arguments or commands."""
        del options
        if not panel.entries:
            return
        width = min(console.width, WIDEST)
        lines = [f"{panel.title}:"]
        for entry in panel.entries:
            lines += _entry_lines(entry, width)
        _write(console, "\n".join([*lines, ""]))

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Write the usage line."""
        del options
        _write(console, f"{_plain(usage)}\n")

    def render_description(self, console: Console, options: ConsoleOptions, text: Any) -> None:
        """Write the description of the command, paragraph by paragraph."""
        del options
        paragraphs = _plain(text).split("\n\n")
        width = min(console.width, WIDEST)
        if any(paragraphs):
            _write(console, "\n\n".join(textwrap.fill(part, width) for part in paragraphs) + "\n")


def _plain(text: Any) -> str:
    """Return the text of a str, of rich's Text, or of the wrapper that cyclopts passes."""
    text = getattr(text, "primary_renderable", text)
    return str(getattr(text, "plain", text) or "").strip()


def _write(console: Console, text: str) -> None:
    # Not console.print: it breaks lines again, and ends the process if a pipe is closed.
    console.file.write(f"{text}\n")


def _entry_lines(entry: HelpEntry, width: int) -> list[str]:
    """Return the lines of one flag, argument or command."""
    text = _plain(entry.description)
    names = [*entry.positive_names, *entry.positive_shorts]
    if "[default: on]" in text:  # a switch that is off needs no name to switch it off
        names = [name.replace("--", "--[no-]", 1) for name in entry.positive_names]
    if entry.positional_label:
        names = [entry.positional_label]
    metavar = "" if entry.positional_label else entry.metavar
    label = ", ".join(names) + (f" {metavar}" if metavar else "")
    body = textwrap.wrap(text, max(20, width - LABELS - 2), break_on_hyphens=False) or [""]
    if len(label) > LABELS - 2:
        return [f"  {label}", *(" " * (LABELS + 2) + line for line in body)]
    return [
        f"  {label:<{LABELS}}{body[0]}".rstrip(),
        *(" " * (LABELS + 2) + line for line in body[1:]),
    ]


def usage_error(error: CycloptsError) -> InputError:
    """Return our own error for one of the parser; its hint is the nearest name, or the help."""
    command = " ".join(["regraft", *(error.command_chain or ())])
    hint = f"{command} --help"
    if isinstance(error, UnknownOptionError):
        name = (error.token.keyword or error.token.value).partition("=")[0]
        known = [flag for argument in error.argument_collection for flag in argument.names]
        return InputError(f"unknown flag {name}", hint=suggest_flag(name, known, command) or hint)
    if isinstance(error, UnknownCommandError):
        name = (error.unused_tokens or [""])[0]
        known = list(error.app or ())
        commands = ", ".join(word for word in known if not word.startswith("-"))
        return InputError(
            f"unknown {'flag' if name.startswith('-') else 'command'} {name}",
            hint=suggest_command(name, known) or f"commands are {commands}",
        )
    if isinstance(error, UnusedCliTokensError):
        extra = " ".join(error.unused_tokens or [])
        return InputError(f"{command} does not take {extra}", hint=hint)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.keyword or error.argument.name
        flag = name.startswith("-")
        return InputError(f"{name} needs a value" if flag else f"{command} needs {name}", hint=hint)
    error.verbose = False
    message, _, remedy = str(error).replace("|Literal[none]", " or none").partition(". ")
    return InputError(_uncapped(message), hint=_uncapped(remedy) or hint)


def _uncapped(text: str) -> str:
    text = text.strip().rstrip(".")
    return text[:1].lower() + text[1:]
