"""regraft, installed where its user may not write, and with a home folder that is read-only."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import regraft
from conftest import make_photographs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there folders have no such permission")

# Without the capabilities by which root passes over permissions (PR_CAPBSET_DROP: CAP_DAC_OVERRIDE,
# CAP_FOWNER): a program that is started afterwards does not have them.
_LAUNCH = """
import ctypes, os, sys
if os.geteuid() == 0:
    for capability in (1, 3):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "regraft", *sys.argv[1:]])
"""


@pytest.fixture
def installed(tmp_path):
    """Run regraft from a read-only copy; afterwards the copy and the home hold nothing new."""
    site, home, work = (tmp_path / name for name in ("site", "home", "work"))
    source = Path(regraft.__file__).parent
    shutil.copytree(source, site / "regraft", ignore=shutil.ignore_patterns("__pycache__"))
    home.mkdir()
    work.mkdir()
    fixed = [site, home, *site.rglob("*")]
    before = set(site.rglob("*"))
    for path in fixed:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    names = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    settings = {**kept, "PYTHONPATH": str(site), "HOME": str(home), "OMP_NUM_THREADS": "1"}

    def run(*words):
        return subprocess.run(
            [sys.executable, "-c", _LAUNCH, *map(str, words)],
            cwd=work, env=settings, capture_output=True, text=True, check=False,
        )  # fmt: skip

    yield run
    assert set(site.rglob("*")) == before
    assert not list(home.iterdir())
    for path in fixed:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_a_read_only_installation_and_home_start_without_a_word(installed):
    """A training from there is below, among the heavy tests."""
    started = installed("--version")
    assert (started.returncode, started.stderr) == (0, "")


@pytest.mark.heavy
def test_a_read_only_installation_trains_evaluates_and_predicts(installed, tmp_path):
    images = make_photographs(tmp_path / "images", a_class=12)
    trained = installed("train", images, "--out", "run", "--image-size", 64, "--taps", "last")
    assert trained.returncode == 0, trained.stderr
    warned = [line for line in trained.stderr.splitlines() if "cannot be used" in line]
    assert len(warned) == 1
    assert "features of this run are not kept" in warned[0]
    assert "atplotlib" not in trained.stderr
    for words in (
        ("evaluate", "run", images),
        ("predict", "run", next(images.rglob("*.png"))),
        ("demo", "--out", "demo"),
    ):
        ended = installed(*words)
        assert ended.returncode == 0, ended.stderr
