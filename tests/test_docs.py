"""The pages: generated ones are current, code blocks in all of them run, links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def page_name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def generate():
    specification = importlib.util.spec_from_file_location(
        "generate", ROOT / "docs" / "generate.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_generated_pages_are_current(generate):
    assert (ROOT / "docs" / "help.md").read_text(encoding="utf-8") == generate.help_page()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == generate.settings_page()


def test_a_stale_page_is_reported(generate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "help.md").write_text("old", encoding="utf-8")
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err == "not current: help.md\nhint: scripts/check --fix\n"


def blocks():
    for path in PAGES:
        for number, block in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")), 1):
            yield pytest.param(block, id=f"{page_name(path)}-{number}")


@pytest.mark.parametrize("block", list(blocks()))
def test_code_blocks_run(block, forks, tmp_path):
    """Each in a process of its own, which has imported nothing of regraft."""
    result = forks.run(block, cwd=tmp_path, strict=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_somewhere(path):
    targets = LINK.findall(path.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (path.parent / target).exists()]
