"""A setting is declared once, at its field; everything else comes from there."""

import importlib.util
import inspect
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from cyclopts import App, Parameter

from regraft.cli.help import HelpFormatter
from regraft.cli.options import combine, given, make_flags
from regraft.config.declaration import AutoOrShare, Bounds, setting, settings_of
from regraft.config.settings import groups, harmless, read_by, refuse_unread, some_settings, unread
from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import from_yaml, parse, to_yaml
from regraft.errors import ConfigError

ROOT = Path(__file__).parents[2]


# --- add a setting in one edit ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Extended(TrainConfig):
    """TrainConfig with one declaration more, and no other edit anywhere."""

    largest_turn: float | None = setting(
        None,
        "Largest angle by which training images are turned.",
        why="Most photographs are upright.",
        group="Fine-tuning",
        unit="degrees",
        rule=Bounds(0, 180, low_included=False),
        placeholder="ANGLE",
        short="-t",
        commands=("train", "show"),
        strategies=("finetune", "scratch"),
        unread_hint="`strategy='finetune'` turns images",
        defaults={"show": "10"},
    )


def parsed(command, *words):
    """Return the flags of a command, parsed."""
    flags_class, found = make_flags(command, Extended), []
    app = App(name="test", help_format="plaintext", result_action="return_value")

    @app.default
    def run(*, flags: Annotated[flags_class | None, Parameter(name="*")] = None) -> None:
        found.append(flags)

    app(words, exit_on_error=False, print_error=False)
    return found[0]


@pytest.mark.parametrize("flag", ["--largest-turn", "-t"])
def test_a_declared_setting_has_its_flags(flag):
    assert given(parsed("train", flag, "15")) == {"largest_turn": 15.0}
    config = combine(None, parsed("train", flag, "15"), Extended(strategy="finetune"))
    assert config == Extended(strategy="finetune", largest_turn=15.0)
    assert "largest_turn" not in {*vars(parsed("predict", "--workers", "1"))}


def test_a_declared_setting_is_in_configuration_files_and_recipes():
    config = Extended(largest_turn=15)
    assert "largest_turn: 15.0\n" in to_yaml(config)
    assert from_yaml(to_yaml(config), base=Extended()) == config
    assert parse("largest_turn: 15\ntitle: x", "r", Extended(), ["title"]) == (
        config, {"title": "x"},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"^c, line 1: largest_turn is x; it must be a number$"):
        from_yaml("largest_turn: x", "c", Extended())


def test_a_declared_setting_is_checked():
    rule = "it must be above 0, at most 180"
    for value in (0, 181, float("nan")):
        with pytest.raises(ConfigError, match=rf"^largest_turn is {value}.*; {rule}$"):
            Extended(largest_turn=value)
    with pytest.raises(ConfigError, match=r"^largest_turn is 'x'; it must be a number$"):
        Extended().replace(largest_turn="x")


def test_an_unknown_name_is_our_own_error_in_a_subclass_too():
    for make in (Extended, Extended().replace):
        with pytest.raises(ConfigError) as caught:
            make(largest_trun=15)
        assert str(caught.value) == (
            "unknown setting largest_trun\nhint: did you mean largest_turn?"
        )
    assert [*inspect.signature(Extended).parameters][-1] == "largest_turn"
    config = Extended(largest_turn=15)
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own


def test_a_declared_setting_is_in_the_help_under_its_heading(capsys):
    app = App(name="test", help_format="plaintext", help_formatter=HelpFormatter())

    @app.default
    def run(*, flags: Annotated[make_flags("show", Extended) | None, Parameter(name="*")] = None):
        pass

    app("--help", result_action="return_value")
    text = " ".join(capsys.readouterr().out.split())
    assert "Largest angle by which training images are turned. [default: 10]" in text
    assert groups(Extended)["Fine-tuning"][-1].name == "largest_turn"


def test_a_declared_setting_is_in_the_documentation():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    row = (
        "| `largest_turn` | `--largest-turn ANGLE`, `-t` |  | degrees: above 0, at most 180 "
        "| Largest angle by which training images are turned. | Most photographs are upright. |\n"
    )
    assert row in generate.settings_page(Extended)
    assert row not in generate.settings_page()


def test_a_declared_setting_is_refused_where_nothing_reads_it():
    assert "largest_turn" in unread(Extended())
    assert "largest_turn" not in unread(Extended(strategy="scratch"))
    with pytest.raises(ConfigError) as caught:
        refuse_unread(Extended(), ["largest_turn"])
    assert str(caught.value) == (
        "largest_turn is given, and strategy probe does not read it\n"
        "hint: `strategy='finetune'` turns images"
    )
    assert some_settings({"largest_turn": 3}, "show", Extended).largest_turn == 3
    with pytest.raises(ConfigError, match="largest_turn belongs to training"):
        some_settings({"largest_turn": 3}, "predict", Extended)
    assert harmless(Extended) == harmless()  # it changes what is learnt


# --- what all declarations have ---------------------------------------------------------------


@pytest.mark.parametrize("each", settings_of(TrainConfig).values(), ids=lambda each: each.name)
def test_every_setting_says_what_it_does_and_why_its_default_is_so(each):
    for sentence in (each.text, each.why):
        assert sentence.endswith(".")
        assert len(sentence) < 300
    assert each.group in groups()
    assert "train" in each.commands
    assert each.checked(each.default) == each.default


LEVELS = ("unknown_level", "coverage", "coverage_by", "min_precision", "costs")


def test_the_settings_of_each_command():
    """What a command reads is part of its interface: a change here is on purpose."""
    assert read_by("train") == list(settings_of(TrainConfig))
    training = {*read_by("train")}
    assert training - {*read_by("compare")} == {"model", "strategy", "resume", "out", "overwrite"}
    assert training - {*read_by("lr-find")} == {
        *("folds", "epochs", "patience", "lr", "schedule", "warmup", "ema", "resume"),
        *("save_every", "out", "overwrite", "log", "cached_views", "views", "tta"),
        *(*LEVELS, "bank"),
    }
    of_data = {each.name for each in groups()["The data"]} - {"folds"}
    of_head = {each.name for each in groups()["The head"]}
    of_machine = {each.name for each in groups()["The machine"]}
    of_network = {each.name for each in groups()["The network"]} - {"model"}
    assert {*read_by("race")} == of_network | of_data | of_head | of_machine | {"augment"}
    computing = ["max_pixels", "device", "precision", "batch_size", "workers"]
    pixels, *rest = computing
    assert read_by("predict") == [pixels, *LEVELS, *rest]
    chosen = ["exclude", "classes", "at_most", "image_root", "data_root", "strict", "max_refused"]
    assert read_by("drift") == ["group_by", "max_refused", pixels, "unknown_level", *rest]
    assert read_by("evaluate") == [*chosen, pixels, *LEVELS, *rest, "cache", "cache_dir"]
    assert read_by("show") == [
        *("image_size", "group_by", *chosen, "max_pixels", "seed", "workers"),
    ]
    assert harmless() == {
        *("out", "overwrite", "log", "resume", "save_every", "workers", "cache", "cache_dir"),
        *("data_root", "image_root", *LEVELS, "bank"),
    }
    assert unread(TrainConfig(strategy="scratch")) == {"unfreeze", "start"}
    assert unread(TrainConfig(strategy="finetune")) == set()
    steps = {each.name for each in groups()["Fine-tuning"]} - {"strategy", "resume"}
    assert unread(TrainConfig()) == steps
    assert unread(TrainConfig(views=2)) == steps - {"augment"}


@pytest.mark.parametrize(
    ("rule", "wanted", "allowed", "refused"),
    [
        (Bounds(0, 16), "between 0 and 16", [0, 16], [-1, 17]),
        (
            AutoOrShare(),
            "auto or a number between 0 and 1, both excluded",
            ["auto", "0.05", "1e-3"],
            ["0", "1", "nan", "-0.1", "five", ""],
        ),
        (Bounds(0, 1, high_included=False), "between 0 and 1, 1 excluded", [0], [1]),
        (
            Bounds(0, 1, low_included=False, high_included=False),
            "between 0 and 1, both excluded",
            [0.5],
            [0, 1, float("nan")],
        ),
        (Bounds(2, 100, or_zero=True), "0 or between 2 and 100", [0, 2], [1, 101]),
        (Bounds(0), "0 or more", [0, 1e300], [-1, float("inf")]),
        (Bounds(1), "1 second or more", [1], [0.9, float("inf")]),
        (Bounds(8), "8 seconds or more", [8], [7]),
    ],
)
def test_bounds_say_what_they_allow(rule, wanted, allowed, refused):
    assert rule.wanted("seconds") == wanted
    assert all(rule.allows(value) for value in allowed)
    assert not any(rule.allows(value) for value in refused)


def test_a_setting_with_several_values():
    """One value or a list of them, from Python, flags and files; written as a list."""
    for given_value in (["a", "b: c"], ("a", "b: c")):
        config = TrainConfig(exclude=given_value, classes=[0, "1"])
        assert (config.exclude, config.classes) == (("a", "b: c"), ("0", "1"))
        assert from_yaml(to_yaml(config)) == config
    assert TrainConfig(exclude="a, b").exclude == ("a, b",)
    flags = parsed("show", "--exclude", "a", "--exclude", "*.png", "--classes", "b,c")
    assert given(flags) == {"exclude": ("a", "*.png"), "classes": ("b,c",)}
    texts = {"exclude: a": ("a",), "exclude: [a, 1, no]": ("a", "1", "no"), "exclude:": ()}
    assert {text: from_yaml(text).exclude for text in texts} == texts
    for value in (1, [None], "", [" "], {"a": 1}.keys()):
        with pytest.raises(ConfigError, match=r"^exclude is .*; it must be texts"):
            TrainConfig(exclude=value)
    nested = "settings are written as `name: value`, not nested"
    for text in ("exclude: [[a]]", "exclude: {a: b}", "seed: [1]", "schema_version: [1]"):
        with pytest.raises(ConfigError, match=rf"^config.yaml, line 1: {nested}$"):
            from_yaml(text)


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "-1",
        "half",
        "50/image",
        "/class",
        "50 / class",
        "1e3",
        "1" * 5000,
    ],  # more digits than Python converts
)
def test_a_limit_is_a_number_in_all_or_a_class(value):
    assert TrainConfig(at_most=500).at_most == "500"
    assert TrainConfig(at_most="50/class").at_most == "50/class"
    message = "it must be a number of images from 1, in all or as in 50/class"
    with pytest.raises(ConfigError, match=f"^at_most is {value}; {message}$"):
        TrainConfig(at_most=value)


def test_the_words_of_a_literal_are_the_choices():
    @dataclass(frozen=True)
    class Small:
        kind: Literal["a", "b"] = setting("a", "Kind.", why="First.", group="One")

    (each,) = settings_of(Small).values()
    assert (each.choices, each.placeholder) == (("a", "b"), "a|b")
    with pytest.raises(ConfigError, match=r"^kind is c; it must be one of a, b$"):
        each.checked("c")
