"""Weights: files run no code, and every missing or additional tensor is named."""

import errno
import hashlib
import io
import os
import pickle
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from regraft.backbones import downloads
from regraft.backbones.downloads import _download, fetch_hub, fetch_url
from regraft.backbones.weights import load_into, read_weights
from regraft.errors import DiskFullError, WeightsError


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path, capfd, protocol):
    file = tmp_path / "w.pth"
    torch.save({"weight": Evil()}, file, pickle_protocol=protocol)
    with pytest.raises(WeightsError, match="holds more than tensors"):
        read_weights(file)
    raw = tmp_path / "raw.pth"
    raw.write_bytes(pickle.dumps({"weight": Evil()}, protocol=protocol))
    with pytest.raises(WeightsError):
        read_weights(raw)
    assert "code ran" not in capfd.readouterr().out


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, b"PK\x03\x04" + bytes(60), b"\x80\x02."]
)
def test_files_that_are_something_else(tmp_path, suffix, content):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(file))):
        read_weights(file)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_cut_short_anywhere(tmp_path, suffix):
    file = tmp_path / f"w{suffix}"
    state = nn.Linear(8, 8).state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    whole = file.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_weights(file)


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"weight": 3, "bias": torch.zeros(1)}])
def test_files_without_named_tensors(tmp_path, content):
    file = tmp_path / "w.pth"
    torch.save(content, file)
    with pytest.raises(WeightsError, match=r"no named tensors|holds weight beside its tensors"):
        read_weights(file)


OLD = {"_use_new_zipfile_serialization": False}  # as before torch 1.6


@pytest.mark.filterwarnings("ignore")  # torch's own, of the things that are made here
@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda t: torch.nested.nested_tensor([t, t]), "nested tensors"),
        (lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged), "of their own"),
        (lambda t: t.to_sparse(), "sparse tensors"),
        (lambda t: t.to_sparse_csr(), "sparse tensors"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantised tensors"),
        (lambda t: t.to("meta"), "tensors without values"),
        (lambda _: bytearray(8), "arrays of bytes"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(make, what, options, tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"weight": make(torch.ones(2, 3))}, file, **options)
    with pytest.raises(WeightsError, match=rf"holds .*{what}.*: a network's weights are plain"):
        read_weights(file)


@pytest.mark.parametrize("name", [1, ("weight",), "w" * 2000], ids=["number", "tuple", "long"])
def test_names_that_are_no_short_text_are_refused(name, tmp_path):
    torch.save({name: torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no text of at most 1000 characters"):
        read_weights(tmp_path / "w.pth")


def packed(change, compression=zipfile.ZIP_STORED):
    """Return a checkpoint of a thousand zeros whose members are changed and packed again."""
    whole, again = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(1000)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(again, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return again.getvalue()


def calling(function, argument):
    class Called:
        def __reduce__(self):
            return function, (argument,)

    return pickle.dumps({"weight": Called()}, 2)


@pytest.mark.parametrize("count", [1000, 3_000_000])
def test_a_checkpoint_takes_no_more_memory_than_its_bytes(count, tmp_path):
    """A compressed one of 12 kB would be 12 MB; torch.save compresses none."""

    def larger(name, data):
        return bytes(4 * count) if name.endswith("data/0") else data

    file = tmp_path / "w.pth"
    file.write_bytes(packed(larger, zipfile.ZIP_DEFLATED))
    with pytest.raises(WeightsError, match=r"has [\d,]+ bytes and would expand to [\d,]+: its"):
        read_weights(file)
    # A call that makes as many bytes as a number in the file says, in both formats.
    call = calling(bytearray, 2**40)
    for data in (packed(lambda name, data: call if name.endswith("data.pkl") else data), call):
        file.write_bytes(data)
        with pytest.raises(WeightsError, match="holds arrays of bytes"):
            read_weights(file)


def test_the_hash_is_checked_first(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=r"has the sha256 .* expected 00"):
        read_weights(file, sha256="00" * 32)


def saved(file):
    state = nn.Linear(3, 2).state_dict()
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return file.read_bytes()


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_any_flipped_byte_is_refused_where_the_hash_is_known(tmp_path, suffix):
    file = tmp_path / f"w{suffix}"
    data = saved(file)
    sha256 = hashlib.sha256(data).hexdigest()
    assert read_weights(file, sha256=sha256).keys() == {"weight", "bias"}
    for position in range(len(data)):
        file.write_bytes(flipped(data, position))
        with pytest.raises(WeightsError, match=f"expected {sha256}"):
            read_weights(file, sha256=sha256)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Folders of torch's and of Hugging Face's caches."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def test_a_flipped_byte_in_torchs_cache_is_refused_by_the_hash_in_its_name(hub):
    folder = hub / "torch" / "hub" / "checkpoints"
    data = saved(folder / "net.pth")
    name = f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(data)
    assert fetch_url(f"https://nowhere.invalid/{name}").keys() == {"weight", "bias"}
    (folder / name).write_bytes(flipped(data, 700))
    with pytest.raises(WeightsError, match=r"has the sha256 .*, expected [0-9a-f]{8}\n"):
        fetch_url(f"https://nowhere.invalid/{name}")


def test_what_we_fetched_is_compared_with_its_whole_hash_ever_after(hub):
    """Also if the name has no hash at all."""
    folder = hub / "torch" / "hub" / "checkpoints"
    data = saved(hub / "net.pth")

    class Once(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Once) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        _download(f"http://127.0.0.1:{server.server_port}/net.pth", folder / "net.pth", None)
    assert fetch_url("https://nowhere.invalid/net.pth").keys() == {"weight", "bias"}
    (folder / "net.pth").write_bytes(flipped(data, 700))
    expected = hashlib.sha256(data).hexdigest()
    with pytest.raises(WeightsError, match=f"expected {expected}"):
        fetch_url("https://nowhere.invalid/net.pth")


def test_a_full_disk_is_not_called_a_failed_download(hub, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(downloads, "_download", full)
    with pytest.raises(DiskFullError, match="no space left for the weights https") as caught:
        fetch_url("https://nowhere.invalid/net.pth")
    assert "TORCH_HOME" in caught.value.hint


@pytest.mark.skipif(os.name == "nt", reason="there the hub keeps no links")
def test_a_flipped_byte_in_the_hubs_cache_is_refused(hub):
    data = saved(hub / "model.safetensors")
    sha256, revision = hashlib.sha256(data).hexdigest(), "1" * 40
    repository = hub / "hub" / "models--someone--net"
    for folder in ("blobs", "refs", f"snapshots/{revision}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    (repository / "blobs" / sha256).write_bytes(data)
    link = repository / "snapshots" / revision / "model.safetensors"
    link.symlink_to(f"../../blobs/{sha256}")
    assert fetch_hub("someone/net", ["model.safetensors"]).keys() == {"weight", "bias"}
    (repository / "blobs" / sha256).write_bytes(flipped(data, 100))
    with pytest.raises(WeightsError, match=f"expected {sha256}"):
        fetch_hub("someone/net", ["model.safetensors"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_pipe_is_no_file_of_weights_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="not a regular file"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="null byte"):
        read_weights(tmp_path / "w\0.pth")


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="cannot read the weights") as caught:
        read_weights(tmp_path / "none.pth")
    assert "`model='embedded'`" in caught.value.hint


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


@pytest.mark.parametrize(
    ("name", "kind", "fits"),
    [
        *(("weight", kind, True) for kind in ("float16", "bfloat16", "float32", "float64")),
        *(("weight", kind, False) for kind in ("int64", "uint8", "bool", "complex64")),
        ("weight", "float8_e4m3fn", False),
        ("num_batches_tracked", "int32", True),
        ("num_batches_tracked", "float32", True),  # scripts convert everything
        ("num_batches_tracked", "bool", False),
        ("num_batches_tracked", "complex64", False),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_numbers_are_converted_within_their_kind(name, kind, fits, suffix, tmp_path):
    module, file = nn.BatchNorm1d(3), tmp_path / f"w{suffix}"
    state = {**module.state_dict(), name: torch.full_like(module.state_dict()[name], 2.0)}
    state[name] = state[name].to(getattr(torch, kind))
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    if fits:
        load_into(module, read_weights(file), heads=(), what="w")
        assert (module.state_dict()[name] == 2).all()
    else:
        with pytest.raises(WeightsError, match=f"numbers of another kind: {name} is {kind}, not"):
            load_into(module, read_weights(file), heads=(), what="w")


def test_values_must_be_finite_as_they_are_used():
    """1e300 is a float64, and infinite as float32."""
    with pytest.raises(WeightsError, match="not finite in weight"):
        load_into(
            nn.Linear(1, 1, bias=False),
            {"weight": torch.full((1, 1), 1e300, dtype=torch.float64)},
            heads=(),
            what="w",
        )


def test_views_are_read_as_what_they_show(tmp_path):
    """A transposed tensor, and one number that stands for all: no copy is made before the check."""
    module = nn.Linear(3, 2)
    torch.save(
        {"weight": torch.arange(6.0).view(3, 2).t(), "bias": torch.ones(1).expand(2)},
        tmp_path / "w.pth",
    )
    load_into(module, read_weights(tmp_path / "w.pth"), heads=(), what="w")
    assert module.weight.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert module.bias.tolist() == [1, 1]
    torch.save({"weight": torch.ones(1, 1).expand(10**6, 10**6)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"weight is \(1000000, 1000000\), not \(2, 3\)"):
        load_into(module, read_weights(tmp_path / "w.pth"), heads=(), what="w")


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
