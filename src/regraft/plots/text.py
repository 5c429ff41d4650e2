"""Text as it is drawn: short enough, and only characters that an installed font has."""

from __future__ import annotations

import itertools
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any

from matplotlib import font_manager

from regraft.core.text import shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Tried in this order for characters that DejaVu Sans, the font of matplotlib, does not have.
WIDE_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR"),
    *("Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "IPAGothic", "Unifont"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Microsoft YaHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "SimHei", "Nirmala UI"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Arabic", "Noto Sans Hebrew"),
)


def label(name: str, longest: int) -> str:
    r"""Return a name as it is drawn, at most ``longest`` columns wide.

    A wide character takes two columns. A longer name loses its middle. A character that no font has
    is written as its code, so that names stay distinct.

    Examples
    --------
    >>> label("American_Staffordshire_Terrier", 16)
    'American…Terrier'
    >>> label("a\tb", 16), label("\U0010ffff", 16)
    ('a b', '<10ffff>')
    """
    return labels([name], longest)[0]


def labels(names: Sequence[str], longest: int) -> list[str]:
    """Return names as ``label`` does; those of one picture, so that different ones stay different.

    Examples
    --------
    >>> labels(["a plant of species 1 in the hills", "a plant of species 2 in the hills"], 16)
    ['a plant…1… hills', 'a plant…2… hills']
    """
    drawn: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        text = _drawable(name)
        marked = (f"{text}~{number}" for number in itertools.count(2))
        drawn[name] = next(each for each in itertools.chain([text], marked) if each not in taken)
        taken.add(drawn[name])
    return shortened([drawn[name] for name in names], longest, width_of)


def _drawable(name: str) -> str:
    """Return a name in one line, with codes in place of characters that no font has."""
    name = " ".join(name.split()) or "(empty)"
    return "".join(
        c if c.isprintable() and (c.isascii() or _fonts_for(c)) else f"<{ord(c):x}>" for c in name
    )


def width_of(text: str) -> int:
    """Return the columns of a text; a wide character takes two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


@cache
def families() -> tuple[str, ...]:
    """Return the fonts to draw with; a character is drawn with the first that has it."""
    known = {font.name for font in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in WIDE_FONTS if name in known))


def as_written() -> dict[str, Any]:
    """Return options of a text that is drawn as it is: ``$a$`` is no mathematics."""
    return {"parse_math": False, "fontfamily": list(families())}


@cache
def _fonts_for(character: str) -> bool:
    """Return whether one of the fonts has a glyph for a character."""
    return any(
        font_manager.get_font(font_manager.findfont(family)).get_char_index(ord(character))
        for family in families()
    )
