"""The flags of the settings, and what goes before what."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from regraft.cli.main import app, main
from regraft.cli.options import combine, given
from regraft.config.declaration import settings_of
from regraft.config.settings import groups
from regraft.config.train_config import TrainConfig


def flags_of(*words):
    """Return what the parser makes of the flags of train."""
    _, bound, _ = app.parse_args(["train", "photos", *words], exit_on_error=False)
    return bound.arguments.get("config"), bound.arguments.get("flags")


def test_every_setting_is_in_one_group_of_the_help():
    names = [setting.name for group in groups().values() for setting in group]
    assert sorted(names) == sorted(settings_of(TrainConfig))


#: What the rules between settings leave of values that are not the default.
OTHER_VALUES = {"tta": False}


def other_value(setting):
    """Return a value of a setting that is not its default."""
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    if setting.type is bool:
        return not setting.default
    if setting.base_type is Path:
        return Path("a/b")
    if setting.base_type is tuple:
        return ("other",)
    if setting.base_type in (int, float):
        values = (setting.base_type(value) for value in (0.5, 1, 2, 3))
    else:
        values = ("other", "1", "2", "32", "0.5", "tensorboard,mlflow")
    rule = setting.rule
    allowed = [value for value in values if rule is None or rule.allows(value)]
    return next(value for value in allowed if value != setting.default)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainConfig)])
def test_every_setting_has_a_flag(name):
    value = OTHER_VALUES.get(name, other_value(settings_of(TrainConfig)[name]))
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        words = [flag if value else f"--no-{flag[2:]}"]
    else:
        words = [flag, *(value if isinstance(value, tuple) else (str(value),))]
    config = combine(*flags_of(*words))
    assert config == TrainConfig(**{name: value})
    assert type(getattr(config, name)) is type(value)


def test_short_names():
    assert given(flags_of("-b", "4", "-j", "2")[1]) == {"batch_size": 4, "workers": 2}


def test_flags_go_before_the_file_and_the_file_before_defaults(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("head: knn\nfolds: 3\ncache: false\n", encoding="utf-8")
    config = combine(*flags_of("-c", str(file), "--folds", "4", "--cache"))
    assert config == TrainConfig(head="knn", folds=4, cache=True)
    assert combine(*flags_of("-c", str(file))) == TrainConfig(head="knn", folds=3, cache=False)
    assert combine(*flags_of()) == TrainConfig()


def no_text(name):
    """Whether a setting is a number or one of some words, of which none is no one."""
    each = settings_of(TrainConfig)[name]
    words = "none" not in each.choices if each.choices else each.base_type in {int, float}
    return words and not each.or_none


@pytest.mark.parametrize("name", [*filter(no_text, settings_of(TrainConfig))])
def test_none_is_no_number_and_not_as_if_the_flag_were_not_given(name, capsys):
    each = settings_of(TrainConfig)[name]
    commands = [command for command in each.commands if command != "compare"]
    for command in commands:
        arguments = ["run", "path"] if command in {"evaluate", "predict", "drift"} else ["path"]
        assert main([command, *arguments, each.flag, "none"]) == 2
        assert capsys.readouterr().err.startswith(
            (
                f'error: invalid value for {each.flag}: unable to convert "none" into ',
                f'error: invalid value "none" for {each.flag}\n',
            )
        )


def test_none_switches_off_what_a_file_has_set(tmp_path):
    path = tmp_path / "config.yaml"
    for setting, flag in (("min_precision: 0.9", "--min-precision"), ("costs: a.csv", "--costs")):
        path.write_text(f"{setting}\n", encoding="utf-8")
        assert combine(*flags_of("-c", str(path))) != TrainConfig()
        assert combine(*flags_of("-c", str(path), flag, "none")) == TrainConfig()
    path.write_text("min_precision: none\ncosts: none\n", encoding="utf-8")
    assert combine(path, None) == TrainConfig()


def test_what_is_neither_a_number_nor_none_is_refused_in_words(capsys):
    assert main(["train", "data", "--min-precision", "high"]) == 2
    assert capsys.readouterr().err == (
        'error: invalid value for --min-precision: unable to convert "high" into float or none\n'
        "hint: regraft train --help\n"
    )


def test_flags_that_are_not_given_are_accepted_beside_pydantic(capsys):
    """MLflow imports it, and then cyclopts checks every default by its type."""
    importlib.import_module("pydantic")
    assert main(["evaluate", "no-run", "no-data"]) == 2
    assert capsys.readouterr().err.startswith("error: no-run does not exist\n")
