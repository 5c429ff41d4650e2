"""Messages name settings as their reader types them: flags here, parameters in Python."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from regraft.cli import spelling
from regraft.cli.main import app
from regraft.cli.progress import ConsoleReporter
from regraft.cli.spelling import Spelling
from regraft.config.declaration import settings_of
from regraft.config.settings import read_by
from regraft.config.train_config import TrainConfig
from regraft.core.hints import settings_in
from regraft.errors import RegraftError, RunError, WeightsError

SOURCE = Path(__file__).parents[2] / "src" / "regraft"
SETTINGS = settings_of(TrainConfig)
#: Of the command line, or of ``compare_trainings``, alone.
OTHERS = {"csv", "keep_unknown", "models", "strategies", "seconds", "latency", "to", "runtime"}
#: A command that anybody can type in a terminal; flags of other programs.
COMMANDS = re.compile(r"regraft [a-z-]+ [^;]*--|pip install --|tensorboard --|http\.server --")
HOLE = "HOLE"  # for what an f-string puts in


def strings(node):
    """Yield the strings in some code that a reader may be shown; no docstrings, no flags' help."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(p.value if isinstance(p, ast.Constant) else HOLE for p in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("_setting"):
        for keyword in node.keywords:
            yield from strings(keyword) if keyword.arg == "unread_hint" else ()
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


#: Rooms whose words are those of a command line: ours, and that of exported folders.
_SPEAK_FLAGS = {"cli", "standalone"}


@cache
def trees():
    below = sorted(path for path in SOURCE.rglob("*.py") if path.parent.name not in _SPEAK_FLAGS)
    return {path.relative_to(SOURCE): ast.parse(path.read_text("utf-8")) for path in below}


def shown():
    return [(path, text) for path, tree in trees().items() for text in strings(tree)]


def test_below_the_command_line_no_message_names_a_flag():
    """Write `name=value` in backticks: the command line makes flags of it."""
    assert len(shown()) > 1000
    wrong = [
        pair for pair in shown() if re.search(r"--[a-z]", pair[1]) and not COMMANDS.search(pair[1])
    ]
    assert not wrong


def test_settings_in_messages_exist_and_can_have_the_values():
    named = [(path, name, value) for path, text in shown() for name, value in settings_in(text)]
    assert len(named) > 60
    assert not [each for each in named if each[1] not in {*SETTINGS, *OTHERS}]
    for _, name, value in named:
        if value and not value.isupper() and name in SETTINGS:
            SETTINGS[name].checked(ast.literal_eval(value))  # an error if it is not allowed


def test_everything_in_backticks_in_a_hint_is_a_setting():
    """A slip such as `views = 2` would reach the reader as it is."""
    hints = [
        text
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in {"hint", "unread_hint"}
        for text in strings(node)
    ]
    assert len(hints) > 100
    marked = {part for text in hints for part in re.findall(r"`([^`]*)`", text)}
    assert not [part for part in marked if not settings_in(f"`{part}`")]


@pytest.mark.parametrize(
    "command", ["train", "compare", "lr-find", "race", "evaluate", "predict", "show"]
)
def test_every_setting_of_every_command_becomes_its_flag(command):
    arguments = app[command].assemble_argument_collection()
    flags = {flag for argument in arguments for flag in argument.names}
    spelled = Spelling.of(app, [command, "data"])
    for name in read_by(command):
        assert spelled.text(f"a smaller `{name}`") == f"a smaller {SETTINGS[name].flag}"
        assert SETTINGS[name].flag in flags


@pytest.mark.parametrize(
    ("words", "hint", "expected"),
    [
        (
            ["train", "x"],
            "`resume=True` continues it; `overwrite=True` starts again; `out` names another",
            "--resume continues it; --overwrite starts again; --out names another",
        ),
        (["compare", "x"], "`resume=True` continues it; `out` is free", "--out is free"),
        (["compare", "x"], "`model='embedded'` needs none", "--models embedded needs none"),
        (["lr-find", "x"], "`model='embedded'` needs none", "--model embedded needs none"),
        (["evaluate", "r", "x"], "`model='embedded'` needs no network", None),
        (["cache", "clear"], "`cache_dir` or REGRAFT_CACHE", "--cache-dir or REGRAFT_CACHE"),
        (["train", "x"], "`out='my runs/lr=1'`", "--out 'my runs/lr=1'"),
        (["train", "x"], "`cache=False, batch_size=2`", "--no-cache --batch-size 2"),
        (["train", "x"], "rename seed=1; `a b` and `$x`", "rename seed=1; `a b` and `$x`"),
        (["nonsense"], "rename `a b`", "rename `a b`"),
        ([], None, None),
    ],
)  # fmt: skip
def test_a_hint_names_flags_of_the_command_that_runs(words, hint, expected):
    error = RunError("it stops", hint=hint)
    Spelling.of(app, words).error(error)
    assert error.hint == expected
    assert str(error) == "it stops" + (f"\nhint: {expected}" if expected else "")


def test_notes_are_written_for_who_reads_them(monkeypatch, capsys):
    monkeypatch.setattr(spelling._Current, "spelling", None)
    ConsoleReporter().say("`folds=5` tests each image once")  # used in Python
    spelling.use(Spelling.of(app, ["train", "x"]))
    ConsoleReporter().say("`folds=5` tests each image once")
    assert capsys.readouterr().err.splitlines() == [
        "`folds=5` tests each image once",
        "--folds 5 tests each image once",
    ]


def test_messages_too():
    error = WeightsError("`log='mlflow'` needs mlflow")
    Spelling.of(app, ["train"]).error(error)
    assert str(error) == "--log mlflow needs mlflow"
    assert isinstance(error, RegraftError)
