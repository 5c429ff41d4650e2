"""Errors, warnings, exit codes and signals of every command."""

import errno
import os
import signal
import subprocess
import sys
import warnings

import pytest

from regraft.cli.console import _GONE_HINT, guarded
from regraft.errors import ConvergenceWarning, DataError, RegraftError

REGRAFT = [sys.executable, "-m", "regraft"]


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
            DataError("no images in x", hint="search there"),
            2,
            "error: no images in x\nhint: search there\n",
        ),
        (RegraftError("disk on fire"), 1, "error: disk on fire\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (
            OSError(errno.EIO, "Input/output error", "/mnt/photos/a.jpg"),
            1,
            f"error: /mnt/photos/a.jpg: Input/output error\nhint: {_GONE_HINT}\n",
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
