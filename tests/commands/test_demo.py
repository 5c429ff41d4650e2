"""The demo, whose table the README shows."""

import re
from pathlib import Path

import pytest

from regraft.commands.demo import run
from regraft.core.reporter import SILENT

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.heavy
def test_the_demo_prints_the_words_and_the_table_that_the_readme_shows(tmp_path):
    page = README.read_text(encoding="utf-8")
    shown = page.partition("The demo prints this")[2].partition("```text\n")[2].partition("```")[0]
    printed = run(SILENT, tmp_path / "demo")
    first, *table = shown.strip().splitlines()
    assert printed.splitlines()[0] == first
    # Other processors give other last digits.
    words = [re.sub(r"0\.\d+", "0", line) for line in table]
    lines = [re.sub(r"0\.\d+", "0", line) for line in printed.splitlines()]
    assert lines[1 : 1 + len(words)] == words
