"""Where an architecture's own block groups end: one table for all families.

A tap's map is read at these places, so each path is a module whose output is the end of a group.
``STAGES`` maps an architecture to a function that lists the paths. What the table does not know
falls back to timm's own list of features, or to four equal groups of blocks, or to no stages at
all: the pooled features are always there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from regraft.backbones.backbone import Stage
from regraft.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.backbones.backbone import Layout

#: Lists the paths at which a network's groups end, in order from the input.
Finder: TypeAlias = Callable[[nn.Module], "list[str]"]


def _named(*paths: str) -> Finder:
    """List these places."""
    return lambda _module: list(paths)


def _children(path: str, start: int = 0, stop: int | None = None, step: int = 1) -> Finder:
    """Every child of a container, or a slice of them, is a group."""

    def find(module: nn.Module) -> list[str]:
        names = [name for name, _ in module.get_submodule(path).named_children()]
        return [f"{path}.{name}" for name in names[start:stop:step]]

    return find


def _pools(path: str) -> Finder:
    """List the maximum poolings: each ends a group."""

    def find(module: nn.Module) -> list[str]:
        children = module.get_submodule(path).named_children()
        return [f"{path}.{name}" for name, child in children if isinstance(child, nn.MaxPool2d)]

    return find


def _quarters(path: str) -> Finder:
    """Four equal groups of a container's blocks."""

    def find(module: nn.Module) -> list[str]:
        names = [name for name, _ in module.get_submodule(path).named_children()]
        ends = [math.ceil(len(names) * quarter / 4) for quarter in (1, 2, 3, 4)]
        return [f"{path}.{names[end - 1]}" for end in dict.fromkeys(ends) if end > 0]

    return find


#: Channels last, without saying so (timm's networks have an ``output_fmt``); the shape alone does
#: not tell where a map has as many channels as rows.
_NHWC = {"torchvision.SwinTransformer"}


@dataclass(frozen=True)
class ByResolution:
    """Of these places, the last one at each resolution ends a group."""

    find: Finder


_RESNET = _named("layer1", "layer2", "layer3", "layer4")

STAGES: dict[str, Finder | ByResolution] = {
    # --- torchvision: features.0 is the stem, the last child the convolution before the pooling
    "torchvision.AlexNet": _pools("features"),
    "torchvision.ConvNeXt": _children("features", start=1, step=2),
    "torchvision.DenseNet": _named(*(f"features.denseblock{n}" for n in (1, 2, 3, 4))),
    "torchvision.EfficientNet": _children("features", start=1, stop=-1),
    "torchvision.GoogLeNet": _named("conv1", "conv3", "inception3b", "inception4e", "inception5b"),
    "torchvision.Inception3": _named(
        "Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"
    ),
    "torchvision.MNASNet": _children("layers", start=7, stop=14),
    "torchvision.MaxVit": _children("blocks"),
    "torchvision.MobileNetV2": ByResolution(_children("features", start=1, stop=-1)),
    "torchvision.MobileNetV3": ByResolution(_children("features", start=1, stop=-1)),
    "torchvision.RegNet": _children("trunk_output"),
    "torchvision.ResNet": _RESNET,
    "torchvision.ShuffleNetV2": _named("stage2", "stage3", "stage4"),
    "torchvision.SqueezeNet": ByResolution(_children("features")),
    "torchvision.SwinTransformer": _children("features", start=1, step=2),
    "torchvision.VGG": _pools("features"),
    "torchvision.VisionTransformer": _quarters("encoder.layers"),
    # --- timm
    "timm.ByobNet": _children("stages"),
    "timm.ConvNeXt": _children("stages"),
    "timm.DenseNet": _named(*(f"features.denseblock{n}" for n in (1, 2, 3, 4))),
    "timm.EfficientNet": _children("blocks"),
    "timm.Hiera": _named(),  # its tokens lie in the order of its windows, not of the image
    "timm.InceptionV3": _named(
        "Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"
    ),
    "timm.MobileNetV3": _children("blocks"),
    "timm.RegNet": _named("s1", "s2", "s3", "s4"),
    "timm.ResNet": _RESNET,
    "timm.SwinTransformer": _children("layers"),
    "timm.SwinTransformerV2": _children("layers"),
    "timm.VGG": _pools("features"),
    "timm.VisionTransformer": _quarters("blocks"),
    # --- ours
    "regraft.MiniVGG": _named("block1", "block2", "block3"),
}


# More places than this are single blocks, not groups.
_MANY = 8


def _fallback(module: nn.Module) -> list[str]:
    """For an architecture that the table does not know."""
    entries = getattr(module, "feature_info", None) or []
    entries = entries if isinstance(entries, list) else getattr(entries, "info", [])
    paths = [entry.get("module", "") for entry in entries if isinstance(entry, dict)]
    known = {name for name, _ in module.named_modules()} - {""}
    paths = [path for path in dict.fromkeys(paths) if path in known]
    reductions = {entry.get("reduction") for entry in entries if isinstance(entry, dict)}
    if 1 < len(paths) <= _MANY and len(reductions) > 1:
        return paths
    for container in ("blocks", "layers", "encoder.blocks", "encoder.layers"):
        if container in known and len(list(module.get_submodule(container).children())) > 1:
            return _quarters(container)(module)
    return paths if len(paths) <= _MANY else []


@dataclass(frozen=True)
class Shapes:
    """What one image told: the width of the pooled features, and the stages with theirs."""

    n_features: int
    stages: tuple[Stage, ...]


def find_stages(module: nn.Module, image_size: int) -> Shapes:
    """Find the ends of a network's block groups and measure them with one forward pass.

    Parameters
    ----------
    module : nn.Module
        The network without its classifier, in evaluation mode, on any device; on the meta device
        nothing is computed.
    image_size : int
        Pixels; a size that the network accepts.

    Returns
    -------
    Shapes
        Width of the pooled features, and the stages in order from the input.

    Raises
    ------
    BackboneError
        Where the network does not give one row of features for one image.
    """
    entry = STAGES.get(_architecture(module))
    finder = entry.find if isinstance(entry, ByResolution) else entry or _fallback
    features, shapes = _run(module, finder(module), image_size)
    if not isinstance(features, torch.Tensor) or features.dim() != 2:
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features)
        raise BackboneError(f"the network gives no row of features for an image, but {found}")
    stages = [stage for path in shapes if (stage := _stage(module, path, shapes[path])) is not None]
    if isinstance(entry, ByResolution):
        stages = [
            stage
            for stage, after in zip(stages, [*stages[1:], None], strict=True)
            if after is None or shapes[after.path][2:] != shapes[stage.path][2:]
        ]
    return Shapes(features.shape[1], tuple(stages))


def _run(
    module: nn.Module, paths: Sequence[str], image_size: int
) -> tuple[Any, dict[str, torch.Size]]:
    """Run one image and note the shape of each path's output, in the order in which they come."""
    shapes: dict[str, torch.Size] = {}

    def remember(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                shapes[path] = output.shape

        return hook

    handles = [module.get_submodule(path).register_forward_hook(remember(path)) for path in paths]
    parameter = next(module.parameters())
    try:
        # Not inference_mode: some networks keep tensors between calls, and those could not be used
        # outside of it later.
        with torch.no_grad():
            image = torch.zeros(1, 3, image_size, image_size, device=parameter.device)
            return module(image.to(parameter.dtype)), shapes
    finally:
        for handle in handles:
            handle.remove()


def _architecture(module: nn.Module) -> str:
    """Key of the table: torchvision and timm give many classes the same name."""
    return f"{type(module).__module__.partition('.')[0]}.{type(module).__name__}"


def _stage(module: nn.Module, path: str, shape: torch.Size) -> Stage | None:
    """Tell where the channels are; None where the output is no grid of the image."""
    layout: Layout
    if len(shape) == 4:
        columns_last = shape[1] == shape[2]
        rows_first = shape[2] == shape[3]
        if columns_last == rows_first:  # as many channels as rows, or not square at all
            columns_last = (
                _architecture(module) in _NHWC or getattr(module, "output_fmt", "") == "NHWC"
            )
        layout = "nhwc" if columns_last else "nchw"
        return Stage(path, path, shape[3] if columns_last else shape[1], layout)
    if len(shape) == 3:
        # Tokens of a class or of registers stand in front of the grid, where there are any yet.
        for prefix in (getattr(module, "num_prefix_tokens", 1), 0, 1):
            grid = shape[1] - prefix
            if grid > 0 and math.isqrt(grid) ** 2 == grid:
                return Stage(path, path, shape[2], "tokens", prefix)
    return None
