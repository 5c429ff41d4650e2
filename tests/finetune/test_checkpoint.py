"""Checkpoints: whole or not at all, the last two, nothing of another run."""

import errno
import json
import shutil

import pytest
import torch

from regraft.core import files
from regraft.errors import DiskFullError, RunError
from regraft.finetune.checkpoint import Checkpoints
from regraft.finetune.paths import checkpoint_numbers, checkpoints_folder, refuse_existing

TENSORS = {
    "network/a": torch.arange(6.0).reshape(2, 3).to(memory_format=torch.contiguous_format),
    "network/b": torch.ones(1, 3, 4, 4).to(memory_format=torch.channels_last),
    "optimizer/step/a": torch.tensor(3.0),
    "count": torch.tensor(2**40),
    "half": torch.ones(3, dtype=torch.bfloat16),
}
RUN = {"lr": 0.1, "seed": 0, "names": ["a", "b"]}


def opened(tmp_path, **changes):
    return Checkpoints(tmp_path / "run.checkpoints", {**RUN, **changes})


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    state = {
        "epoch": 3,
        "loss": 0.1 + 0.2,
        "history": [{"z": 1e-300, "a": None}],
        "text": "é\ud800",
    }
    opened(tmp_path).save(TENSORS, state)
    saved, notes = opened(tmp_path).load()
    assert notes == []
    assert saved.state == state
    assert list(saved.state["history"][0]) == ["z", "a"]  # columns keep their order
    assert saved.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert saved.tensors[name].dtype == tensor.dtype
        assert torch.equal(saved.tensors[name], tensor)


def test_two_checkpoints_are_kept_and_go_with_the_folder(tmp_path):
    checkpoints = opened(tmp_path)
    assert checkpoints.load() == (None, [])
    for step in range(5):
        checkpoints.save(TENSORS, {"step": step})
    folder = checkpoints.folder
    assert checkpoint_numbers(folder) == [4, 5]
    assert len(list(folder.iterdir())) == 4
    again = opened(tmp_path)
    assert again.load()[0].state == {"step": 4}
    again.save(TENSORS, {"step": 5})
    assert checkpoint_numbers(folder) == [5, 6]
    (folder / "notes.txt").write_text("mine")
    again.remove()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]  # what is not ours stays
    (folder / "notes.txt").unlink()
    again.remove()
    assert not folder.exists()


@pytest.mark.parametrize("after", range(5))
def test_killed_while_removing_leaves_whole_checkpoints_or_none(tmp_path, monkeypatch, after):
    checkpoints = opened(tmp_path)
    for step in (1, 2):
        checkpoints.save(TENSORS, {"step": step})
    unlink, calls = type(tmp_path).unlink, []

    def killed(path, **options):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(path)
        unlink(path, **options)

    monkeypatch.setattr(type(tmp_path), "unlink", killed)
    try:
        checkpoints.remove()
    except KeyboardInterrupt:
        assert after < 4
    monkeypatch.undo()
    saved, notes = opened(tmp_path).load()
    assert notes == []
    assert (saved is None) == (after >= 2)
    refuse_existing(checkpoints.folder) if saved is None else None


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "longer":
        path.write_bytes(data + b" x")
    elif how == "gone":
        path.unlink()
    elif how == "other":
        path.write_bytes(b'{"sha256": 1, "content": []}')


@pytest.mark.parametrize("how", ["cut", "empty", "flip", "longer", "gone", "other"])
@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, suffix, how):
    checkpoints = opened(tmp_path)
    for step in (1, 2):
        checkpoints.save(TENSORS, {"step": step})
    damage(checkpoints.folder / f"00000002.{suffix}", how)
    again = opened(tmp_path)
    saved, notes = again.load()
    assert saved.state == {"step": 1}
    if (suffix, how) != ("json", "gone"):  # without its JSON a checkpoint was never finished
        assert notes[0].startswith("checkpoint 2 is passed over: ")
    again.save(TENSORS, {"step": 2})
    whole = opened(tmp_path)
    assert whole.load()[0].state == {"step": 2}
    assert 1 in checkpoint_numbers(whole.folder)  # the damaged one went, not the whole one


def test_no_whole_checkpoint_is_an_error_and_no_fresh_start(tmp_path):
    checkpoints = opened(tmp_path)
    for step in (1, 2):
        checkpoints.save(TENSORS, {"step": step})
    for path in checkpoints.folder.glob("*.safetensors"):
        damage(path, "flip")
    with pytest.raises(
        RunError,
        match="holds no whole checkpoint: checkpoint 2 is passed over: its "
        "tensors are not those that were saved",
    ):
        opened(tmp_path).load()


def test_every_flipped_bit_of_the_state_is_noticed(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save({"a": torch.ones(1)}, {"step": 7})
    path = checkpoints.folder / "00000001.json"
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            saved, _ = opened(tmp_path).load()
        except RunError:
            continue
        assert saved.state == {"step": 7}


def test_another_run_is_refused_by_name_of_what_differs(tmp_path):
    opened(tmp_path).save(TENSORS, {})
    with pytest.raises(
        RunError,
        match=r"belongs to another run: lr was 0\.1 and is 0\.2; seed was 0 "
        r"and is 1\nhint: `resume=True` with the same settings",
    ):
        opened(tmp_path, lr=0.2, seed=1).load()
    with pytest.raises(RunError, match="more was None and is True"):
        opened(tmp_path, more=True).load()


@pytest.mark.parametrize("other", [1, 2, 4])
def test_another_schema_is_passed_over_by_name(tmp_path, monkeypatch, other):
    """1 had other batches and losses, 2 another decay: the rest would be of another kind."""
    monkeypatch.setattr("regraft.finetune.checkpoint.SCHEMA_VERSION", other)
    opened(tmp_path).save(TENSORS, {})
    monkeypatch.undo()
    with pytest.raises(RunError, match=f"it has schema version {other}; this regraft reads 3"):
        opened(tmp_path).load()


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_full_disk_keeps_the_last_one_and_names_path_and_bytes(tmp_path, monkeypatch, suffix):
    checkpoints = opened(tmp_path)
    checkpoints.save(TENSORS, {"step": 1})

    def full(descriptor):
        if any(suffix in half.name for half in checkpoints.folder.glob(".*.tmp")):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        DiskFullError,
        match=rf"no space left for .*00000002\.{suffix}: \d+ bytes.*\nhint: free .*`resume=True`",
    ):
        checkpoints.save(TENSORS, {"step": 2})
    monkeypatch.undo()
    assert {path.name for path in checkpoints.folder.iterdir()} == {
        "00000001.json",
        "00000001.safetensors",
    }
    assert opened(tmp_path).load()[0].state == {"step": 1}


def test_a_disk_that_is_too_small_is_refused_before_the_start(tmp_path):
    checkpoints = opened(tmp_path)
    free = shutil.disk_usage(tmp_path).free
    checkpoints.require_space(1000)
    with pytest.raises(
        DiskFullError, match=r"run\.checkpoints need up to [\d,]+ bytes; [\d,]+ are free"
    ):
        checkpoints.require_space(free)
    assert not checkpoints.folder.exists()


def test_values_that_json_has_not_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        opened(tmp_path).save(TENSORS, {"loss": float("nan")})
    assert opened(tmp_path).load() == (None, [])


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "run.checkpoints").write_text("a file")
    with pytest.raises(RunError, match=r"run\.checkpoints cannot be made: File exists"):
        opened(tmp_path).save(TENSORS, {})


def test_what_cannot_be_removed_is_one_error_with_what_to_do(tmp_path):
    """A folder here; a network file system that went away in tests/attacks."""
    (tmp_path / "run.checkpoints" / "00000007.safetensors").mkdir(parents=True)
    with pytest.raises(RunError, match=r"run\.checkpoints cannot be used: ") as caught:
        opened(tmp_path).save(TENSORS, {"epoch": 1})
    assert caught.value.hint == (
        "what was saved stays there: `resume=True` with the same settings goes on from it"
    )


def test_an_unfinished_checkpoint_is_none(tmp_path):
    folder = checkpoints_folder(tmp_path / "run")
    assert checkpoint_numbers(folder) == []
    opened(tmp_path).save(TENSORS, {"step": 1})
    (folder / "00000001.json").unlink()
    assert opened(tmp_path).load() == (None, [])
    refuse_existing(folder)
    opened(tmp_path).save(TENSORS, {"step": 1})
    with pytest.raises(RunError, match="holds the checkpoints of a run that was stopped"):
        refuse_existing(folder)


def test_the_files_are_what_the_format_says(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save({"a": torch.ones(2)}, {"step": 1})
    outer = json.loads((checkpoints.folder / "00000001.json").read_text(encoding="utf-8"))
    assert outer.keys() == {"sha256", "content"}
    content = json.loads(outer["content"])
    assert content.keys() == {"schema_version", "fingerprint", "state", "tensors"}
    assert content["fingerprint"] == RUN
