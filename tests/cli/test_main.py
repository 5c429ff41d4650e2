"""The command line without its commands' work: parsing, help, messages, exit codes, progress."""

import dataclasses
import errno
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import regraft
from regraft import __version__
from regraft.cli.console import _GONE_HINT, guarded
from regraft.cli.main import app, main
from regraft.cli.options import combine, given
from regraft.cli.progress import ConsoleReporter
from regraft.config.declaration import settings_of
from regraft.config.settings import groups
from regraft.config.train_config import TrainConfig
from regraft.errors import ConfigError, ConvergenceWarning, DataError, RegraftError

REGRAFT = [sys.executable, "-m", "regraft"]
COMMANDS = [
    *("train", "evaluate", "predict", "show", "compare", "lr-find", "recipes"),
    *("backbones", "datasets", "cache", "demo", "doctor"),
]


def run(*words, **options):
    return subprocess.run(
        [*REGRAFT, *words], capture_output=True, text=True, check=False, timeout=60, **options
    )


def flags_of(*words):
    """Return what the parser makes of the flags of train."""
    _, bound, _ = app.parse_args(["train", "photos", *words], exit_on_error=False)
    return bound.arguments.get("config"), bound.arguments.get("flags")


# --- settings ---------------------------------------------------------------------------------


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
    if setting.base_type in (int, float):
        values = (setting.base_type(value) for value in (0.5, 1, 2, 3))
    else:
        values = ("other", "1", "2", "32", "tensorboard,mlflow")
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
        words = [flag, str(value)]
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


# --- help -------------------------------------------------------------------------------------

SLOW = {
    *("numpy", "scipy", "sklearn", "torch", "torchvision", "timm", "PIL", "matplotlib", "sqlite3"),
    *("yaml", "msgspec", "rich.progress", "rich.markdown"),
    *("regraft.commands.train", "regraft.commands.evaluate"),
}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["--version"],
        ["trian"],
        ["train", "x", "--sed"],
        ["train", "x", "--epochs", "3"],
        ["train", "x", "--seed", "-1"],
    ],
)
def test_nothing_slow_is_imported_to_parse(words):
    code = "import sys; from regraft.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {*result.stdout.splitlines()[-1].split()}
    assert "regraft.cli.main" in imported
    assert not SLOW & imported


def test_parsing_every_commands_flags_imports_nothing_slow():
    code = (
        "import sys; from regraft.cli.main import app; from regraft.cli.options import combine\n"
        "for words in ('train x --lr 1e-3 --out a', 'compare x --models a,b --head knn',\n"
        "              'evaluate r x --strict', 'predict r x -b 4', 'show x --seed 3',\n"
        "              'lr-find x --optimizer sgd', 'cache clear --cache-dir a', 'demo'):\n"
        "    _, bound, _ = app.parse_args(words, exit_on_error=False)\n"
        "    combine(None, bound.arguments.get('flags'))\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not SLOW & {*result.stdout.split()}


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
        if default is not None and not isinstance(default, bool):
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


def test_version_and_module(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert run("--version").stdout == f"{__version__}\n"


# --- errors -----------------------------------------------------------------------------------


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
            "test_fraction is 3.0; it must lie between 0 and 1, both excluded",
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


def test_a_lone_dash_is_standard_input():
    words = ["predict", "r", "-", "--json"]
    result = run(*words, stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert "unknown flag" not in result.stderr  # and r is no run


@pytest.mark.parametrize(
    ("words", "home"),
    [
        (["train", "nowhere"], "commands.train"),
        (["predict", "r", "nowhere.jpg"], "commands.evaluate"),
    ],
)
def test_a_wrong_path_is_told_before_torch_is_imported(words, home):
    code = "import sys; from regraft.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert "nowhere" in result.stderr
    assert f"regraft.{home}" in result.stdout.split()
    assert "torch" not in result.stdout.split()


def test_nobody_waits_for_an_import_that_is_not_needed_any_more():
    code = (
        "import sys, threading, time\n"
        "from regraft.core import background; from regraft.cli import main as cli\n"
        "def command(words):\n"
        "    threading.Thread(target=time.sleep, args=(60,), name=background.BACKGROUND).start()\n"
        "    print('out'); raise KeyboardInterrupt\n"
        "cli._run = command; sys.exit(cli.main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "out\n", "interrupted\n")


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            DataError("no images in x", hint="look there"),
            2,
            "error: no images in x\nhint: look there\n",
        ),
        (RegraftError("disk on fire"), 1, "error: disk on fire\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (
            OSError(errno.EIO, "Input/output error", "/mnt/photos/a.jpg"),
            1,
            f"error: /mnt/photos/a.jpg: Input/output error\n{_GONE_HINT}\n",
        ),
    ],
)
def test_what_ends_a_command_has_its_exit_code(error, code, text, capfd):
    assert guarded(raising(error)) == code
    assert capfd.readouterr() == ("", text)


def test_what_nobody_expected_shows_where(capsys):
    assert guarded(raising(ZeroDivisionError("oops"))) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("ZeroDivisionError: oops\n")
    assert guarded(raising(OSError(errno.EBADF, "Bad file descriptor"))) == 1  # a mistake of ours
    assert capsys.readouterr().err.startswith("Traceback")


def test_exit_codes_pass_through():
    assert guarded(lambda: 7) == 7


def test_our_warnings_are_one_line_once_and_those_of_others_as_they_were(capsys):
    def command():
        for _ in range(2):
            warnings.warn("not converged", ConvergenceWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)
        return 0

    with pytest.warns(UserWarning, match="theirs") as caught:
        guarded(command)
    assert [str(warning.message) for warning in caught] == ["theirs"]
    assert capsys.readouterr().err == "warning: not converged\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
def test_sigterm_cleans_up(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from regraft.cli.console import guarded\n"
        "def command():\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        Path('cleaned').touch()\n"
        "sys.exit(guarded(command))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline().strip() == b"ready"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, b"")
    assert (tmp_path / "cleaned").exists()


def test_a_reader_that_went_away_is_no_error():
    process = subprocess.Popen(
        [*REGRAFT, "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), err) == (141, b"")


def test_a_narrow_console_is_no_error():
    code = "from regraft.cli.console import guarded; guarded(lambda: print('a → b') or 0)"
    for encoding in ("ascii:strict", "cp1252:strict"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=True,
        )
        assert result.stdout.strip() == rb"a \u2192 b"


# --- commands that only tell ------------------------------------------------------------------


def test_datasets_are_listed(capsys):
    assert main(["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["name", "classes", "train", "test"]
    assert {line.split()[0] for line in lines} >= {"digits", "mnist", "cifar10", "imagenette"}


def test_the_store_is_shown_and_cleared(tmp_path, capsys):
    place = ["--cache-dir", str(tmp_path / "store")]
    assert main(["cache", *place]) == main(["cache", "show", *place]) == 0
    assert str(tmp_path / "store") in capsys.readouterr().out
    assert main(["cache", "clear", *place]) == 0
    assert capsys.readouterr().out == f"removed 0 rows, 0 MiB, from {tmp_path / 'store'}\n"


def test_backbones_are_listed_shown_and_their_names_mended(capsys):
    assert main(["backbones", "embed"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("embedded")
    assert main(["backbones", "zzz"]) == 2
    assert capsys.readouterr().err == (
        "error: no backbone matches zzz\nhint: regraft backbones lists all\n"
    )
    assert main(["backbones", "show", "embeded"]) == 2
    assert "embedded" in capsys.readouterr().err


# --- progress ---------------------------------------------------------------------------------


def test_into_a_file_progress_is_two_lines(capsys):
    reporter = ConsoleReporter()
    reporter.say("image size 224: as given")
    with reporter.track("extract", total=2000) as advance:
        for _ in range(10):
            advance(200)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[:2] == ["image size 224: as given", "extract: 2,000"]
    assert lines[2].startswith("extract: 2,000 in 0.0 s (")
    assert "\r" not in err
    assert len(lines) == 3


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_on_a_terminal_there_are_bars_and_results_stay_on_stdout(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "90")
    reporter = ConsoleReporter()
    with reporter.track("scan", total=4) as outer, reporter.track("extract", total=4) as inner:
        for _ in range(4):
            outer(1)
            inner(1)
            sys.stdout.write("result\n")
        time.sleep(0.02)
        reporter.say("note")
    text = terminal.getvalue()
    assert "4/4" in text
    assert "extract" in text
    assert "note" in text
    assert "result" not in text
    assert capsys.readouterr().out == "result\n" * 4


def test_a_bar_shows_notes_beside_its_task(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "90")
    with ConsoleReporter().track("finetune", total=16) as advance:
        advance(8, "loss 0.512, accuracy 0.750")
        advance(8, "loss 0.407, accuracy 0.813")
    text = terminal.getvalue()
    assert "finetune loss 0.407, accuracy 0.813" in text
    assert "16/16" in text


def test_no_colour_is_honoured(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    with ConsoleReporter().track("scan", total=1) as advance:
        advance(1)
    colours = [
        part for part in terminal.getvalue().split("\x1b[")[1:] if part.startswith(("3", "9"))
    ]
    assert not colours


def test_a_dumb_terminal_has_no_bars(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with ConsoleReporter().track("scan", total=1) as advance:
        advance(1)
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            ["--epochs", "20", "--lr", "0.1"],
            "epochs, lr are given, and strategy probe does not read them",
            "--strategy finetune trains the network too; a probe has no epochs and no steps",
        ),
        (
            ["--augment", "strong"],
            "augment is given, and strategy probe does not read it",
            "--views 2 shows a probe augmented views; --strategy finetune draws some each epoch",
        ),
        (
            ["--strategy", "scratch", "--unfreeze", "2"],
            "unfreeze is given, and strategy scratch does not read it",
            "--strategy finetune starts from a probe, and trains as many stages as --unfreeze says",
        ),
    ],
)
def test_flags_that_would_change_nothing_are_told(words, message, hint, tmp_path, capsys):
    """A tutorial's --epochs on the default strategy was passed over in silence."""
    assert main(["train", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\nhint: {hint}\n"


def test_flags_that_no_compared_training_reads_are_told(tmp_path, capsys):
    words = ["compare", str(tmp_path / "none"), "--models", "embedded", "--epochs", "2"]
    assert main(words) == 2
    told = "epochs is given, and strategy probe does not read it"
    assert told in capsys.readouterr().err
    assert main([*words, "--strategies", "probe,finetune"]) == 2
    assert told not in capsys.readouterr().err


def test_settings_that_would_change_nothing_are_told_in_python_too(tmp_path):
    with pytest.raises(ConfigError, match="epochs is given, and strategy probe does not read it"):
        regraft.train(tmp_path, epochs=20)
    with pytest.raises(DataError):  # a configuration may say more than its strategy reads
        regraft.train(tmp_path, TrainConfig(epochs=20, augment="strong"))
