"""What several tests need: a store of their own, and real photographs that are made, not copied."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

# Before torch is imported: with as many test processes as processors, more threads only wait for
# each other, and spin while they do: beside other work, 58 s of the estimator's tests became 15.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
from huggingface_hub import close_session
from hypothesis import settings
from PIL import Image

from forked import Forks
from regraft.features.store.store import close_store

# How long an example takes says something about the machine, not about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

CLASSES = ("blobs", "checks", "stripes")


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory, monkeypatch):
    """Nothing of a test goes into the user's store, nor comes from it."""
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("REGRAFT_CACHE", str(folder))
    yield folder
    close_store(folder)


@pytest.fixture(autouse=True)
def own_connections():
    """No client of a test keeps the proxies that another test had in its environment."""
    yield
    urllib.request.install_opener(None)
    close_session()


@pytest.fixture(scope="session")
def forks():
    """Processes of Python for the price of a fork."""
    forks = Forks()
    yield forks
    forks.close()


def texture(name: str, number: int, side: int = 48) -> np.ndarray:
    """Paint a picture of a class that a pretrained network recognises, but not always."""
    random = np.random.default_rng([CLASSES.index(name), number])
    y, x = np.mgrid[0:side, 0:side] / side
    turn, phase, pace = random.uniform(0, np.pi), random.uniform(0, 6), random.uniform(15, 40)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    pattern = {
        "stripes": np.sin(pace * u + phase),
        "checks": np.sign(np.sin(pace * u + phase) * np.sin(pace * v)),
        "blobs": np.sin(pace * u + phase) * np.sin(pace * v) * 1.5,
    }[name]
    colour = random.uniform(40, 210, size=3)
    picture = colour + 45 * pattern[..., None] + random.normal(0, 25, (side, side, 3))
    return picture.clip(0, 255).astype(np.uint8)


def make_photographs(folder: Path, a_class: int = 20, first: int = 0) -> Path:
    """Write class folders of PNG files, the same bytes every time."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + a_class):
            Image.fromarray(texture(name, number)).save(folder / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Sixty pictures of three classes; read only."""
    folder = make_photographs(tmp_path_factory.mktemp("data") / "photographs")
    for path, _, files in os.walk(folder):
        for name in files:
            (Path(path) / name).chmod(0o444)
    return folder
