"""Several processes, as torchrun starts them: the result of one, and an end where one is killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import safetensors.numpy

import regraft
from conftest import make_photographs
from regraft.core.launched import is_first
from regraft.errors import ConfigError
from regraft.finetune.processes.group import ProcessGroup, joined
from regraft.runs.metrics_file import read_metrics

pytestmark = [
    pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning"),
    pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv there"),
]

#: No norms and no dropout: what is left must not depend on who computes it. 51 images in steps of
#: 13 and 12, 23 for validation: little can be halved.
SMALL = {
    "strategy": "finetune", "model": "minivgg", "weights": "none", "unfreeze": "2",
    "image_size": 32, "batch_size": 8, "accumulate": 2, "epochs": 3, "lr": 3e-4, "ema": 0.5,
    "class_weight": "balanced", "precision": "float32", "val_fraction": 0.3, "workers": 2,
    "test_fraction": 0.17, "taps": "last", "head": "mean", "seed": 2,
}  # fmt: skip
FLAGS = [
    word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_photographs(tmp_path_factory.mktemp("data") / "photographs", a_class=30)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    return regraft.train(data, out=tmp_path_factory.mktemp("runs") / "alone", **SMALL)


@contextlib.contextmanager
def torchrun(*words, more=(), cwd):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", *more, "-m", "regraft", "train", *map(str, words)]
    with (
        (cwd / "err").open("w") as err,
        subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=err, text=True) as job,
    ):
        try:
            yield job
        finally:
            job.terminate()  # its processes too, where a test has failed


def assert_same(folder, alone):
    """Compare run folders within what another order of sums changes."""
    for name in ("network-1", "head"):
        one = safetensors.numpy.load_file(alone.folder / "bundle" / f"{name}.safetensors")
        two = safetensors.numpy.load_file(folder / "bundle" / f"{name}.safetensors")
        assert one.keys() == two.keys()
        for tensor in one:
            np.testing.assert_allclose(two[tensor], one[tensor], rtol=1e-3, atol=1e-5)
    metrics = read_metrics(folder)
    assert metrics["head"]["processes"] == 2
    assert metrics["head"]["best_epoch"] == alone.metrics["head"]["best_epoch"] > 0
    assert metrics["test"]["accuracy"] == alone.metrics["test"]["accuracy"]
    assert metrics["val"]["n"] == alone.metrics["val"]["n"] == 23
    columns = ("step", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    one, two = (
        np.genfromtxt(each / "history.csv", delimiter=",", names=True, usecols=columns)
        for each in (alone.folder, folder)
    )
    assert len(one) == 4
    for column in columns:
        np.testing.assert_allclose(two[column], one[column], rtol=1e-4)


def test_two_processes_end_where_one_does_and_one_of_them_writes(data, alone, tmp_path):
    with torchrun(data, *FLAGS, "--out", "run", "--no-cache", cwd=tmp_path) as job:
        out, _ = job.communicate(timeout=120)
    printed = (tmp_path / "err").read_text(encoding="utf-8")
    assert job.returncode == 0, printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err", "run"]
    assert_same(tmp_path / "run", alone)
    assert out.count("test accuracy ") == 1
    assert [printed.count(f"epoch {n}/3;") for n in range(4)] == [1, 1, 1, 1]
    assert "Traceback" not in printed


def environments():
    """Return what a launcher tells each of two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [{**shared, "RANK": str(rank)} for rank in range(2)]


WAITS = """
import sys, time, torch
from regraft.errors import RegraftError
from regraft.finetune.processes.group import joined
try:
    for text in (b"one", b""):  # trainings one after the other
        with joined("finetune") as group:
            if group.first:
                group.send("probe", text)
            else:
                assert group.receive("probe") == text
    with joined("finetune") as group:
        if sys.argv[1] == "alone" and group.first:  # as in an extraction
            print("waits", flush=True)
            time.sleep(100)
        if sys.argv[1] == "alone":
            print("waits", flush=True)
            group.receive("probe")
        while True:
            total = [torch.ones(1000)]
            group.add(total)
            assert total[0].eq(2).all()
            mean = [torch.tensor([1.0, group.rank]), torch.tensor(3.0 * group.rank)]
            group.average(mean)
            assert mean[0].tolist() == [1, 0.5] and mean[1].tolist() == 1.5
            print("adds", group.largest(group.rank), flush=True)
except RegraftError as error:
    print(error.message)
    sys.exit(7)
"""


@pytest.mark.parametrize("where", ["alone", "together"])
def test_a_process_that_is_killed_does_not_let_the_other_one_wait(where, forks, tmp_path):
    """Without a launcher that would kill it, too."""
    jobs = [forks.start(WAITS, [where], cwd=tmp_path, env=each) for each in environments()]
    try:
        for job in jobs:
            job.wait_for("waits\n" if where == "alone" else "adds 1\n")
        os.kill(jobs[0].pid, signal.SIGKILL)
        killed = time.monotonic()
        code = jobs[1].wait()
    finally:
        for job in jobs:
            job.end()
    assert time.monotonic() - killed < 30
    assert code == 7
    last = jobs[1].out().splitlines()[-1]
    assert last.startswith("process 2 of 2: another process of this training is gone: ")


ENDS = """
import weakref, torch
from regraft.finetune.processes.group import joined
with joined("finetune") as group:
    there = weakref.ref(torch.distributed.group.WORLD)
    weight = torch.ones(1, requires_grad=True)
    torch.optim.AdamW([weight])  # imports a good part of torch
    group.largest(0)
print("left" if there() else "gone")
"""


def test_no_thread_of_the_processes_group_outlives_the_training(tmp_path):
    """One that did aborted the process at its end, once in 50 trainings: so both are started."""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", ENDS], cwd=tmp_path, env={**os.environ, **each},
            stdout=subprocess.PIPE, text=True,
        )
        for each in environments()
    ]  # fmt: skip
    ended = [(job.communicate(timeout=240)[0], job.returncode) for job in jobs]
    assert ended == [("gone\n", 0), ("gone\n", 0)]


@pytest.mark.heavy
@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_ends_or_restarts_within_a_minute_of_a_kill(rank, data, alone, tmp_path):
    words = [data, *FLAGS, "--out", "run", "--no-cache", "--resume", "--save-every", "1"]
    with torchrun(*words, cwd=tmp_path) as job:
        started(job, tmp_path, "epoch 1/3")[rank].kill()
        killed = time.monotonic()
        job.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert job.returncode == 1
    assert not (tmp_path / "run").exists()
    with torchrun(*words, more=["--max-restarts", "1"], cwd=tmp_path) as job:
        started(job, tmp_path, "finetune: " if rank else "forward pass")[rank].kill()
        job.communicate(timeout=120)
    assert job.returncode == 0
    assert_same(tmp_path / "run", alone)


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_passes_a_signal_on_and_the_step_is_saved(number, data, alone, tmp_path):
    words = [data, *FLAGS, "--out", "run", "--no-cache"]
    with torchrun(*words, cwd=tmp_path) as job:
        started(job, tmp_path, "epoch 1/3")
        job.send_signal(number)
        job.communicate(timeout=60)
    assert "saved after step" in (tmp_path / "err").read_text(encoding="utf-8")
    with torchrun(*words, "--resume", cwd=tmp_path) as job:
        job.communicate(timeout=120)
    assert job.returncode == 0
    assert_same(tmp_path / "run", alone)


def started(job, folder, line):
    """Wait for a line; return the processes by their rank."""
    while line not in (folder / "err").read_text(encoding="utf-8"):
        assert job.poll() is None
        time.sleep(0.05)
    return {int(child.environ()["RANK"]): child for child in psutil.Process(job.pid).children()}


@pytest.mark.heavy
def test_a_probe_is_refused_by_one_message(data, tmp_path):
    with torchrun(data, "--out", "run", cwd=tmp_path) as job:
        job.communicate(timeout=60)
    assert job.returncode == 1
    printed = (tmp_path / "err").read_text(encoding="utf-8")
    message = "error: 2 processes were started, and a probe is fitted by one\n"
    assert printed.count(message) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_even_and_whole(size):
    for n in (0, 1, 5, 6, 7, 100):
        shares = [ProcessGroup(rank, size).share(n) for rank in range(size)]
        assert [i for share in shares for i in range(n)[share]] == list(range(n))
        lengths = [share.stop - share.start for share in shares]
        assert max(lengths) - min(lengths) <= 1


def test_variables_of_others_are_read_with_care(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # without the others it is nobody's job
    assert is_first()
    with joined("probe") as group:
        assert group == ProcessGroup()
    for name, value in (("RANK", "one"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught, joined("finetune"):
        pass
    assert caught.value.message == "the variable RANK is 'one'; torchrun sets it to a number"
