"""What is known of networks without their weights: a list, and one network's table of layers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
import torchinfo
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from regraft.backbones.stages import find_stages
from regraft.errors import BackboneError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from regraft.backbones.family import Family, Record
    from regraft.images.render import Preprocess


@dataclass(frozen=True)
class Listed:
    """One network as a list shows it."""

    name: str
    image_size: int | None  # pixels; None where its record does not tell
    weights: str  # of the default; "none" where nothing is published
    licence: str


def listing(
    families: Mapping[str, Family], names: Sequence[tuple[str, str, str]], pattern: str
) -> list[Listed]:
    """Look up the records of all networks whose name matches.

    Parameters
    ----------
    families : mapping of str to Family
        The registry.
    names : sequence of tuples
        Family, name within it, full name.
    pattern : str
        Part of a name, or a pattern with ``*`` and ``?``.

    Returns
    -------
    list of Listed
        Sorted by family, in the registry's order, and name.
    """
    wanted = pattern.lower()
    glob = wanted if any(sign in wanted for sign in "*?[") else f"*{wanted}*"
    rows = []
    for prefix, name, full in names:
        lowered = full.lower()
        if fnmatchcase(lowered, glob) or fnmatchcase(lowered.rpartition("/")[2], glob):
            rows.append(_listed(families[prefix], name, full))
    return rows


def _listed(family: Family, name: str, full: str) -> Listed:
    try:
        record = family.record(name, "default")
        return Listed(full, record.preprocess.image_size, record.weights, record.licence or "")
    except WeightsError:
        record = family.record(name, "none")
        return Listed(full, record.preprocess.image_size, "none", "")
    except BackboneError:  # not for square colour images
        return Listed(full, None, "none", "")


class _EmptyOnMeta(TorchFunctionMode):
    """Makes parameters without memory: random numbers for a billion of them would take a minute.

    ``torch.device("meta")`` would put everything there, and some constructors calculate with
    small tensors (torchvision's RegNet).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


def skeleton(family: Family, record: Record) -> nn.Module:
    """Build a network whose tensors have shapes only.

    Parameters
    ----------
    family : Family
        Builds it.
    record : Record
        Names it.

    Returns
    -------
    nn.Module
        Without its classifier, in evaluation mode, on the meta device.
    """
    size = record.preprocess.image_size
    with torch.random.fork_rng(devices=()):
        try:
            with _EmptyOnMeta():
                module = family.build(record.name, record.arguments, size)
        except BackboneError:  # a constructor that looks into its parameters (timm's ViTamin)
            module = family.build(record.name, record.arguments, size)
    return module.to("meta").eval().requires_grad_(requires_grad=False)


def _input_line(preprocess: Preprocess) -> str:
    return (
        f"input: {preprocess.image_size} pixels, short side resized to {preprocess.resize_size}, "
        f"{preprocess.interpolation}, mean {preprocess.mean}, std {preprocess.std}"
    )


def layer_table(name: str, module: nn.Module, record: Record) -> str:
    """Describe a network by torchinfo, with its stages and preprocessing.

    Parameters
    ----------
    name : str
        Full name.
    module : nn.Module
        Without its classifier; on the meta device, where nothing is computed.
    record : Record
        Of its default weights.

    Returns
    -------
    str
        Some lines and a table; all parameters are frozen, as a probe leaves them.
    """
    size = record.preprocess.image_size
    shapes = find_stages(module, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = torchinfo.summary(
            module,
            input_size=(1, 3, size, size),
            col_names=("output_size", "num_params", "trainable"),
            row_settings=("var_names",),
            depth=3,
            verbose=0,
            device="meta",
        )
    # From here on torchinfo estimates, and takes attention and every Linear for one position.
    layers, _, _ = str(table).partition("\nTotal mult-adds")
    stages = [f"  {stage.name}: {stage.channels} channels" for stage in shapes.stages]
    return "\n".join(
        (
            name,
            f"licence: {record.licence or 'not stated'}",
            _input_line(record.preprocess),
            f"features: {shapes.n_features}",
            "stages:" if stages else "stages: none; only the pooled features can be read",
            *stages,
            layers,
            f"Multiply-adds of one image: {_multiply_adds(module, size) / 1e6:,.1f} million",
        )
    )


def _multiply_adds(module: nn.Module, size: int) -> int:
    """Count those of convolutions and matrix products, attention's too; on the meta device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator, which nothing counts
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.empty(1, 3, size, size, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and an addition as two
