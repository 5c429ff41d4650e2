"""The protocol of a family of networks: what somebody implements to add one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regraft.backbones.backbone import ImageSizes, Scalar
    from regraft.images.render import Preprocess

#: Tensors by name, as ``nn.Module.state_dict`` returns them.
StateDict: TypeAlias = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Record:
    """What is known about a network and its weights before anything is built or downloaded.

    Attributes
    ----------
    name : str
        Name within the family, as ``Family.build`` takes it.
    weights : str
        Label of the weights.
    preprocess : Preprocess
        The preprocessing that the weights were trained with.
    licence : str or None
        Licence of the weights; None if it is not stated.
    sizes : ImageSizes
        The image sizes that the network accepts.
    fetch : callable or None
        ``fetch()`` returns the tensors of the weights by name, with or without those of the
        classifier; None means random weights.
    heads : tuple of str
        Submodules whose tensors the weights may have although the network lacks them: the
        classifier and auxiliary classifiers.
    convert : callable or None
        ``convert(state, module)`` renames tensors of an older format. It is called only if the
        tensors do not fit the module.
    arguments : dict of str to scalar
        What ``Family.build`` needs besides the name.
    """

    name: str
    weights: str
    preprocess: Preprocess
    licence: str | None
    sizes: ImageSizes
    fetch: Callable[[], StateDict] | None = None
    heads: tuple[str, ...] = ()
    convert: Callable[[StateDict, nn.Module], StateDict] | None = None
    arguments: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Three functions that list, describe and build the networks of one origin.

    To add a family, write the three functions and add one entry to ``registry.FAMILIES``. Its
    networks are then named "KEY/NAME", or "KEY" alone for a network named like its family.

    Attributes
    ----------
    names : callable
        ``names()`` returns the list of the networks' names, without the family's key.
    record : callable
        ``record(name, weights)`` returns the ``Record`` for "default", "none" (random weights) or
        another label that the family knows. It downloads nothing. It raises ``WeightsError`` if
        there are no such weights.
    build : callable
        ``build(name, arguments, image_size)`` returns the network with random weights and without
        its classifier: an ``nn.Module`` that maps (N, 3, S, S) float32 to (N, n_features). It reads
        no file and downloads nothing. ``image_size`` (pixels, None for the network's own) matters
        only to networks of a fixed size. It raises ``BackboneError`` for unknown arguments.

    Examples
    --------
    >>> from torch import nn
    >>> from regraft.backbones import registry
    >>> from regraft.backbones.backbone import ImageSizes
    >>> from regraft.images.render import Preprocess
    >>> def record(name, weights):
    ...     grey = (0.5, 0.5, 0.5)
    ...     preprocess = Preprocess(32, 32, mean=grey, std=grey, interpolation="bilinear")
    ...     return Record(name, "none", preprocess, licence=None, sizes=ImageSizes())
    >>> def build(name, arguments, image_size):
    ...     layers = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ...     return nn.Sequential(*layers)
    >>> registry.FAMILIES["tiny"] = Family(lambda: ["conv"], record, build)
    >>> registry.load_backbone("tiny/conv").n_features
    8
    >>> del registry.FAMILIES["tiny"]
    """

    names: Callable[[], list[str]]
    record: Callable[[str, str], Record]
    build: Callable[[str, Mapping[str, Scalar], int | None], nn.Module]
