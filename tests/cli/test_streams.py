"""Streams that are closed or full: progress may be lost, results may not, and no work is."""

import os
import subprocess
import sys

import pytest

from conftest import make_photographs
from regraft.cli.console import guarded, print_error
from regraft.cli.main import main
from regraft.cli.progress import ConsoleReporter
from regraft.cli.streams import complete_without_printing, tell, write
from regraft.errors import DataError, InputError, visible

COMMAND = """
import os, sys
from regraft.cli.console import guarded
from regraft.cli.progress import ConsoleReporter
from regraft.cli.streams import write

def command():
    with open(sys.argv[1], "w") as file:  # on a number that was closed it would get their text
        ConsoleReporter().say("progress")
        print("of another library", file=sys.stderr)
        os.write(2, b"of a library in C") if "full" not in sys.argv[2] else None
        with ConsoleReporter().track("fit", 1) as advance:
            advance(1)
        file.write("complete")
    write("result")
    return 0

sys.exit(guarded(command))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the shell closes streams otherwise there")
@pytest.mark.parametrize(
    ("streams", "code", "out", "err"),
    [
        ("2>&-", 0, "result\n", ""),
        ("2>/dev/full", 0, "result\n", ""),
        (">&-", 1, "", "error: the results cannot be printed: stdout is closed\n"),
        (">/dev/full", 1, "", "error: the results cannot be printed: No space left on device\n"),
        ("<&- >&- 2>&-", 1, "", ""),
        (">/dev/full 2>/dev/full", 1, "", ""),
    ],
)
def test_progress_may_be_lost_and_results_may_not(streams, code, out, err, tmp_path):
    if "/dev/full" in streams and sys.platform != "linux":
        pytest.skip("there is no /dev/full")
    file = tmp_path / "file"
    done = subprocess.run(
        ["sh", "-c", f'"$@" {streams}', "", sys.executable, "-c", COMMAND, str(file), streams],
        capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr.endswith(err) if err else not done.stderr
    assert file.read_text(encoding="utf-8") == "complete"


def test_a_training_ends_with_its_run_where_both_streams_are_none(tmp_path, monkeypatch, capsys):
    """As under ``pythonw``; where stderr is there, it says that the summary is not printed."""
    data, run = make_photographs(tmp_path / "data", 4), tmp_path / "run"
    words = ["train", str(data), "--model", "minivgg", "--weights", "none", "--image-size", "16"]
    monkeypatch.setattr(sys, "stdout", None)
    with monkeypatch.context() as without:
        without.setattr(sys, "stderr", None)
        assert main([*words, "--out", str(run)]) == 0
    assert (run / "metrics.json").is_file()
    assert main(["datasets"]) == 1  # all that it does is to print

    def command():
        with complete_without_printing(run):
            write("summary")
        return 0

    capsys.readouterr()
    assert guarded(command) == 0
    assert capsys.readouterr().err == (
        f"warning: the results cannot be printed: stdout is closed; they are in {run}\n"
    )


#: By Unicode's names: what a reader does not see, and what turns the text around it.
UNSEEN = {
    "\x1b": r"\x1b",
    "\x7f": r"\x7f",
    "\x9b": r"\x9b",  # the same as escape and a bracket
    "\r": r"\x0d",
    "\xa0": r"\xa0",  # no-break space
    "\xad": r"\xad",  # soft hyphen
    "\u061c": r"\u061c",  # Arabic letter mark
    "\u200b": r"\u200b",  # zero-width space
    "\u200f": r"\u200f",  # right-to-left mark
    "\u202e": r"\u202e",  # right-to-left override
    "\u2028": r"\u2028",  # line separator
    "\u2066": r"\u2066",  # left-to-right isolate
    "\ufeff": r"\ufeff",  # byte-order mark
    "\udce9": r"\udce9",  # a byte that is not UTF-8, in a file's name
    "\U000e0041": r"\U000e0041",  # tag A
}


@pytest.mark.parametrize("character", UNSEEN, ids=ascii)
def test_what_is_not_seen_is_written_out_wherever_it_is_printed(character, capsys):
    name, shown = f"a{character}b", f"a{UNSEEN[character]}b"
    print_error(InputError(f"no {name}", hint=f"did you mean {name}?"))
    reporter = ConsoleReporter()
    reporter.say(name)
    with reporter.track(name, 0):
        pass
    tell(name)
    write(name)
    out, err = capsys.readouterr()
    assert out == f"{shown}\n"
    lines = err.splitlines()
    assert lines[:3] == [f"error: no {shown}", f"hint: did you mean {shown}?", shown]
    assert lines[3].startswith(f"{shown}: 0 in")
    assert lines[4] == shown


def test_letters_of_all_scripts_and_wide_blanks_stay():
    text = "rose, Löwenzahn, バラ\u3000赤, ورد, ดอกไม้, ✿ 🌷, l'été\tn° 5\n"
    assert visible(text) == text


def test_a_line_break_in_a_name_makes_no_line_of_its_own(capsys):
    def command():
        raise DataError("no a\nerror: b", hint="see c\nhint: d", lines=["  1\n2", "  3"])

    assert guarded(command) == 2
    ConsoleReporter().say("x\nwarning: y")
    assert capsys.readouterr().err.splitlines() == [
        r"error: no a\nerror: b", r"  1\n2", "  3", r"hint: see c\nhint: d", r"x\nwarning: y",
    ]  # fmt: skip
