"""Names are shortened so that those which differ stay different."""

import random

import pytest

from regraft.core.text import shortened

SPECIES = [
    f"a rather long name of a common plant species {k:02} of the mountains" for k in range(50)
]


def test_names_that_fit_and_a_long_one_alone():
    assert shortened(["rose", "tulip", "rose"], 8) == ["rose", "tulip", "rose"]
    assert shortened(["a" * 30 + "b" * 30], 11) == ["aaaaa…bbbbb"]
    assert shortened([], 8) == []


@pytest.mark.parametrize("longest", [8, 15, 22, 40])
def test_names_with_a_common_beginning_and_end_show_where_they_differ(longest):
    """Fifty classes were all called "a rather…ountains"."""
    short = shortened(SPECIES, longest)
    assert max(map(len, short)) <= longest
    for number, name in enumerate(short):
        assert f"{number:02}" in name.split("…")[1]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x" * 20 + " 12 " + "y" * 20, "x" * 20 + " 13 " + "y" * 20], ["12", "13"]),
        (["x" * 20 + " minor " + "y" * 20, "x" * 20 + " major " + "y" * 20], ["minor", "major"]),
        (["x" * 30 + "_1", "x" * 30 + "_11"], ["_1", "_11"]),
    ],
)
def test_words_and_numbers_that_differ_are_shown_whole(names, expected):
    for name, part in zip(shortened(names, 16), expected, strict=True):
        assert part in name


def test_where_names_differ_in_several_places():
    names = [f"{'x' * 30}{a}{'y' * 30}{b}{'z' * 30}" for a in "ab" for b in "cd"]
    assert len(set(shortened(names, 12))) == 4


def test_a_name_that_looks_like_a_shortened_one():
    names = ["a" * 6 + "…" + "a" * 5, "a" * 99]
    short = shortened(names, 12)
    assert short[0] == names[0]
    assert len(set(short)) == 2
    assert len(short[1]) <= 12


def test_different_names_always_stay_different_and_fit():
    generator = random.Random(0)
    for longest in (8, 12, 16, 22) * 20:
        base = "".join(generator.choices("ab 1", k=60))
        names = []
        for _ in range(30):
            name = list(base)
            for place in generator.choices(range(60), k=generator.randint(1, 3)):
                name[place] = generator.choice("abc 123")
            names.append("".join(name)[: generator.choice([30, 59, 60])])
        short = shortened(names, longest)
        assert max(map(len, short)) <= longest
        assert len(set(short)) == len(set(names))
        assert len(set(zip(names, short, strict=True))) == len(set(names))


def test_wide_characters_count_as_they_are_drawn():
    names = ["猫" * 20 + a + "犬" * 20 for a in "一二三"]
    short = shortened(
        names, 15, width=lambda text: 2 * sum(c != "…" for c in text) + text.count("…")
    )
    assert [next(c for c in "一二三" if c in name) for name in short] == ["一", "二", "三"]
    assert max(2 * len(name) - name.count("…") for name in short) <= 15
