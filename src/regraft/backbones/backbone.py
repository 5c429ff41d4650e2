"""The types of the backbone room: a pretrained network with all that travels with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import nn

    from regraft.images.render import Preprocess

#: Where the channels of a stage's output are: NCHW, NHWC, or (N, tokens, C).
Layout = Literal["nchw", "nhwc", "tokens"]
Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Stage:
    """One of the architecture's own block groups, at whose end activations can be read.

    Attributes
    ----------
    name : str
        The field's name for it, unique in the backbone: "layer1", "blocks.0", "denseblock2".
    path : str
        The submodule whose output is read, as in ``module.get_submodule(path)``.
    channels : int
        Width of that output.
    layout : Layout
        Where the channels are.
    prefix_tokens : int
        Class and register tokens in front of the grid, for ``layout == "tokens"``.
    """

    name: str
    path: str
    channels: int
    layout: Layout = "nchw"
    prefix_tokens: int = 0


@dataclass(frozen=True)
class ImageSizes:
    """Which image sizes a network accepts: ``minimum`` to 4096, multiples of ``multiple``.

    ``fixed`` networks (ViT with learnt positions) take the size that they were built for; another
    size is given when they are built, where the architecture can do that at all.
    """

    minimum: int = 32
    multiple: int = 1
    fixed: bool = False


@dataclass(frozen=True)
class Backbone:
    """A pretrained network with its own preprocessing, stages, licence and weights hash.

    Attributes
    ----------
    name : str
        Registry key: "embedded", "timm/NAME" or "torchvision/NAME". Names from ``local-dir:`` and
        ``hf-hub:`` are resolved to the timm architecture, so that a bundle can rebuild it offline.
    weights : str
        What was loaded: "IMAGENET1K_V1", "in1k", "none (seed 0)", "file NAME", ...
    weights_sha256 : str
        ``freeze.state_hash(module)`` right after loading: names, dtypes, shapes and bytes.
    licence : str or None
        As the weights' own record says, where it says anything.
    preprocess : Preprocess
        At the image size in use.
    stages : tuple of Stage
        In order from the input.
    n_features : int
        Width of the pooled features before the classifier.
    module : nn.Module
        The network without its classifier, in evaluation mode, float32, no gradients:
        ``module(x)`` with x (N, 3, S, S) float32 gives (N, n_features).
    arguments : dict of str to scalar
        What ``registry.build`` needs besides the name to make the same module with other weights.
    sizes : ImageSizes
        Which image sizes the network accepts.
    """

    name: str
    weights: str
    weights_sha256: str
    licence: str | None
    preprocess: Preprocess
    stages: tuple[Stage, ...]
    n_features: int
    module: nn.Module
    arguments: dict[str, Scalar] = field(default_factory=dict)
    sizes: ImageSizes = field(default_factory=ImageSizes)
