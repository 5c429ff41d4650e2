"""Names are drawn short, and only in characters that a font has."""

from regraft.plots import text
from regraft.plots.text import label, labels


def test_names_are_shortened_in_the_middle():
    assert label("short", 16) == "short"
    assert label("a" * 30 + "b" * 30, 11) == "aaaaa…bbbbb"
    assert label(" a\n\tb ", 16) == "a b"
    assert label("", 16) == "(empty)"
    assert label("$x_1$", 16) == "$x_1$"


def test_names_without_glyphs_stay_apart(monkeypatch):
    text._fonts_for.cache_clear()
    monkeypatch.setattr(text, "families", lambda: ("DejaVu Sans",))
    assert label("猫", 16) == "<732b>"
    assert label("犬", 16) == "<72ac>"
    assert label("Größe ✓", 16) == "Größe ✓"
    text._fonts_for.cache_clear()


def test_a_wide_character_takes_two_columns(monkeypatch):
    monkeypatch.setattr(text, "_fonts_for", lambda _: True)
    assert label("猫" * 8, 16) == "猫" * 8
    assert label("猫" * 9, 16) == "猫" * 4 + "…" + "猫" * 3


def test_different_names_that_are_drawn_alike_are_numbered():
    assert labels(["a b", "a  b", "a\tb", "a b"], 16) == ["a b", "a b~2", "a b~3", "a b"]
