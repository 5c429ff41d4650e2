"""A real network file system (sshfs over a server on this machine), and one that stops.

With REGRAFT_ATTACKS=full, if sshfs, sshd and /dev/fuse are there (Debian: `apt-get install sshfs
openssh-server`).
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import regraft
from conftest import make_photographs

TOOLS = [shutil.which(name) for name in ("sshfs", "ssh-keygen", "fusermount")]
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
pytestmark = pytest.mark.skipif(
    os.environ.get("REGRAFT_ATTACKS") != "full"
    or None in (*TOOLS, SSHD)
    or not Path("/dev/fuse").exists(),
    reason="needs REGRAFT_ATTACKS=full, sshfs and sshd",
)
SMALL = {"model": "minivgg", "image_size": 32, "test_fraction": 0.3, "workers": 2}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path):
    """Start a server and mount its folder; yield the process and the mount."""
    for name in ("host", "user"):
        subprocess.run(
            [TOOLS[1], "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True
        )
    port, mount, far = free_port(), tmp_path / "mount", tmp_path / "far"
    mount.mkdir()
    far.mkdir()
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = {
        "AuthorizedKeysFile": tmp_path / "user.pub", "StrictModes": "no", "PidFile": "none",
        "ListenAddress": "127.0.0.1", "PermitRootLogin": "yes", "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    options = [f"-o{name}={value}" for name, value in settings.items()]
    daemon = [SSHD, "-D", "-f", "/dev/null", "-h", tmp_path / "host", "-p", str(port), *options]
    process = subprocess.Popen(daemon, stderr=subprocess.DEVNULL, start_new_session=True)
    keys = f"IdentityFile={tmp_path / 'user'},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
    remote = f"{getpass.getuser()}@127.0.0.1:{far}"
    try:
        for _ in range(50):
            done = subprocess.run(
                [TOOLS[0], "-p", str(port), "-o", keys, remote, mount],
                capture_output=True,
                check=False,
            )
            if not done.returncode:
                break
            time.sleep(0.1)
        assert not done.returncode, done.stderr
        yield process, mount
    finally:
        subprocess.run([TOOLS[2], "-uz", mount], check=False)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def sessions_of(process):
    """Return the children of the process that listens: one for each connection."""
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


def test_data_run_and_store_on_it(server, tmp_path):
    _, mount = server
    photographs = make_photographs(mount / "photographs", a_class=12)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        far = regraft.train(photographs, out=mount / "run", cache_dir=mount / "store", **SMALL)
        shutil.copytree(photographs, tmp_path / "photographs")
        near = regraft.train(tmp_path / "photographs", out=tmp_path / "run", cache=False, **SMALL)
    assert sum("network file system (fuse.sshfs)" in str(each.message) for each in warned) == 1
    assert not (mount / "store").exists()
    assert {path.name for path in mount.iterdir()} == {"photographs", "run"}
    assert far.metrics["test"] == near.metrics["test"]
    names = ("predictions.csv", "bundle/head.safetensors")
    for name in names:
        assert (far.folder / name).read_bytes() == (near.folder / name).read_bytes()


@pytest.mark.parametrize("moment", range(8))
def test_a_server_that_stops_ends_the_run_with_one_error(server, tmp_path, moment):
    """Between images, in a checkpoint, or at any other moment."""
    process, mount = server
    photographs = make_photographs(mount / "photographs", a_class=12)
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    training = subprocess.Popen(
        [sys.executable, "-m", "regraft", "train", photographs, "--strategy=scratch", *settings,
         "--epochs=100000", "--out", mount / "run", "--cache-dir", tmp_path / "store"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    line = ""
    while "epoch 2/" not in line:
        line = training.stdout.readline()
        assert line, "the training has ended by itself"
    time.sleep(moment / 10)
    for session in sessions_of(process):
        os.kill(session, signal.SIGKILL)
    rest, _ = training.communicate(timeout=60)
    assert training.returncode in (1, 2), rest  # the run's folder or an image was lost first
    assert rest.count("error: ") == 1, rest
    assert "Traceback" not in rest, rest
