"""The help and the messages of wrong usage."""

import pytest

from regraft.cli import synonyms
from regraft.cli.main import app, main
from regraft.cli.synonyms import FLAGS, POSITIONAL, suggest_flag
from regraft.config.declaration import settings_of
from regraft.config.settings import groups
from regraft.config.train_config import TrainConfig

COMMANDS = [
    *("train", "evaluate", "predict", "drift", "export", "show", "compare", "lr-find", "race"),
    "recipes",
    *("backbones", "datasets", "cache", "demo", "doctor"),
]


def test_help_shows_defaults_and_groups(capsys):
    assert main(["train", "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert "Usage: regraft train DATA [OPTIONS]" in lines
    assert {f"{group}:" for group in groups()} <= set(lines)
    text = " ".join(out.split())
    for name in settings_of(TrainConfig):
        assert f"{name.replace('_', '-')}" in text
        default = getattr(TrainConfig, name)
        if default not in {None, ()} and not isinstance(default, bool):
            assert f"[default: {default}]" in text
    assert "--[no-]cache" in text
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_without_a_command_there_is_help(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    found = [
        line.split()[0] for line in out.split("Commands:\n")[1].splitlines() if line[2:3].strip()
    ]
    assert found == [*COMMANDS, "--help,", "--version"]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("trian x", "unknown command trian", "did you mean train?"),
        ("--versoin", "unknown flag --versoin", "did you mean --version?"),
        (
            "zzz",
            "unknown command zzz",
            f"commands are {', '.join(COMMANDS)}",
        ),
        ("train", "regraft train needs DATA", "regraft train --help"),
        *(
            (
                f"train {words}",
                "regraft train needs DATA: a configuration does not name any",
                "regraft train DATA --config config.yaml",
            )
            for words in ("-c config.yaml", "--config config.yaml", "--config=config.yaml")
        ),
        ("train x --seeed 3", "unknown flag --seeed", "did you mean --seed?"),
        ("train x --no-cach", "unknown flag --no-cach", "did you mean --no-cache or --cache?"),
        ("train x --learning-rate 3", "unknown flag --learning-rate", "did you mean --lr?"),
        ("predict r x --top-k 3", "unknown flag --top-k", "did you mean --topk?"),
        ("fit x", "unknown command fit", "did you mean train?"),
        ("test r x", "unknown command test", "did you mean evaluate?"),
        ("Val r x", "unknown command Val", "did you mean evaluate?"),
        ("infer r x", "unknown command infer", "did you mean predict?"),
        ("embed x", "unknown command embed", "did you mean train or predict?"),
        ("classify r x", "unknown command classify", "did you mean predict?"),
        ("lr_finder x", "unknown command lr_finder", "did you mean lr-find?"),
        ("train x --bs 3", "unknown flag --bs", "did you mean --batch-size?"),
        ("train x --imgsz=96", "unknown flag --imgsz", "did you mean --image-size?"),
        ("train x -lr 3", "unknown flag -lr", "did you mean --lr?"),
        ("train x --arch a", "unknown flag --arch", "did you mean --model?"),
        ("compare x --arch a", "unknown flag --arch", "did you mean --models?"),
        ("compare x --model a", "unknown flag --model", "did you mean --models?"),
        ("train x --output a", "unknown flag --output", "did you mean --out?"),
        ("predict r x --output a", "unknown flag --output", "did you mean --csv?"),
        (
            "evaluate r x --data y",
            "unknown flag --data",
            "DATA is given without a flag: regraft evaluate --help",
        ),
        ("train x --zzz", "unknown flag --zzz", "regraft train --help"),
        ("train x --seed", "--seed needs a value", "regraft train --help"),
        (
            "train x --seed y",
            'invalid value for --seed: unable to convert "y" into int',
            "regraft train --help",
        ),
        (
            "train x --head foo",
            'invalid value "foo" for --head',
            'choose from: "logistic", "ridge", "knn", "mean"',
        ),
        ("train a b", "regraft train does not take b", "regraft train --help"),
        (
            "train x --seed 3 --seed 4",
            "parameter --seed specified multiple times",
            "regraft train --help",
        ),
        (
            "train x --test-fraction 3",
            "test_fraction is 3.0; it must be between 0 and 1, both excluded",
            None,
        ),
        ("predict", "regraft predict needs RUN", "regraft predict --help"),
        ("predict r", "regraft predict needs PATHS", "regraft predict --help"),
        ("predict r x --topk 0", 'invalid value "0" for --topk', "must be >= 1"),
        ("cache --cache-dri x", "unknown flag --cache-dri", "did you mean --cache-dir?"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_code_2(words, message, hint, capsys):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {message}\n" + (f"hint: {hint}\n" if hint else "")


def test_words_of_other_tools_lead_to_what_there_is():
    """Each of ours is in the parser, and no word of others hides one of ours."""
    commands = set(app)
    assert set(synonyms.COMMANDS) <= commands
    assert not {word for words in synonyms.COMMANDS.values() for word in words.split()} & commands
    flags, arguments = set(), set()
    for name in commands - {"--help", "-h", "--version"}:
        for argument in app[name].assemble_argument_collection():
            (flags if argument.names[0].startswith("-") else arguments).update(argument.names)
            for flag in filter(FLAGS.get, argument.names):
                for word in FLAGS[flag].split():
                    assert flag in suggest_flag(f"--{word}", argument.names, "regraft")
    assert set(FLAGS) <= flags
    assert set(POSITIONAL) <= arguments
