"""Names as they are drawn: short enough, and of characters that an installed font has."""

from __future__ import annotations

import unicodedata
from functools import cache

from matplotlib import font_manager

#: Asked in this order for characters that DejaVu Sans, which matplotlib brings, does not have.
WIDE_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR"),
    *("Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "IPAGothic", "Unifont"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Microsoft YaHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "SimHei", "Nirmala UI"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Arabic", "Noto Sans Hebrew"),
)


def label(name: str, longest: int) -> str:
    r"""Return a class name as it is drawn: short enough, and of characters that a font has.

    Parameters
    ----------
    name : str
        Any text.
    longest : int
        Columns; a wide character takes two. What is longer loses its middle.

    Returns
    -------
    str
        Characters without a glyph are written as their code.

    Examples
    --------
    >>> label("American_Staffordshire_Terrier", 16)
    'American…Terrier'
    >>> label("a\tb", 16), label("\U0010ffff", 16)
    ('a b', '<10ffff>')
    """
    name = " ".join(name.split()) or "(empty)"
    units = [
        c if c.isprintable() and (c.isascii() or _fonts_for(c)) else f"<{ord(c):x}>" for c in name
    ]
    widths = [width_of(unit) for unit in units]
    if sum(widths) <= longest:
        return "".join(units)
    head: list[str] = []
    tail: list[str] = []
    room = longest - 1
    front, back = 0, len(units) - 1
    while front <= back:
        at_front = len("".join(head)) <= len("".join(tail))
        unit, width = (units[front], widths[front]) if at_front else (units[back], widths[back])
        if width > room:
            break
        room -= width
        if at_front:
            head.append(unit)
            front += 1
        else:
            tail.append(unit)
            back -= 1
    return "".join(head) + "…" + "".join(reversed(tail))


def width_of(text: str) -> int:
    """Return the columns of a text; a wide character takes two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


@cache
def families() -> tuple[str, ...]:
    """Return the fonts to draw with, in the order in which they are asked."""
    known = {font.name for font in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in WIDE_FONTS if name in known))


@cache
def _fonts_for(character: str) -> bool:
    """Whether one of the fonts that are drawn with has a glyph for it."""
    return any(
        font_manager.get_font(font_manager.findfont(family)).get_char_index(ord(character))
        for family in families()
    )
