"""Each command parses, imports what it needs, and prints."""

import subprocess
import sys

import pytest

import regraft
from regraft import __version__
from regraft.cli.main import main
from regraft.config.train_config import TrainConfig
from regraft.errors import ConfigError, DataError

REGRAFT = [sys.executable, "-m", "regraft"]


def run(*words, **options):
    return subprocess.run(
        [*REGRAFT, *words], capture_output=True, text=True, check=False, timeout=60, **options
    )


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
        "              'evaluate r x --strict', 'predict r x -b 4', 'drift r x --json',\n"
        "              'export r --to web --single-file',\n"
        "              'show x --seed 3',\n"
        "              'lr-find x --optimizer sgd', 'cache clear --cache-dir a', 'demo'):\n"
        "    _, bound, _ = app.parse_args(words, exit_on_error=False)\n"
        "    combine(None, bound.arguments.get('flags'))\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not SLOW & {*result.stdout.split()}


def test_version_and_module(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert run("--version").stdout == f"{__version__}\n"


def test_a_lone_dash_is_standard_input():
    words = ["predict", "r", "-", "--json"]
    result = run(*words, stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert "unknown flag" not in result.stderr  # and r is no run


@pytest.mark.parametrize(
    ("words", "home"),
    [
        (["train", "nowhere"], "commands.train"),
        (["predict", "r", "nowhere.jpg"], "commands.predict"),
    ],
)
def test_a_wrong_path_is_an_error_before_torch_is_imported(words, home):
    code = "import sys; from regraft.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert "nowhere" in result.stderr
    assert f"regraft.{home}" in result.stdout.split()
    assert "torch" not in result.stdout.split()


def test_predictions_replace_no_file_unasked(tmp_path, capsys):
    """A photograph or the labels given to --csv by mistake were lost."""
    table, folder, new = tmp_path / "a.csv", tmp_path / "folder", tmp_path / "new" / "b.csv"
    table.write_text("kept", encoding="utf-8")
    folder.mkdir()

    def said(*words):
        assert main(["predict", str(tmp_path / "no-run"), str(table), *map(str, words)]) == 2
        return capsys.readouterr().err.splitlines()

    assert said("--csv", table) == [
        f"error: {table} exists; it is left alone",
        "hint: --csv names another file; --overwrite replaces it",
    ]
    assert said("--csv", folder, "--overwrite") == [
        f"error: {folder} exists; it is left alone",
        "hint: --csv names another file",
    ]
    assert said("--overwrite")[0] == "error: --overwrite is given without --csv"
    assert "no-run" in said("--csv", table, "--overwrite")[0]  # the next thing that is wrong
    assert "no-run" in said("--csv", new)[0]
    assert not new.parent.exists()
    assert said("--csv", table / "b.csv")[0] == f"error: {table} cannot be written: File exists"
    assert table.read_text(encoding="utf-8") == "kept"


def test_datasets_are_listed(capsys):
    assert main(["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["name", "classes", "train", "test"]
    assert {line.split()[0] for line in lines} >= {"digits", "mnist", "cifar10", "imagenette"}


def test_the_store_is_shown_and_cleared(tmp_path, capsys):
    folder = ["--cache-dir", str(tmp_path / "store")]
    assert main(["cache", *folder]) == main(["cache", "show", *folder]) == 0
    assert str(tmp_path / "store") in capsys.readouterr().out
    assert main(["cache", "clear", *folder]) == 0
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
            "--strategy finetune starts from a probe; --unfreeze says how many stages are trained",
        ),
    ],
)
def test_flags_that_would_change_nothing_are_refused(words, message, hint, tmp_path, capsys):
    """A tutorial's --epochs on the default strategy was ignored without a message."""
    assert main(["train", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\nhint: {hint}\n"


def test_flags_that_no_compared_training_reads_are_refused(tmp_path, capsys):
    words = ["compare", str(tmp_path / "none"), "--models", "embedded", "--epochs", "2"]
    assert main(words) == 2
    message = "epochs is given, and strategy probe does not read it"
    assert message in capsys.readouterr().err
    assert main([*words, "--strategies", "probe,finetune"]) == 2
    assert message not in capsys.readouterr().err


def test_settings_that_would_change_nothing_are_refused_in_python_too(tmp_path):
    with pytest.raises(ConfigError, match="epochs is given, and strategy probe does not read it"):
        regraft.train(tmp_path, epochs=20)
    with pytest.raises(DataError):  # a configuration may say more than its strategy reads
        regraft.train(tmp_path, TrainConfig(epochs=20, augment="strong"))
