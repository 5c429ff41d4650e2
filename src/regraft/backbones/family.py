"""What a family of networks answers, so that one loader serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regraft.backbones.backbone import ImageSizes, Scalar
    from regraft.images.render import Preprocess

#: Tensors by name.
State: TypeAlias = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Record:
    """What is known of a network with weights before anything is built or fetched.

    Attributes
    ----------
    name : str
        The name within the family, as ``Family.build`` takes it.
    weights : str
        Label of the weights.
    preprocess : Preprocess
        As the weights' own record says.
    licence : str or None
        Of the weights, where their record says anything.
    sizes : ImageSizes
        Which image sizes the network accepts.
    fetch : callable or None
        Returns the weights' tensors, the classifier's among them or not; None for random weights.
    heads : tuple of str
        Modules that weights may hold beyond the network: the classifier, an auxiliary head.
    convert : callable or None
        ``convert(state, module)`` renames tensors of an older layout, where the family knows how.
    arguments : dict of str to scalar
        What ``Family.build`` needs besides the name.
    """

    name: str
    weights: str
    preprocess: Preprocess
    licence: str | None
    sizes: ImageSizes
    fetch: Callable[[], State] | None = None
    heads: tuple[str, ...] = ()
    convert: Callable[[State, nn.Module], State] | None = None
    arguments: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Three functions; a new family is these and an entry in ``registry.FAMILIES``.

    Attributes
    ----------
    names : callable
        ``names()`` lists the networks, without the family's prefix.
    record : callable
        ``record(name, weights)`` looks weights up: "default", "none", or a name that the family
        gives its weights. WeightsError where they do not exist.
    build : callable
        ``build(name, arguments, image_size)`` makes the network without its classifier, with
        random weights; reads no file and fetches nothing. ``image_size`` matters to networks of
        fixed size only; None means their own.
    """

    names: Callable[[], list[str]]
    record: Callable[[str, str], Record]
    build: Callable[[str, Mapping[str, Scalar], int | None], nn.Module]
