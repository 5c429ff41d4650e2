"""The types of this room: a pretrained network with everything that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from regraft.core.notebook import html_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from regraft.images.render import Preprocess

#: The axes of a stage's output: (N, C, H, W), (N, H, W, C) or (N, tokens, C).
ChannelLayout = Literal["nchw", "nhwc", "tokens"]
Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Stage:
    """A group of blocks of a network; its last output can be used as features.

    Attributes
    ----------
    name : str
        The usual name in the field, unique in the backbone: "layer1", "blocks.0", "denseblock2".
    path : str
        The submodule whose output is read, as in ``module.get_submodule(path)``.
    channels : int
        Number of channels of that output.
    layout : {"nchw", "nhwc", "tokens"}
        The axes of that output.
    prefix_tokens : int
        Number of class and register tokens before the tokens of the image, where ``layout`` is
        "tokens".

    Examples
    --------
    >>> Stage("layer1", "layer1", channels=64)
    Stage(name='layer1', path='layer1', channels=64, layout='nchw', prefix_tokens=0)
    """

    name: str
    path: str
    channels: int
    layout: ChannelLayout = "nchw"
    prefix_tokens: int = 0


@dataclass(frozen=True)
class ImageSizes:
    """The image sizes that a network accepts.

    Attributes
    ----------
    minimum : int
        Smallest side in pixels; the largest is 4096 for all networks.
    multiple : int
        The side must be a multiple of this number of pixels.
    fixed : bool
        Whether the network accepts only the size that it was built for (a ViT with learnt
        positions).
    """

    minimum: int = 32
    multiple: int = 1
    fixed: bool = False


@dataclass(frozen=True, repr=False)
class Backbone:
    """A pretrained network with its preprocessing, stages, licence and weights hash.

    Attributes
    ----------
    name : str
        Canonical name: "embedded", "timm/NAME", "torchvision/NAME". For a model saved by timm this
        is the architecture in timm, so that a bundle can rebuild it offline.
    weights : str
        Label of the weights: "IMAGENET1K_V1", "in1k", "none (seed 0)", "file NAME", ...
    weights_sha256 : str
        ``freeze.state_hash(module)`` right after loading: covers names, dtypes, shapes and bytes.
    licence : str or None
        Licence of the weights; None if their record states none.
    preprocess : Preprocess
        For the image size in use.
    stages : tuple of Stage
        In order from the input.
    n_features : int
        Number of pooled features of an image, before the classifier.
    module : nn.Module
        The network without its classifier, in evaluation mode, float32, without gradients:
        ``module(x)`` with x (N, 3, S, S) float32 returns (N, n_features).
    arguments : dict of str to scalar
        What ``registry.build`` needs, besides the name, to build the same module.
    sizes : ImageSizes
        The image sizes that the network accepts.
    no_bundle : str or None
        The reason why no bundle can hold the network; None if it can be built by its name.

    Examples
    --------
    >>> from regraft.backbones.registry import load_backbone
    >>> backbone = load_backbone("minivgg")
    >>> backbone.n_features, [stage.name for stage in backbone.stages]
    (3136, ['block1', 'block2', 'block3'])
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
    no_bundle: str | None = None

    def __repr__(self) -> str:
        stages = ", ".join(stage.name for stage in self.stages) or "none"
        return (
            f"Backbone({self.name} at {self.preprocess.image_size} pixels, weights {self.weights} "
            f"(sha256 {self.weights_sha256[:12]}), {self.n_features} features, stages: {stages})"
        )

    def record(self) -> dict[str, Any]:
        """Return what metrics.json says of the network, JSON-ready."""
        return {
            "name": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "frozen": True,
            "licence": self.licence,
            # Only where there is no bundle: the reason.
            **({"no_bundle": self.no_bundle} if self.no_bundle else {}),
            **self.preprocess.recorded(),
        }

    def _repr_html_(self) -> str:
        rows = [
            ("weights", f"{self.weights} (sha256 {self.weights_sha256[:12]})"),
            ("licence", self.licence or "not stated"),
            ("image size", f"{self.preprocess.image_size} pixels"),
            ("features", f"{self.n_features:,}"),
            *((f"stage {stage.name}", f"{stage.channels:,} channels") for stage in self.stages),
        ]
        note = f"no bundle: {self.no_bundle}" if self.no_bundle else ""
        return html_table(f"regraft.Backbone: {self.name}", rows, note)

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        *,
        preprocess: Preprocess | Any = None,
        stages: Sequence[str] | None = None,
        licence: str | None = None,
    ) -> Backbone:
        """Take a network of your own as a backbone: ``model=`` of a training accepts it.

        A frozen copy is made, in evaluation mode and float32 on the processor. The network must
        have no classifier: its output is the features. If it is an architecture of timm or
        torchvision with other parameters, a run writes a bundle as always. Otherwise there is no
        bundle, since a bundle holds no code: ``no_bundle`` has the reason, and all other files of a
        run are written.

        Parameters
        ----------
        module : nn.Module
            Maps images (N, 3, S, S) float32, normalised by ``preprocess``, to features (N, F).
        preprocess : Preprocess or transforms of torchvision's weights, optional
            How images become the network's input. By default what timm has recorded in the module.
        stages : sequence of str, optional
            Submodules that end a group of blocks, as in ``module.get_submodule(path)``: their
            outputs (N, C, H, W), (N, H, W, C) or (N, tokens, C) are features too. By default those
            of the architecture; a network that regraft does not know may have none.
        licence : str, optional
            Licence of the weights, for the record.

        Returns
        -------
        Backbone

        Raises
        ------
        BackboneError
            The module does not give one row of finite features for an image, cannot be copied, has
            no such submodule, or does not say how images are prepared.

        Examples
        --------
        >>> from torch import nn
        >>> from regraft import Backbone, Preprocess
        >>> network = nn.Sequential(
        ...     nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU()),
        ...     nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()),
        ...     nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ... )
        >>> grey = (0.5, 0.5, 0.5)
        >>> preprocess = Preprocess(32, 32, mean=grey, std=grey, interpolation="bilinear")
        >>> backbone = Backbone.from_module(network, stages=["0", "1"], preprocess=preprocess)
        >>> backbone.n_features, [stage.channels for stage in backbone.stages]
        (16, [8, 16])
        >>> backbone.no_bundle
        'a bundle holds no code, and Sequential is no architecture of timm, torchvision or regraft \
that could be built by its name'
        """
        from regraft.backbones.own import from_module  # noqa: PLC0415 - imports timm

        return from_module(module, stages, preprocess, licence)
