"""The flags of `regraft race`: what reaches the command, and what is refused in words."""

from pathlib import Path

import pytest

from regraft.cli.main import main
from regraft.commands import race as module
from regraft.config.train_config import TrainConfig


@pytest.fixture
def called(monkeypatch, tmp_path):
    """The arguments of the command, which then finds a winner at once."""
    calls = []

    def race(data, models, config, reporter, *, seconds, latency):
        calls.append((data, models, config, seconds, latency))
        return module.Raced("winner: `model='embedded'`", tmp_path, {})

    monkeypatch.setattr(module, "race", race)
    return calls


def test_without_flags_the_installed_networks_race(called, capsys):
    assert main(["race", "photos"]) == 0
    assert called == [("photos", ["offline"], TrainConfig(), None, None)]
    assert capsys.readouterr().out == "winner: --models embedded\n"


def test_flags_and_file_reach_the_command(called, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("seed: 3\nhead: ridge\n", encoding="utf-8")
    words = ["race", "photos", "--models", "small, minivgg", "--seconds", "60", "--latency", "7.5"]
    words += ["-c", str(file), "--head", "logistic", "--out", "there", "--overwrite"]
    assert main(words) == 0
    config = TrainConfig(seed=3, head="logistic", out=Path("there"), overwrite=True)
    assert called == [("photos", ["small", "minivgg"], config, 60.0, 7.5)]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("race", "regraft race needs DATA", "regraft race --help"),
        ("race x --latency 0", "latency is 0; it must be above 0 and finite", None),
        ("race x --seconds nan", "seconds is nan; it must be above 0 and finite", None),
        (
            "race x --seconds soon",
            'invalid value for --seconds: unable to convert "soon" into float',
            "regraft race --help",
        ),
        (
            "race x --models minivgg",
            "there is one network only, and nothing to race it with",
            "give two or more --models, or a list: offline, small, medium, large",
        ),
        (
            "race x --models minivgg,trian",
            "unknown backbone trian",
            "regraft backbones lists all of them",
        ),
        ("race x --model minivgg", "unknown flag --model", "did you mean --models?"),
        ("race x --timeout 3", "unknown flag --timeout", "did you mean --seconds?"),
        ("race x --epochs 3", "unknown flag --epochs", "regraft race --help"),
        ("automl x", "unknown command automl", "did you mean race?"),
        (
            "race x --augment light",
            "augment is given, and strategy probe does not read it",
            None,
        ),
    ],
)
def test_wrong_usage_is_refused_in_words(words, message, hint, capsys):
    assert main(words.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {message}"
    if hint is not None:
        assert lines[1:] == [f"hint: {hint}"]
