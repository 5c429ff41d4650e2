"""Read weights from files and load them into networks; files are hashed first, never unpickled."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from regraft.core.files import read_regular
from regraft.core.text import listed
from regraft.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import nn

# Larger than the weights of any published classifier. A file is read as a whole, so that the bytes
# that are hashed are the bytes that are parsed.
_MAX_BYTES = 16 * 2**30
#: Keys under which training scripts keep the tensors in their checkpoints.
_WRAPPERS = ("state_dict", "model_state_dict", "state_dict_ema", "model_ema", "model", "module")
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
        payload = read_regular(path, _MAX_BYTES)
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
    if path.suffix == ".safetensors":
        try:
            return dict(load_safetensors(payload))
        except (SafetensorError, ValueError, KeyError) as error:
            raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    return _unwrap(_restricted_unpickle(payload, path), path)


def _restricted_unpickle(payload: bytes, path: Path) -> Any:
    import io  # noqa: PLC0415

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
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, TypeError, AttributeError,
            IndexError, AssertionError, OverflowError, UnicodeDecodeError) as error:  # fmt: skip
        # torch raises these for files that are cut short or in another format.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a readable file of weights: {reason}") from error


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds no named tensors", hint="save the network's state_dict")
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(
            f"{path} holds {listed([str(name) for name in others])} beside its tensors",
            hint="save the network's state_dict alone",
        )
    state = {str(name): tensor for name, tensor in content.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


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
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
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
    infinite = [
        name for name in wanted
        if name in state and state[name].is_floating_point() and not state[name].isfinite().all()
    ]  # fmt: skip
    if infinite:
        raise WeightsError(f"{what} has values that are not finite in {listed(infinite)}")
    module.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
