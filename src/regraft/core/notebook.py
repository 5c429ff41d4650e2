"""How results show themselves in a notebook: small tables in HTML, without scripts and colours.

Text and lines have the colour of the page, so that they can be read on light and on dark.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from regraft.errors import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

_LINE = "border:0;border-top:1px solid rgba(128,128,128,.35)"
_CELL = f"padding:.2em .8em;text-align:left;vertical-align:top;white-space:normal;{_LINE}"
_LONGEST = 500  # characters of a cell


def html_table(title: str, rows: Iterable[tuple[str, str]], note: str = "") -> str:
    """Return a table with a name and a text in each row; everything is escaped.

    Examples
    --------
    >>> "&lt;b&gt;" in html_table("a run", [("class", "<b>")])
    True
    """
    body = "".join(
        f"<tr style='background:none'><th style='{_CELL};font-weight:600'>{_text(name)}</th>"
        f"<td style='{_CELL}'>{_text(value)}</td></tr>"
        for name, value in rows
    )
    return _framed(title, body, note)


def html_bars(title: str, shares: Iterable[tuple[str, float]], note: str = "") -> str:
    """Return a table with a name, a bar and a number from 0 to 1 in each row."""
    body = "".join(
        f"<tr style='background:none'><th style='{_CELL};font-weight:600'>{_text(name)}</th>"
        f"<td style='{_CELL}'><div style='width:12em;background:rgba(128,128,128,.2)'>"
        f"<div style='width:{100 * min(max(share, 0.0), 1.0):.1f}%;height:.7em;margin:.25em 0;"
        f"background:currentColor;opacity:.6'></div></div></td>"
        f"<td style='{_CELL};text-align:right'>{share:.3f}</td></tr>"
        for name, share in shares
    )
    return _framed(title, body, note)


def _framed(title: str, body: str, note: str) -> str:
    below = f"<div style='margin-top:.4em;opacity:.75'>{_text(note)}</div>" if note else ""
    return (
        "<div style='color:inherit;font-size:90%;line-height:1.4'>"
        f"<div style='font-weight:600;margin-bottom:.4em'>{_text(title)}</div>"
        f"<table style='border-collapse:collapse;color:inherit;margin:0'><tbody>{body}</tbody>"
        f"</table>{below}</div>"
    )


def _text(text: str) -> str:
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return escape(visible(shown))
