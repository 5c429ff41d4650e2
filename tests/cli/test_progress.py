"""Lines and progress bars on stderr."""

import io
import sys
import time

from regraft.cli.progress import ConsoleReporter


def test_into_a_file_a_short_task_is_one_line(capsys):
    """Each was said twice, "scan: 2,000" and "scan: 2,000 in 0.0 s", among lines that matter."""
    reporter = ConsoleReporter()
    reporter.say("image size 224: as given")
    with reporter.track("extract", total=2000) as advance:
        for _ in range(10):
            advance(200)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "image size 224: as given"
    assert lines[1].startswith("extract: 2,000 in 0.0 s (")
    assert "\r" not in err
    assert len(lines) == 2


def test_into_a_file_a_long_task_says_how_far_it_is(monkeypatch, capsys):
    """An hour without a line is not distinguished from a process that hangs."""
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    with ConsoleReporter().track("extract", total=4000) as advance:
        for step in range(4000):  # one a second
            clock[0] += 1
            advance(1, "loss 0.3" if step == 9 else "")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "extract loss 0.3: 10 in 10.0 s (1/s), of 4,000"
    assert lines[1:7] == [
        f"extract: {n:,} in {n:,}.0 s (1/s), of 4,000" for n in (20, 40, 80, 160, 320, 640)
    ]
    assert lines[7:] == [
        *(f"extract: {n:,} in {n:,}.0 s (1/s), of 4,000" for n in range(1240, 4000, 600)),
        "extract: 4,000 in 4,000.0 s (1/s)",
    ]


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
