"""Processes of Python that need not import torch again: forked from one that has.

A start of Python with torch, timm, SciPy and scikit-learn takes five seconds of a processor, and a
fork of a process that has imported them a tenth of one. What is forked is a process of its own: it
has its own folder, environment, streams, signals and end. The server imports and does nothing else,
so that no thread is lost by the fork. Elsewhere than on Linux each process is started.

What only a process that was started can show stays with one: what it imports, its command line, and
that nothing goes wrong while Python ends.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from functools import partial
from pathlib import Path

#: What ``python -m regraft`` runs.
REGRAFT = "import runpy; runpy.run_module('regraft', run_name='__main__', alter_sys=True)"
_SERVER = "import sys, forked; forked.serve(int(sys.argv[1]))"
_IMPORTED = [
    *(f"regraft.commands.{name}" for name in ("evaluate", "predict", "train")),
    *("regraft.cli.main", "regraft.estimator", "regraft.finetune.train", "regraft.runs.write"),
]
_PATIENCE = 240  # seconds

_kept = []  # modules that a child has forgotten: torchvision's operators live as long as the shim


class Forks:
    """Starts processes; one server for all of them, which is started with the first."""

    def __init__(self):
        self._server = self._socket = None
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._count = 0

    def start(self, code, words=(), *, cwd, stdin=os.devnull, env=None, strict=False):
        """Start ``python -c CODE WORDS``, with ``env`` added to the present environment.

        With ``strict`` a warning is an error, and regraft itself is imported again.
        """
        self._count += 1
        streams = [str(stdin)]
        streams += [
            str(Path(self._folder.name, f"{self._count}.{name}")) for name in ("out", "err")
        ]
        for path in streams[1:]:
            Path(path).touch()
        words = list(map(str, words))
        if sys.platform != "linux":
            return _started(code, words, cwd, streams, {**os.environ, **(env or {})}, strict)
        if self._server is None:
            self._begin()
        request = {"code": code, "words": words, "cwd": str(cwd), "streams": streams,
                   "env": {**os.environ, **(env or {})}, "strict": strict}  # fmt: skip
        pid = self._ask(request)
        return _Process(pid, streams, partial(self._ask, {"wait": pid}))

    def run(self, code, words=(), **more):
        """Run a process to its end, as subprocess.run does."""
        process = self.start(code, words, **more)
        code = process.wait()
        return subprocess.CompletedProcess(words, code, process.out(), process.err())

    def _ask(self, request):
        self._socket.write(json.dumps(request) + "\n")
        self._socket.flush()
        answer = self._socket.readline()
        assert answer, "the server has ended"
        return int(answer)

    def _begin(self):
        ours, theirs = socket.socketpair()
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-c", _SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        with ours:
            self._socket = ours.makefile("rw", encoding="utf-8")

    def close(self):
        if self._server is not None:
            self._socket.close()
            assert self._server.wait(60) == 0
        self._folder.cleanup()


class _Process:
    def __init__(self, pid, streams, ended):
        self.pid = pid
        self._streams, self._ended, self._code = streams, ended, None

    def wait(self):
        """Return the exit code, negative where a signal ended it."""
        if self._code is None:
            self._code = self._ended()
        return self._code

    def end(self):
        """Kill it if nobody has waited for its end."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait_for(self, text):
        """Wait until stdout or stderr has a text."""
        until = time.monotonic() + 60
        while text not in self.out() + self.err():
            if time.monotonic() > until:
                self.end()
                raise AssertionError(self.err())
            time.sleep(0.01)

    def out(self):
        return Path(self._streams[1]).read_text(encoding="utf-8")

    def err(self):
        return Path(self._streams[2]).read_text(encoding="utf-8")


def _started(code, words, cwd, streams, env, strict):
    flags = ["-W", "error"] if strict else []
    with contextlib.ExitStack() as files:
        stdin = files.enter_context(Path(streams[0]).open("rb"))
        out, err = (files.enter_context(Path(path).open("wb")) for path in streams[1:])
        process = subprocess.Popen(
            [sys.executable, *flags, "-c", code, *words],
            cwd=cwd, stdin=stdin, stdout=out, stderr=err, env=env,
        )  # fmt: skip
    return _Process(process.pid, streams, partial(process.wait, _PATIENCE))


# --- in the server and in its children ------------------------------------------------------------


def serve(number):
    """Answer requests until the other end is closed."""
    for name in _IMPORTED:
        importlib.import_module(name)
    importlib.import_module("regraft.backbones.registry").resolve("minivgg")  # imports timm
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork would lose threads"
    gc.collect()
    gc.freeze()  # no child copies pages only because it collects garbage
    connection = socket.socket(fileno=number)
    stream = connection.makefile("rw", encoding="utf-8")
    for line in stream:
        request = json.loads(line)
        if "wait" in request:
            answer = _ended(request["wait"])
        else:
            answer = os.fork()
            if answer == 0:
                stream.close()
                connection.close()
                _execute(_become(**request))
        stream.write(f"{answer}\n")
        stream.flush()


def _ended(pid):
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(_PATIENCE)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(0)
    return code


def _become(code, words, cwd, env, streams, strict):
    """Make this child what a new process would be; return the code."""
    for number, path in enumerate(streams):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["-c", *words]
    # Tests that a shell runs in the background ignore Ctrl-C, and so would their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if strict:
        warnings.simplefilter("error")
        ours = [name for name in sys.modules if name.split(".")[0] == "regraft"]
        _kept.extend(map(sys.modules.pop, ours))
    return code


def _execute(code):
    """Execute the code as ``__main__`` and end as Python does, but free no object.

    That would take 1.5 s: each one that is freed copies a page of the server's.
    """
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    status = 0
    try:
        exec(compile(code, "<string>", "exec"), vars(main))  # noqa: S102 - of a test
    except SystemExit as left:
        status = left.code
        if status is not None and not isinstance(status, int):
            sys.stderr.write(f"{status}\n")
            status = 1
    except BaseException:  # noqa: BLE001 - as Python does
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)
