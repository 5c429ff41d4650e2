"""A process that was forked is, to who looks at it, one that was started."""

import subprocess
import sys

import pytest

ENDS = {
    "words": "import os, sys; print(sys.argv, os.getcwd()); sys.exit(len(sys.argv))",
    "message": "import sys; sys.exit('no')",
    "no modules of ours": "import sys; print([name for name in sys.modules if 'regraft' in name])",
    "signal": "import os; print('before', flush=True); os.kill(os.getpid(), 9)",
    "threads and exit handlers": "import atexit, threading, time; atexit.register(print, 'end')\n"
    "def late():\n    time.sleep(0.05)\n    print('late')\n"
    "threading.Thread(target=late).start()",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
def test_it_ends_as_one_that_was_started(code, forks, tmp_path):
    forked = forks.run(code, ["a", "é"], cwd=tmp_path, strict=True)
    started = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "a", "é"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert forked.returncode == started.returncode
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


@pytest.mark.parametrize("code", ["import warnings; warnings.warn('deep')", "x = 1\nx.y()"])
def test_errors_and_strict_warnings_are_errors(code, forks, tmp_path):
    forked = forks.run(code, cwd=tmp_path, strict=True)
    assert forked.returncode == 1
    assert forked.stderr.startswith("Traceback")
    assert forked.stderr.splitlines()[-1].endswith(("UserWarning: deep", "no attribute 'y'"))
    lenient = forks.run("import warnings; warnings.warn('deep')", cwd=tmp_path)
    assert (lenient.returncode, "UserWarning: deep" in lenient.stderr) == (0, True)
