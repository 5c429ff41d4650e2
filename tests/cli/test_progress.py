"""Lines and progress bars on stderr."""

import io
import sys
import time

from regraft.cli.progress import ConsoleReporter


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
