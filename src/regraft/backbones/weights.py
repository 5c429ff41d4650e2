"""Read weights from files and load them into networks; files are hashed first, and run no code."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from regraft.core.files import read_regular
from regraft.core.memory import lacks_memory
from regraft.core.text import listed, shape_text
from regraft.errors import MemoryShortError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from torch import nn

# Larger than the weights of any published classifier. A file is read as a whole, so that the bytes
# that are hashed are the bytes that are parsed.
LARGEST_WEIGHTS = 16 * 2**30
#: Keys under which training scripts keep the tensors in their checkpoints.
_WRAPPERS = ("state_dict", "model_state_dict", "state_dict_ema", "model_ema", "model", "module")
#: What torch's restricted unpickler would call for other things than plain tensors of numbers that
#: are in the file; the last makes as many bytes as a number in the file says.
_NOT_PLAIN = {
    "torch._utils _rebuild_nested_tensor": "nested tensors",
    "torch._utils _rebuild_sparse_tensor": "sparse tensors",
    "torch._utils _rebuild_qtensor": "quantised tensors",
    "torch._utils _rebuild_meta_tensor_no_storage": "tensors without values",
    "torch._utils _rebuild_wrapper_subclass": "tensors of a class of their own",
    "torch._utils _rebuild_device_tensor_from_numpy": "arrays of NumPy",
    "torch._tensor _rebuild_from_type_v2": "tensors of a class of their own",
    "builtins bytearray": "arrays of bytes",
    "__builtin__ bytearray": "arrays of bytes",  # as protocol 2 names it
}
#: What torch and safetensors raise for files that are cut short or in another format.
_FAULTS = (
    *(SafetensorError, RuntimeError, ValueError, EOFError, LookupError, OSError, TypeError),
    *(AttributeError, AssertionError, ArithmeticError, MemoryError, zipfile.BadZipFile),
)
_LONGEST_NAME = 1000
_PICKLES = 4  # in a file older than torch 1.6: a mark, a version, the system, the checkpoint
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
#: DataParallel and torch.compile put these before every name.
_PREFIXES = ("module.", "_orig_mod.")


def read_weights(path: Path, *, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read named tensors from a local file with a parser that cannot run code.

    The file is a ``.safetensors`` file, or a checkpoint of ``torch.save``, which torch's restricted
    unpickler reads. Common wrappers are removed: {"state_dict": ...}, "module." before each name.
    ``sha256`` is the file's hash in hexadecimal, or the first digits if no more were published; it
    is checked before anything is parsed.
    """
    try:
        payload = read_regular(path, LARGEST_WEIGHTS)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(
            f"cannot read the weights {path}: {reason}",
            hint="`weights=FILE` takes a .safetensors or .pth file; `model='embedded'` needs none",
        ) from error
    if sha256 is not None:
        found = hashlib.sha256(payload).hexdigest()
        if not found.startswith(sha256):
            raise WeightsError(
                f"{path} has the sha256 {found}, expected {sha256}",
                hint="the file is damaged or not the published one: install or download it again",
            )
    try:
        if path.suffix == ".safetensors":
            return _unwrap(load_safetensors(payload), path)
        _refuse_growth(payload, path)
        content = _restricted_unpickle(payload, path)
    except _FAULTS as error:
        if lacks_memory(error):
            raise MemoryShortError(f"{path} does not fit into the memory that is left") from error
        kind = "safetensors file" if path.suffix == ".safetensors" else "file of weights"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a readable {kind}: {reason}") from error
    return _unwrap(content, path)


def _refuse_growth(payload: bytes, path: Path) -> None:
    """Refuse, before anything is allocated, a file whose content takes more memory than the file.

    ``torch.save`` compresses nothing, and keeps each tensor's numbers once.
    """
    pickles = io.BytesIO(payload)
    if payload.startswith(b"PK\x03\x04"):  # as torch decides
        with zipfile.ZipFile(pickles) as archive:
            members = archive.infolist()
            needed = sum(member.file_size for member in members)
            if needed > len(payload) or any(member.compress_type for member in members):
                raise WeightsError(
                    f"{path} has {len(payload):,} bytes and would expand to {needed:,}: its "
                    "members are compressed or overlap, and torch.save writes none that do",
                    hint="save the state_dict again with torch.save, best as .safetensors",
                )
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            pickles = io.BytesIO(b"".join(map(archive.read, names)))
    pickles.seek(0)
    found = {_NOT_PLAIN[name] for name in _called(pickles) if name in _NOT_PLAIN}
    if found:
        raise WeightsError(
            f"{path} holds {listed(sorted(found))}: a network's weights are plain tensors",
            hint="save the network's state_dict alone",
        )


def _called(stream: io.BytesIO) -> Iterator[str]:
    """Yield the names of what the pickles at the beginning of a file would call; run nothing."""
    try:
        for _ in range(_PICKLES):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":  # torch's unpickler knows no other way to name it
                    yield str(argument)
    except ValueError:
        return  # the end, or no pickle: torch says what is wrong


def _restricted_unpickle(payload: bytes, path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # For old formats torch warns about its own storage classes; users can do nothing.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, and is not unpickled: that could run any code",
            hint="save its state_dict alone, best as .safetensors",
        ) from error


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds no named tensors", hint="save the network's state_dict")
    # Never str() of another name: a few nested tuples are endless text.
    if not all(isinstance(name, str) and len(name) <= _LONGEST_NAME for name in content):
        raise WeightsError(
            f"{path} has names of tensors that are no text of at most {_LONGEST_NAME} characters",
            hint="save the network's state_dict",
        )
    others = [name for name, value in content.items() if not _is_plain(value)]
    if others:
        raise WeightsError(
            f"{path} holds {listed(others)} beside its tensors",
            hint="save the network's state_dict alone",
        )
    state = dict(content)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _is_plain(value: object) -> bool:
    """Return whether this is a tensor of numbers that are there, one after another."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_nested or value.is_quantized)
    )


def mismatches(
    module: nn.Module, state: Mapping[str, torch.Tensor], heads: Collection[str]
) -> list[str]:
    """List missing tensors, unexpected ones and wrong shapes; tensors of ``heads`` are permitted.

    Examples
    --------
    >>> mismatches(torch.nn.Linear(2, 1), {"weight": torch.zeros(1, 3), "gain": torch.ones(1)}, ())
    ['missing (1): bias', 'unexpected (1): gain', 'wrong shape (1): weight is (1, 3), not (1, 2)']
    """
    wanted = module.state_dict()
    # Files older than torch 0.4.1 have no counters of BatchNorm steps; evaluation never uses them.
    missing = [
        name for name in wanted if name not in state and not name.endswith("num_batches_tracked")
    ]
    extra = tuple(f"{head}." for head in heads)
    unexpected = [name for name in state if name not in wanted and not name.startswith(extra)]
    misshapen = [
        f"{name} is {shape_text(state[name].shape)}, not {shape_text(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    return [
        f"{kind} ({len(names)}): {listed(names)}"
        for kind, names in (
            ("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen),
        )
        if names
    ]  # fmt: skip


def load_into(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    heads: Collection[str],
    what: str,
) -> None:
    """Load tensors into a network without its classifier; raise ``WeightsError`` unless all fit.

    Tensors of the submodules in ``heads`` are ignored: the classifier. Other floating types are
    converted. ``what`` is the name of the weights in messages.
    """
    faults = mismatches(module, state, heads)
    if faults:
        raise WeightsError(
            f"{what} does not fit the network; {'; '.join(faults)}",
            hint="give the network that these weights were trained with, or other weights",
        )
    wanted = module.state_dict()
    given = {name: state[name] for name in wanted if name in state}
    kinds = [
        f"{name} is {_kind(tensor)}, not {_kind(wanted[name])}"
        for name, tensor in given.items()
        if not _converts(name, tensor.dtype, wanted[name].dtype)
    ]
    if kinds:
        raise WeightsError(f"{what} has numbers of another kind: {listed(kinds, between='; ')}")
    infinite = [
        name for name, tensor in given.items()
        if not tensor.to(wanted[name].dtype).isfinite().all()  # as they will be used
    ]  # fmt: skip
    if infinite:
        raise WeightsError(f"{what} has values that are not finite in {listed(infinite)}")
    module.load_state_dict(given, strict=False)


def _converts(name: str, given: torch.dtype, wanted: torch.dtype) -> bool:
    """Return whether numbers of one type may stand for those of another."""
    if given in _FLOATS:  # counters of BatchNorm steps too: some scripts convert all they have
        return wanted.is_floating_point or name.endswith("num_batches_tracked")
    return given == wanted or (given in _INTEGERS and wanted in _INTEGERS)


def _kind(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
