"""The stages of a network: one table for all architectures, measured on one image.

``STAGES`` lists, for each architecture, the submodules whose outputs end a group of blocks. For an
architecture that is not in the table, timm's list of features is used, or four equal groups of
blocks, or no stages at all. Pooled features can always be used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from regraft.backbones.backbone import Stage
from regraft.core.text import nearest
from regraft.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.backbones.backbone import ChannelLayout

#: Returns the paths of the submodules that end a group of blocks, in order from the input.
StagePaths: TypeAlias = Callable[[nn.Module], "list[str]"]


@dataclass(frozen=True)
class LastPerResolution:
    """Of these paths, only the last one at each resolution is a stage."""

    paths: StagePaths


def at(*paths: str) -> StagePaths:
    """Use these paths.

    Examples
    --------
    >>> at("layer1", "layer2")(nn.Module())
    ['layer1', 'layer2']
    """
    return lambda _module: list(paths)


def children(path: str, start: int = 0, stop: int | None = None, step: int = 1) -> StagePaths:
    """Use the children of a submodule, or a slice of them.

    Examples
    --------
    >>> module = nn.ModuleDict({"blocks": nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU())})
    >>> children("blocks", start=1)(module)
    ['blocks.1', 'blocks.2']
    """

    def paths(module: nn.Module) -> list[str]:
        names = [name for name, _ in module.get_submodule(path).named_children()]
        return [f"{path}.{name}" for name in names[start:stop:step]]

    return paths


def max_pools(path: str) -> StagePaths:
    """Use the max pooling layers among the children of a submodule."""

    def paths(module: nn.Module) -> list[str]:
        layers = module.get_submodule(path).named_children()
        return [f"{path}.{name}" for name, layer in layers if isinstance(layer, nn.MaxPool2d)]

    return paths


def quarters(path: str) -> StagePaths:
    """Divide the children of a submodule into four equal groups.

    Examples
    --------
    >>> module = nn.ModuleDict({"blocks": nn.Sequential(*(nn.ReLU() for _ in range(12)))})
    >>> quarters("blocks")(module)
    ['blocks.2', 'blocks.5', 'blocks.8', 'blocks.11']
    """

    def paths(module: nn.Module) -> list[str]:
        names = [name for name, _ in module.get_submodule(path).named_children()]
        ends = [math.ceil(len(names) * quarter / 4) for quarter in (1, 2, 3, 4)]
        return [f"{path}.{names[end - 1]}" for end in dict.fromkeys(ends) if end > 0]

    return paths


_RESNET = at("layer1", "layer2", "layer3", "layer4")
_DENSENET = at(*(f"features.denseblock{n}" for n in (1, 2, 3, 4)))

#: By architecture, "PACKAGE.CLASS": where its stages end. To name the stages of another
#: architecture, add one line.
STAGES: dict[str, StagePaths | LastPerResolution] = {
    # torchvision: features.0 is the stem, the last child is the convolution before the pooling
    "torchvision.AlexNet": max_pools("features"),
    "torchvision.ConvNeXt": children("features", start=1, step=2),
    "torchvision.DenseNet": _DENSENET,
    "torchvision.EfficientNet": children("features", start=1, stop=-1),
    "torchvision.GoogLeNet": at("conv1", "conv3", "inception3b", "inception4e", "inception5b"),
    "torchvision.Inception3": at(
        "Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"
    ),
    "torchvision.MNASNet": children("layers", start=7, stop=14),
    "torchvision.MaxVit": children("blocks"),
    "torchvision.MobileNetV2": LastPerResolution(children("features", start=1, stop=-1)),
    "torchvision.MobileNetV3": LastPerResolution(children("features", start=1, stop=-1)),
    "torchvision.RegNet": children("trunk_output"),
    "torchvision.ResNet": _RESNET,
    "torchvision.ShuffleNetV2": at("stage2", "stage3", "stage4"),
    "torchvision.SqueezeNet": LastPerResolution(children("features")),
    "torchvision.SwinTransformer": children("features", start=1, step=2),
    "torchvision.VGG": max_pools("features"),
    "torchvision.VisionTransformer": quarters("encoder.layers"),
    # timm
    "timm.ByobNet": children("stages"),
    "timm.ConvNeXt": children("stages"),
    "timm.DenseNet": _DENSENET,
    "timm.EfficientNet": children("blocks"),
    "timm.Hiera": at(),  # its tokens are in the order of its windows, not of the image
    "timm.InceptionV3": at("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
    "timm.MobileNetV3": children("blocks"),
    "timm.RegNet": at("s1", "s2", "s3", "s4"),
    "timm.ResNet": _RESNET,
    "timm.SwinTransformer": children("layers"),
    "timm.SwinTransformerV2": children("layers"),
    "timm.VGG": max_pools("features"),
    "timm.VisionTransformer": quarters("blocks"),
    # regraft
    "regraft.MiniVGG": at("block1", "block2", "block3"),
}

# Channels last, without an attribute that says so (timm's networks have ``output_fmt``). The shape
# does not show it if there are as many channels as rows.
_NHWC = {"torchvision.SwinTransformer"}

_MAX_STAGES = 8  # longer lists name single blocks, not groups of blocks


def _without_entry(module: nn.Module) -> list[str]:
    """Return the paths for an architecture that is not in the table."""
    entries = getattr(module, "feature_info", None) or []  # timm's list of features
    entries = entries if isinstance(entries, list) else getattr(entries, "info", [])
    paths = [entry.get("module", "") for entry in entries if isinstance(entry, dict)]
    known = {name for name, _ in module.named_modules()} - {""}
    paths = [path for path in dict.fromkeys(paths) if path in known]
    reductions = {entry.get("reduction") for entry in entries if isinstance(entry, dict)}
    if 1 < len(paths) <= _MAX_STAGES and len(reductions) > 1:
        return paths
    for container in ("blocks", "layers", "encoder.blocks", "encoder.layers"):
        if container in known and len(list(module.get_submodule(container).children())) > 1:
            return quarters(container)(module)
    return paths if len(paths) <= _MAX_STAGES else []


@dataclass(frozen=True)
class StageShapes:
    """The number of pooled features and the stages of a network, measured on one image."""

    n_features: int
    stages: tuple[Stage, ...]


def find_stages(
    module: nn.Module, image_size: int, given: Sequence[str] | None = None
) -> StageShapes:
    """Find the stages of a network without its classifier, with one forward pass.

    The network is in evaluation mode; on the meta device nothing is computed. ``BackboneError`` is
    raised if it does not return one row of features for an image. ``given`` are the paths of the
    stages, instead of those of the architecture; each must give a map or tokens.
    """
    entry = STAGES.get(_architecture(module)) if given is None else at(*_checked(module, given))
    paths = entry.paths if isinstance(entry, LastPerResolution) else entry or _without_entry
    features, shapes = _run(module, paths(module), image_size)
    if not isinstance(features, torch.Tensor) or features.dim() != 2:
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features)
        raise BackboneError(
            f"the network gives no row of features for an image, but {found}",
            hint="nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten()) of a map",
        )
    stages = [stage for path in shapes if (stage := _stage(module, path, shapes[path])) is not None]
    for path in given or ():
        if path not in {stage.path for stage in stages}:
            shape = tuple(shapes[path]) if path in shapes else "no tensor"
            raise BackboneError(
                f"stage {path} gives {shape}; a stage gives a square map or its tokens"
            )
    if isinstance(entry, LastPerResolution):
        stages = [
            stage
            for stage, after in zip(stages, [*stages[1:], None], strict=True)
            if after is None or shapes[after.path][2:] != shapes[stage.path][2:]
        ]
    return StageShapes(features.shape[1], tuple(stages))


def _checked(module: nn.Module, given: Sequence[str]) -> list[str]:
    """Return the paths of stages that a user gives; each must be a submodule, once."""
    known = [name for name, _ in module.named_modules() if name]
    paths = [given] if isinstance(given, str) else list(given)
    for path in paths:
        if path not in known:
            near = nearest(str(path), known) or known[:5]
            raise BackboneError(
                f"the network has no submodule {path!r}", hint=f"such as {', '.join(near)}"
            )
    return list(dict.fromkeys(paths))


def _run(
    module: nn.Module, paths: Sequence[str], image_size: int
) -> tuple[Any, dict[str, torch.Size]]:
    """Run one image; return the output, and the shape at each path in order of execution."""
    shapes: dict[str, torch.Size] = {}

    def remember(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                shapes[path] = output.shape

        return hook

    handles = [module.get_submodule(path).register_forward_hook(remember(path)) for path in paths]
    parameter = next(module.parameters(), torch.empty(0))  # a network may have none
    try:
        # Not inference_mode: some networks keep tensors between calls, and such tensors cannot be
        # used outside of inference_mode later.
        with torch.no_grad():
            image = torch.zeros(1, 3, image_size, image_size, device=parameter.device)
            return module(image.to(parameter.dtype)), shapes
    finally:
        for handle in handles:
            handle.remove()


def _architecture(module: nn.Module) -> str:
    """Return the key in the table; torchvision and timm give many classes the same name."""
    return f"{type(module).__module__.partition('.')[0]}.{type(module).__name__}"


def _stage(module: nn.Module, path: str, shape: torch.Size) -> Stage | None:
    """Return the stage with its layout; None if the output is not a square grid."""
    layout: ChannelLayout
    if len(shape) == 4:
        channels_last = shape[1] == shape[2]
        channels_first = shape[2] == shape[3]
        if channels_last == channels_first:  # as many channels as rows, or not square at all
            channels_last = (
                _architecture(module) in _NHWC or getattr(module, "output_fmt", "") == "NHWC"
            )
        layout = "nhwc" if channels_last else "nchw"
        return Stage(path, path, shape[3] if channels_last else shape[1], layout)
    if len(shape) == 3:
        # Class and register tokens come before the grid, in the stages that have them.
        for prefix in (getattr(module, "num_prefix_tokens", 1), 0, 1):
            grid = shape[1] - prefix
            if grid > 0 and math.isqrt(grid) ** 2 == grid:
                return Stage(path, path, shape[2], "tokens", prefix)
    return None
