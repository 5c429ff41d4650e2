"""Weights: no code is run, nothing is missing or left over without being named."""

import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regraft.backbones.weights import load_into, read_file
from regraft.errors import WeightsError


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path, capfd, protocol):
    file = tmp_path / "w.pth"
    torch.save({"weight": Evil()}, file, pickle_protocol=protocol)
    with pytest.raises(WeightsError, match="holds more than tensors"):
        read_file(file)
    raw = tmp_path / "raw.pth"
    raw.write_bytes(pickle.dumps({"weight": Evil()}, protocol=protocol))
    with pytest.raises(WeightsError):
        read_file(raw)
    assert "code ran" not in capfd.readouterr().out


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, b"PK\x03\x04" + bytes(60), b"\x80\x02."]
)
def test_files_that_are_something_else(tmp_path, suffix, content):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(file))):
        read_file(file)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_cut_short_anywhere(tmp_path, suffix):
    file = tmp_path / f"w{suffix}"
    state = nn.Linear(8, 8).state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    whole = file.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_file(file)


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"weight": 3, "bias": torch.zeros(1)}])
def test_files_without_named_tensors(tmp_path, content):
    file = tmp_path / "w.pth"
    torch.save(content, file)
    with pytest.raises(WeightsError, match=r"no named tensors|holds weight beside its tensors"):
        read_file(file)


def test_the_hash_is_checked_first(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=r"has the sha256 .* expected 00"):
        read_file(file, sha256="00" * 32)


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="cannot read the weights") as caught:
        read_file(tmp_path / "none.pth")
    assert "--model embedded" in caught.value.hint


def test_everything_that_does_not_fit_is_listed():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(7)))
    state = dict(module.state_dict())
    state["0.weight"] = torch.zeros(3, 2)
    state["extra"] = torch.zeros(1)
    state["headless"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(1)
    for name in list(state):
        if name.endswith("bias"):
            del state[name]
    with pytest.raises(WeightsError) as caught:
        load_into(module, state, heads=("head",), what="w.pth")
    message = caught.value.message
    assert "missing (7): 0.bias, 1.bias" in message
    assert "unexpected (2): extra, headless" in message
    assert "wrong shape (1): 0.weight is (3, 2), not (2, 2)" in message


def test_long_lists_are_cut_at_ten():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(7)))
    with pytest.raises(WeightsError, match=r"missing \(14\): .* and 4 more"):
        load_into(module, {}, heads=(), what="w.pth")


def test_values_that_are_not_finite_are_refused():
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    with pytest.raises(WeightsError, match="not finite in bias"):
        load_into(
            module,
            {"weight": torch.ones(2, 2), "bias": torch.tensor([1.0, torch.nan])},
            heads=(),
            what="w.pth",
        )
    assert torch.equal(module.weight, before)


def test_half_precision_is_converted_and_old_files_lack_counters():
    module = nn.BatchNorm1d(3)
    state = {
        name: (tensor + 1).half()
        for name, tensor in module.state_dict().items()
        if name != "num_batches_tracked"
    }
    load_into(module, state, heads=(), what="w.pth")
    assert module.weight.dtype == torch.float32
    assert module.running_mean.tolist() == [1, 1, 1]
