"""Weights from files and into networks: hashed before they are parsed, never unpickled."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from regraft.core.files import read_regular
from regraft.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import nn

_SHOWN = 10
# Larger than any published classifier's weights; a file is read whole, so that what is hashed is
# what is parsed.
_MAX_BYTES = 16 * 2**30
#: Where training scripts put the tensors inside their checkpoints.
_WRAPPERS = ("state_dict", "model_state_dict", "state_dict_ema", "model_ema", "model", "module")
#: What DataParallel and torch.compile put in front of every name.
_PREFIXES = ("module.", "_orig_mod.")


def read_file(path: Path, *, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read named tensors from a local file, by a parser that can run no code.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, or a checkpoint of ``torch.save``, which goes through torch's
        restricted unpickler. Common wrappers ({"state_dict": ...}, "module." before each name) are
        taken off.
    sha256 : str, optional
        Of the whole file in hexadecimal, or how it begins where no more was ever published;
        checked before anything is parsed. Without it there is nothing to compare with.

    Returns
    -------
    dict of str to torch.Tensor
        On the processor.

    Raises
    ------
    WeightsError
        Where the file cannot be read, has another hash, or holds anything but tensors.
    """
    try:
        payload = read_regular(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(
            f"cannot read the weights {path}: {reason}",
            hint="give --weights an existing .safetensors or .pth file, or use --model embedded",
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
            # Old formats make torch warn about its own storage classes: nothing a user can act on.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, and is not unpickled: that could run any code",
            hint="save its state_dict alone, best as .safetensors",
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, TypeError, AttributeError,
            IndexError, AssertionError, OverflowError, UnicodeDecodeError) as error:  # fmt: skip
        # What torch's reader raises on files that are cut short or are something else.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a readable file of weights: {reason}") from error


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds no named tensors", hint="save the network's state_dict")
    strange = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(
            f"{path} holds {listed([str(name) for name in strange])} beside its tensors",
            hint="save the network's state_dict alone",
        )
    state = {str(name): tensor for name, tensor in content.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def listed(names: Collection[str]) -> str:
    """Name up to ten things and count the rest.

    Parameters
    ----------
    names : collection of str
        In the order to show.

    Returns
    -------
    str
        Separated by commas.

    Examples
    --------
    >>> listed([str(number) for number in range(12)])
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    shown = ", ".join(list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def misfit(
    module: nn.Module, state: Mapping[str, torch.Tensor], heads: Collection[str]
) -> list[str]:
    """Say how a set of tensors does not fit a network.

    Parameters
    ----------
    module : nn.Module
        The network without its classifier.
    state : mapping of str to torch.Tensor
        What is to be loaded.
    heads : collection of str
        Modules that the tensors may belong to in addition: the classifier.

    Returns
    -------
    list of str
        One sentence each for missing, unexpected and misshapen tensors; empty where all fit.

    Examples
    --------
    >>> misfit(torch.nn.Linear(2, 1), {"weight": torch.zeros(1, 3), "gain": torch.ones(1)}, ())
    ['missing (1): bias', 'unexpected (1): gain', 'wrong shape (1): weight is (1, 3), not (1, 2)']
    """
    wanted = module.state_dict()
    # Counters of BatchNorm steps came with torch 0.4.1 and are absent from older files; evaluation
    # never reads them.
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
    """Fill a network with tensors, all of them and no others.

    Parameters
    ----------
    module : nn.Module
        The network without its classifier.
    state : mapping of str to torch.Tensor
        Tensors by the network's names; other floating types are converted.
    heads : collection of str
        Modules whose tensors may be there in addition and are left away: the classifier.
    what : str
        Names the weights in messages.

    Raises
    ------
    WeightsError
        Where a tensor is missing, unexpected, or of the wrong shape, or not finite; lists them.
    """
    faults = misfit(module, state, heads)
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
