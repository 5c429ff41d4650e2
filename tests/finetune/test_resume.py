"""Killed anywhere, repeated to the bit: after each step, in each state of the folder, by -9."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import time

import pytest
import torch

from conftest import make_photographs
from finetune_trials import equal, make_trial, rows
from forked import REGRAFT
from regraft.errors import RunError
from regraft.finetune import checkpoint
from regraft.finetune.state import copied

#: Everything at once that draws at random or remembers.
ALL = {
    "augment": "strong", "dropout": 0.3, "ema": 0.9, "mixup": 0.4, "cutmix": 1.0, "bn": "train",
    "label_smoothing": 0.1, "class_weight": "balanced", "accumulate": 2, "batch_size": 4,
    "unfreeze": "all",
}  # fmt: skip
COMBINATIONS = {
    "adamw": {**ALL, "optimizer": "adamw", "precision": "bfloat16"},
    "sgd": {**ALL, "optimizer": "sgd", "precision": "float32", "schedule": "step"},
}


class Watch:
    """Keep losses and the last state of the network; stop after a step, as Ctrl-C does."""

    def __init__(self, step=None):
        self.step = step
        self.losses = {}

    def on_batch_end(self, loop):
        self.losses[loop.state.progress.step] = loop.batch_loss
        if loop.state.progress.step == self.step:
            signal.raise_signal(signal.SIGINT)

    def on_train_end(self, loop):
        self.last = copied(loop.state.tensors())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_stopped_after_a_step_ends_in_the_same_bits(tmp_path, name):
    """On one machine, with one number of torch's threads, whatever the number of workers."""
    trial = make_trial(tmp_path / "whole", **COMBINATIONS[name])
    whole = Watch()
    model, fitted = trial.run(whole, workers=1)
    steps = len(whole.losses)
    assert steps == max(whole.losses) == fitted.record["steps"] >= 4
    for step in range(1, steps + 1, 1 if name == "adamw" else 3):
        stopped = trial.at(tmp_path / f"stopped{step}")
        before, after = Watch(step), Watch()
        with pytest.raises(KeyboardInterrupt):
            stopped.run(before, workers=1 + step % 2)
        resumed, again = stopped.run(after, workers=2 - step % 2, resume=True)
        assert before.losses.keys() | after.losses.keys() == whole.losses.keys()
        assert not before.losses.keys() & after.losses.keys()  # none lost, none repeated
        assert before.losses | after.losses == whole.losses
        assert same(after.last, whole.last)
        assert equal(resumed, model)
        assert rows(again) == rows(fitted)
        assert again.temperature == fitted.temperature


def test_stopped_while_an_epoch_is_measured_measures_it_again(tmp_path):
    """Signals that come while validation images are read, in epoch 0 and in epoch 1."""
    trial = make_trial(tmp_path / "whole", **COMBINATIONS["adamw"])
    whole = Watch()
    model, fitted = trial.run(whole)
    for epoch in (0, 1):
        reads = []

        def stream(indices, epoch=epoch, reads=reads):
            for index, load in trial.samples.source.stream(indices):

                def noted(index=index, load=load):
                    reads.append(index)
                    if (
                        reads.count(trial.parts.val[-1]) == epoch + 1
                        and index == trial.parts.val[-1]
                    ):
                        signal.raise_signal(signal.SIGTERM)
                    return load()

                yield index, noted

        source = dataclasses.replace(trial.samples.source, stream=stream)
        samples = dataclasses.replace(trial.samples, source=source)
        stopped = dataclasses.replace(trial, samples=samples, folder=tmp_path / f"stopped{epoch}")
        before, after = Watch(), Watch()
        with pytest.raises(SystemExit) as left:
            stopped.run(before)
        assert left.value.code == 143
        assert len(before.losses) == epoch * len(whole.losses) // 2
        resumed, again = trial.at(stopped.folder).run(after, resume=True)
        assert before.losses | after.losses == whole.losses
        assert not before.losses.keys() & after.losses.keys()
        assert equal(resumed, model)
        assert rows(again) == rows(fitted)


def test_every_state_of_the_folder_can_be_resumed(tmp_path, monkeypatch):
    """A kill leaves the folder as it is between two of its operations: copy it at each of them."""
    trial = make_trial(tmp_path / "whole", **COMBINATIONS["adamw"])
    states = []

    def take():
        if trial.folder.exists():
            states.append(tmp_path / f"state{len(states)}")
            shutil.copytree(trial.folder, states[-1])

    written = checkpoint.write_atomic

    def watched(path, data):
        take()
        half = path.with_name(f".{path.name}.{'0' * 16}.tmp")  # as write_atomic names it
        half.write_bytes(data[: len(data) // 2])
        take()
        half.unlink()
        written(path, data)

    class EachStep(Watch):
        def on_batch_end(self, loop):
            super().on_batch_end(loop)
            loop._saved_at = float("-inf")  # as if --save-every had passed

        def on_epoch_end(self, loop):  # noqa: ARG002 - callbacks are called with the loop
            take()

    monkeypatch.setattr(checkpoint, "write_atomic", watched)
    whole = EachStep()
    model, fitted = trial.run(whole)
    monkeypatch.undo()
    take()
    assert len(states) > 4 * len(whole.losses)
    for state in [*states[:: len(states) // 4], states[-1]]:  # the last one is complete
        after = Watch()
        resumed, again = trial.at(state).run(after, resume=True)
        assert equal(resumed, model)
        assert same(after.last, whole.last)
        assert rows(again) == rows(fitted)
        assert after.losses.items() <= whole.losses.items()
        names = {path.name for path in state.iterdir()}
        assert len(names) == 4  # two checkpoints, and nothing half-written


def test_a_stopped_run_is_neither_lost_nor_taken_for_another(tmp_path):
    trial = make_trial(tmp_path / "x")
    with pytest.raises(KeyboardInterrupt):
        trial.run(Watch(1))
    with pytest.raises(
        RunError,
        match="x holds the checkpoints of a run that was stopped\nhint: "
        "`resume=True` continues it; `overwrite=True` starts from the beginning; "
        "`out` names another folder",
    ):
        trial.run()
    with pytest.raises(RunError, match=r"belongs to another run: lr was None and is 0\.1"):
        trial.run(resume=True, lr=0.1)
    other = make_trial(tmp_path / "x", a_class=9)
    with pytest.raises(RunError, match="training images was "):
        other.run(resume=True)
    whole, _ = trial.at(tmp_path / "y").run()
    again, fitted = trial.run(overwrite=True)
    assert equal(again, whole)
    assert fitted.record["steps"] == 4


def test_a_checkpoint_that_does_not_fit_is_an_error(tmp_path, monkeypatch):
    trial = make_trial(tmp_path / "x")
    with pytest.raises(KeyboardInterrupt):
        trial.run(Watch(1))
    read = checkpoint.Checkpoints.load

    def without(self):
        saved, notes = read(self)
        del saved.tensors["network/weight"]
        return saved, notes

    monkeypatch.setattr(checkpoint.Checkpoints, "load", without)
    with pytest.raises(
        RunError, match="the checkpoint does not fit this run: network/weight is missing\nhint: "
    ):
        trial.run(resume=True)


def test_a_second_signal_leaves_at_once(tmp_path):
    class Twice(Watch):
        def on_batch_end(self, loop):  # noqa: ARG002
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make_trial(tmp_path / "x").run(Twice())
    assert len(list((tmp_path / "x").iterdir())) == 2  # epoch 0's alone: nothing was saved
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def commands(forks, tmp_path):
    """Run a command; end it by a signal once it says something."""

    def run(words, until="", number=None):
        process = forks.start(REGRAFT, words, cwd=tmp_path)
        if number is not None:
            process.wait_for(until)
            sent = time.monotonic()
            os.kill(process.pid, number)
        code = process.wait()
        assert number is None or time.monotonic() - sent < 10
        return code, process.err()

    return run


def words(data, out, *more):
    return [
        *("train", data, "--strategy", "scratch", "--model", "minivgg", "--epochs", "3"),
        *("--augment", "light", "--dropout", "0.2", "--ema", "0.9", "-b", "4", "--no-cache"),
        *("--save-every", "1", "--out", out, *more),
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX signals")
def test_killed_and_terminated_ends_in_the_same_bundle(commands, tmp_path):
    data = make_photographs(tmp_path / "data", a_class=12)
    out, whole = tmp_path / "out", tmp_path / "whole"
    code, printed = commands(words(data, whole))
    assert code == 0, printed
    first = commands(words(data, out, "-j", "1"), "epoch 0/3", signal.SIGKILL)
    assert first[0] == -signal.SIGKILL
    code, printed = commands(words(data, out, "-j", "2", "--resume"), "epoch 1/3", signal.SIGTERM)
    assert (code, "saved after step" in printed) == (143, True), printed
    code, printed = commands(words(data, out, "-j", "2", "--resume"))
    assert (code, "resumed in epoch" in printed) == (0, True), printed
    assert not out.with_name("out.checkpoints").exists()
    for name in ("bundle/network-1.safetensors", "bundle/head.safetensors", "predictions.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert history(out) == history(whole)
    assert [row["epoch"] for row in history(whole)] == ["0", "1", "2", "3"]
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["head"]["trained_stages"] == ["block1", "block2", "block3"]


def history(folder):
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return [
            {name: row[name] for name in row if "second" not in name}
            for row in csv.DictReader(file)
        ]
