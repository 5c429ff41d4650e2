"""Frozen stages run once a view: what is learnt is the same, killed or damaged anywhere."""

import collections
import dataclasses
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from finetune_trials import equal, make_trial, rows
from regraft.backbones.backbone import Stage
from regraft.backbones.registry import load_backbone
from regraft.config.train_config import TrainConfig
from regraft.core.keyed_random import torch_seeded
from regraft.core.reporter import Reporter
from regraft.errors import ConfigError, DiskFullError, RunError
from regraft.features.taps import select_blocks
from regraft.finetune import train
from regraft.finetune.frozen import prefix
from regraft.finetune.frozen import row_file as rows_module
from regraft.finetune.frozen.cut_network import Activations
from regraft.finetune.frozen.row_file import Layout, RowFile
from regraft.finetune.network import TrainableNetwork, random_head
from regraft.finetune.state import copied
from regraft.model import Model


class Watch:
    """Keep the last state of the network; stop after a step, as Ctrl-C does."""

    def __init__(self, step=None):
        self.step = step

    def on_batch_end(self, loop):
        if loop.state.progress.step == self.step:
            signal.raise_signal(signal.SIGINT)

    def on_train_end(self, loop):
        self.last = copied(loop.state.tensors())
        self.network = loop.state.network


class Lines(Reporter):
    """Keep the lines about frozen stages."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines += [text] if "frozen stages" in text or "are frozen" in text else []


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(trial, watch=None, **changes):
    reporter = Lines()
    job = trial.job(reporter, **changes)
    model, fitted = train.run_loop(job, trial.folder, [watch or Watch()])
    return model, fitted, reporter.lines


def counted(trial):
    """Return the trial and how often each image is read that trains or validates."""
    reads = collections.Counter()

    def stream(indices):
        for index, load in trial.samples.source.stream(indices):

            def noted(index=index, load=load):
                reads[index] += 1
                return load()

            yield index, noted

    source = dataclasses.replace(trial.samples.source, stream=stream)
    samples = dataclasses.replace(trial.samples, source=source)
    used = np.concatenate([trial.parts.train, trial.parts.val])
    positions = samples.positions[used].tolist()
    return dataclasses.replace(trial, samples=samples), lambda: [reads[at] for at in positions]


def remember_nothing(monkeypatch):
    monkeypatch.setattr(prefix, "_cut_and_compare", lambda *_: (None, "for the test's sake"))


# --- what is learnt is the same -------------------------------------------------------------------


def test_one_frozen_stage_is_named_as_one(tmp_path):
    said = []

    class Says(Reporter):
        def say(self, text):
            said.append(text)

    train.build_loop(make_trial(tmp_path, augment="none", unfreeze="4").job(Says()), tmp_path)
    assert "the first of 5 stages is frozen and runs once an image, not in each" in said[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"taps": "all@2", "batch_size": 4, "dropout": 0.3, "ema": 0.9, "accumulate": 2},
        {"precision": "bfloat16", "bn": "train", "unfreeze": "1"},
        {"unfreeze": "0", "taps": "all"},
        {"model": "timm/test_vit", "image_size": "160", "taps": "all", "precision": "bfloat16"},
        {"model": "timm/test_resnet", "image_size": "64", "unfreeze": "layer3"},
    ],
)
def test_without_augmentation_the_cache_changes_no_bit(tmp_path, settings):
    """On one machine, with one number of torch's threads, in batches as small as these."""
    trial, reads = counted(make_trial(tmp_path / "once", augment="none", epochs=3, **settings))
    once, whole = Watch(), Watch()
    model, fitted, lines = run(trial, once)
    assert reads() == [1] * (len(trial.parts.train) + len(trial.parts.val))
    assert fitted.record["frozen_stages"]["once"]
    assert " are frozen and run once an image, not in each of 3 epochs; " in lines[0]
    size = sum(path.stat().st_size for path in trial.folder.glob("frozen-*.rows"))
    assert fitted.record["frozen_stages"]["bytes"] == size > 0
    assert f"{size:,} bytes in {trial.folder}" in lines[0]
    other, known, lines = run(trial.at(tmp_path / "whole"), whole, cached_views="0")
    assert lines == ["the frozen stages run in every epoch: `cached_views=0`"]
    epochs, again = 3, 5  # validation: in epoch 0, after each of three, and of the best one
    n_train, n_val = len(trial.parts.train), len(trial.parts.val)
    assert reads() == [1 + epochs] * n_train + [1 + again] * n_val
    assert same(once.last, whole.last)
    assert equal(model, other)
    assert rows(fitted) == rows(known)
    train.remove_checkpoints(trial.folder)
    assert not trial.folder.exists()


def test_views_are_those_of_the_first_epochs_used_again(tmp_path, monkeypatch):
    trial, reads = counted(make_trial(tmp_path / "once", augment="strong", epochs=5, dropout=0.2))
    once, whole = Watch(), Watch()
    _, fitted, lines = run(trial, once, cached_views=2)
    assert reads() == [2] * len(trial.parts.train) + [1] * len(trial.parts.val)
    assert " run once for each of 2 views of an image, not in each of 5 epochs; " in lines[0]
    remember_nothing(monkeypatch)
    _, known, lines = run(trial.at(tmp_path / "whole"), whole, cached_views=2)
    assert lines == ["the frozen stages run in every epoch: for the test's sake"]
    assert same(once.last, whole.last)
    assert rows(fitted) == rows(known)
    own = Watch()
    run(trial.at(tmp_path / "own"), own)
    assert not same(own.last, whole.last)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("embedded", 64),
        ("minivgg", 28),
        ("torchvision/resnet18", 64),
        ("torchvision/densenet121", 64),
        ("torchvision/swin_t", 64),
        ("timm/test_vit", 160),
        ("timm/convnext_atto", 64),
    ],
)
def test_families_can_be_cut_after_their_stages(name, size):
    backbone = load_backbone(name, "none", image_size=size)
    blocks = select_blocks((backbone,), "all")
    channels = {stage.name: stage.channels for stage in backbone.stages}
    channels["pooled"] = backbone.n_features
    head = random_head(sum(channels[block.tap] for block in blocks), 3, 0)
    model = Model(backbone, blocks, head, 1.0, tuple("abc"), 10**6)
    images = torch.randn(2, 3, size, size).contiguous(memory_format=torch.channels_last)
    for unfreeze in sorted({0, 1, len(backbone.stages) // 2, len(backbone.stages) - 1}):
        network = TrainableNetwork(model, unfreeze=str(unfreeze), train_norms=False)
        network.to(memory_format=torch.channels_last)
        network.cut()
        kept = network.front(images)
        layout = Layout(kept)
        with torch_seeded(images.device, "test"):  # some drop whole branches in training
            whole = network(images)
        with torch_seeded(images.device, "test"):
            cut = network(layout.decode(layout.encode(kept)))
        assert torch.equal(whole, cut)
        assert network.n_frozen == len(backbone.stages) - unfreeze
        assert len(network.early) == network.n_frozen
        cut.sum().backward()
        trained = [p for p in network.backbone.parameters() if p.requires_grad]
        assert bool(trained) == bool(unfreeze)
        assert unfreeze == 0 or any(p.grad is not None for p in trained)


class Skip(nn.Module):
    """Two stages; ``way`` says what else goes from the image to the end."""

    def __init__(self, way):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.skip, self.act = nn.Conv2d(3, 4, 1), nn.ReLU()
        self.way = way

    def forward(self, images):
        x = self.act(self.b(self.act(self.a(images))))
        if self.way == "skips":
            x = x + self.skip(images)
        if self.way == "looks" and float(images.sum()) > 0:
            x = x + 1
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("straight", ""),  # though its activation is used on both sides
        ("skips", "toy cannot be cut at one place (RuntimeError)"),
        ("looks", "toy cannot be cut at one place (RuntimeError)"),
    ],
)
def test_a_network_that_cannot_be_cut_runs_as_a_whole(tmp_path, way, reason):
    trial = make_trial(tmp_path / "x", augment="none", epochs=2, unfreeze="b")
    torch.manual_seed(0)
    backbone = dataclasses.replace(
        trial.probe.backbone, name="toy", module=Skip(way).eval(), n_features=4,
        stages=tuple(Stage(name, name, 4, "nchw") for name in "ab"),
    )  # fmt: skip
    probe = dataclasses.replace(
        trial.probe, backbone=backbone, blocks=select_blocks((backbone,), "all"),
        head=random_head(12, 3, 0),
    )  # fmt: skip
    trial = dataclasses.replace(trial, probe=probe)
    once, whole = Watch(), Watch()
    _, fitted, lines = run(trial, once)
    assert fitted.record["frozen_stages"].get("reason", "") == reason
    if reason:
        assert lines == [f"the frozen stages run in every epoch: {reason}"]
        with pytest.raises(RuntimeError, match="the network is not cut"):
            once.network.front(torch.zeros(1, 3, 32, 32))
    run(trial.at(tmp_path / "y"), whole, cached_views="0")
    assert same(once.last, whole.last)


# --- killed, damaged, full ------------------------------------------------------------------------


def damage(folder, how):
    """Do to the rows what a kill, a failing disk or a tidy user may do."""
    for path in folder.glob("frozen-*.rows"):
        spoil(path, how)


def spoil(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut short":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        data[:: len(data) // 7] = bytes(byte ^ 1 for byte in data[:: len(data) // 7])
        path.write_bytes(data)
    elif how == "removed":
        path.unlink()


def test_stopped_after_a_step_ends_in_the_same_bits(tmp_path):
    trial = make_trial(
        tmp_path / "whole", augment="strong", cached_views="2", epochs=3, dropout=0.3
    )
    whole = Watch()
    model, fitted, _ = run(trial, whole, workers=1)
    assert fitted.record["steps"] == 6
    for step, state in ((1, "left alone"), (3, "flipped"), (4, "removed"), (5, "cut short")):
        stopped, after = trial.at(tmp_path / f"stopped{step}"), Watch()
        with pytest.raises(KeyboardInterrupt):
            run(stopped, Watch(step), workers=1 + step % 2)
        damage(stopped.folder, state)
        resumed, again, _ = run(stopped, after, workers=2 - step % 2, resume=True)
        assert same(after.last, whole.last)
        assert equal(resumed, model)
        assert rows(again) == rows(fitted)
    with pytest.raises(RunError, match="cached_views was 2 and is 0"):
        run(stopped, resume=True, cached_views="0")


def some_rows(path):
    kept = Activations((torch.rand(3, 4, 5, 5).bfloat16(), torch.rand(3, 7)))
    layout = Layout(kept)
    file = RowFile(path, layout.width, 6)
    return kept, layout, file


def test_no_row_is_read_that_was_not_written_for_that_image(tmp_path):
    kept, layout, file = some_rows(tmp_path / "x" / "frozen-0.rows")
    with file.opened():
        for number, row in enumerate(layout.encode(kept)):
            assert file.read(number, b"key") is None
            file.write(number, b"key", row)
        read = torch.stack([file.read(number, b"key") for number in range(3)])
        assert file.read(0, b"another") is None
        assert file.read(3, b"key") is None
    again = layout.decode(read)
    assert all(torch.equal(*pair) for pair in zip(again.tensors, kept.tensors, strict=True))
    data = file.path.read_bytes()
    for at in range(len(data)):  # any one byte
        file.path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with file.opened():
            found = [file.read(number, b"key") is not None for number in range(3)]
        assert found == [number != at // layout.width for number in range(3)]
    file.path.write_bytes(data[:-1])
    with RowFile(file.path, layout.width, 6).opened():
        pass
    with file.opened():
        assert file.read(2, b"key") is None


@pytest.mark.parametrize("dims", [(2, 3, 4), (2, 5, 6, 3), (2, 9), (2, 8, 4, 4)])
def test_rows_keep_values_and_layout_in_memory(dims):
    for tensor in (
        torch.rand(dims), torch.rand(dims).bfloat16(), torch.rand(dims).transpose(-1, 1)
    ):  # fmt: skip
        layout = Layout(Activations((tensor,)))
        (again,) = layout.decode(layout.encode(Activations((tensor,)))).tensors
        assert torch.equal(again, tensor)
        assert again.stride()[1:] == tensor.stride()[1:]
        assert again.dtype == tensor.dtype


def fill_the_disk(monkeypatch, free):
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr(rows_module.shutil, "disk_usage", lambda _: usage)


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path, monkeypatch):
    trial = make_trial(tmp_path / "x", augment="none")
    _, fitted, _ = run(trial)
    size = fitted.record["frozen_stages"]["bytes"]
    fill_the_disk(monkeypatch, size)
    monkeypatch.setattr(train.Checkpoints, "require_space", lambda *_: None)
    other = trial.at(tmp_path / "y")
    message = (
        f"outputs of the frozen stages need {size:,} bytes in {other.folder}; {size:,} are free, "
        "and a tenth of them must stay free"
    )
    with pytest.raises(DiskFullError) as caught:
        run(other, augment="light", cached_views=1, epochs=3)
    assert caught.value.message == message
    assert caught.value.hint == "free some space there; `cached_views=0` needs none"
    assert not other.folder.exists()
    _, fitted, lines = run(other)
    assert fitted.record["frozen_stages"]["reason"] == message
    assert lines == [f"the frozen stages run in every epoch: {message}"]
    run(trial, overwrite=True)  # what is there already needs nothing more


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_disk_that_fills_up_is_named_with_path_and_bytes():
    kept, layout, _ = some_rows(Path("unused"))
    file = RowFile(Path("/dev/full"), layout.width, 6)
    with (
        file.opened(),
        pytest.raises(DiskFullError, match=r"no space left for /dev/full: it grows to 1,416 bytes"),
    ):
        file.write(0, b"key", layout.encode(kept)[0])


def test_rows_of_other_settings_go(tmp_path):
    trial = make_trial(tmp_path / "x", augment="none")

    def files():
        return set(trial.folder.glob("frozen-*.rows"))

    run(trial)
    first = files()
    assert len(first) == 2  # of training and of validation
    run(trial, overwrite=True, lr=0.01)
    assert files() == first  # the same stages, the same images
    run(trial, overwrite=True, unfreeze="1")
    assert len(files()) == 2
    assert not files() & first
    run(trial, overwrite=True, cached_views="0")
    assert not files()


OWN_VIEWS = (
    "each one draws its own views (`augment='light'`); `cached_views=K` would use those of the "
    "first K epochs again"
)

# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"unfreeze": "all"}, "no stage in front of the trained ones is frozen"),
        (
            {"unfreeze": "all", "cached_views": "2"},
            "no stage in front of the trained ones is frozen",
        ),
        ({"cached_views": "0", "augment": "none"}, "`cached_views=0`"),
        ({"augment": "none", "mixup": 0.2}, "mixup and CutMix blend images before they enter it"),
        ({"augment": "none", "epochs": 1}, "no view is used twice"),
        ({"cached_views": "3"}, "no view is used twice"),
        ({}, OWN_VIEWS),
    ],
)
def test_why_the_whole_network_runs(tmp_path, settings, reason):
    trial = make_trial(tmp_path / "x", **{"epochs": 2, **settings})
    _, fitted, lines = run(trial)
    frozen = fitted.record["frozen_stages"]
    assert (frozen["once"], frozen["reason"]) == (False, reason)
    expected = [f"the frozen stages run in every epoch: {reason}"]
    assert lines == (expected if frozen["n"] else [])
    assert not list(trial.folder.glob("frozen-*.rows"))


def test_a_learning_rate_is_looked_for_without_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trial = make_trial(tmp_path / "x", augment="none", batch_size=8)
    assert np.isfinite(trial.rates().losses).all()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["-1", "two", "", "100001", "1.5"])
def test_views_are_auto_or_a_number(value):
    with pytest.raises(
        ConfigError,
        match=f"^cached_views is {value}; it must be auto or a number from 0 to 100000$",
    ):
        TrainConfig(cached_views=value)


def test_views_and_blends_exclude_each_other():
    with pytest.raises(
        ConfigError,
        match=r"^cached_views is 2, and images are blended: one of the two\nhint: mixup and CutMix "
        "blend pixels before the frozen stages see them$",
    ):
        TrainConfig(cached_views=2, cutmix=1.0)
    TrainConfig(cached_views=0, mixup=0.2)
