"""torchvision's classification networks, without their classifiers."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from torch import nn

from regraft.backbones.backbone import ImageSizes
from regraft.backbones.downloads import fetch_url
from regraft.backbones.family import Family, Record
from regraft.core.text import listed
from regraft.core.torchvision_shim import torchvision
from regraft.errors import BackboneError, WeightsError
from regraft.images.render import Preprocess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regraft.backbones.backbone import Scalar
    from regraft.backbones.family import StateDict
    from regraft.images.render import Interpolation

#: By architecture (class name): the last layer, which is replaced by nn.Identity.
CLASSIFIERS: dict[str, str] = {
    "AlexNet": "classifier.6",
    "ConvNeXt": "classifier.2",
    "DenseNet": "classifier",
    "EfficientNet": "classifier.1",
    "GoogLeNet": "fc",
    "Inception3": "fc",
    "MNASNet": "classifier.1",
    "MaxVit": "classifier.5",
    "MobileNetV2": "classifier.1",
    "MobileNetV3": "classifier.3",
    "RegNet": "fc",
    "ResNet": "fc",
    "ShuffleNetV2": "fc",
    "SqueezeNet": "classifier.1",  # a 1 x 1 convolution; the ReLU and pooling after it stay
    "SwinTransformer": "head",
    "VGG": "classifier.6",
    "VisionTransformer": "heads.head",
}

#: These last layers, and the auxiliary classifiers that are used only in training.
_HEADS = (*sorted(set(CLASSIFIERS.values())), "AuxLogits", "aux1", "aux2")

# GoogLeNet and Inception v3 were converted from a framework with pixels from -1 to 1. Their records
# give ImageNet's mean and std; with transform_input the network converts those itself.
_INCEPTION: dict[str, Any] = {
    "transform_input": True, "aux_logits": False, "init_weights": False,
}  # fmt: skip


def _names() -> list[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _record(name: str, weights: str) -> Record:
    published = torchvision.models.get_model_weights(name)
    if weights in {"default", "none"}:
        entry = published.DEFAULT
    elif weights in published.__members__:
        entry = published[weights]
    else:
        known = listed([entry.name for entry in published])
        raise WeightsError(
            f"torchvision/{name} has no weights named {weights}",
            hint=f"it has {known}; or give default, none or a file",
        )
    preprocess = torchvision_preprocess(entry.transforms())
    if preprocess is None:
        raise WeightsError(f"torchvision/{name} does not say how its images are prepared")
    return Record(
        name=name,
        weights=entry.name,
        preprocess=preprocess,
        licence=entry.meta.get("license"),
        sizes=_sizes(name, entry.meta.get("min_size", (32, 32))[0]),
        fetch=None if weights == "none" else partial(fetch_url, entry.url),
        heads=_HEADS,
        convert=_convert_densenet if name.startswith("densenet") else None,
    )


def torchvision_preprocess(transform: Any) -> Preprocess | None:
    """Return the rendering that torchvision's weights describe; None for another object."""
    try:
        return Preprocess(
            image_size=transform.crop_size[0],
            resize_size=transform.resize_size[0],
            mean=tuple(transform.mean),
            std=tuple(transform.std),
            interpolation=_interpolation(transform.interpolation.value),
        )
    except (AttributeError, TypeError, LookupError):
        return None


def _interpolation(value: str) -> Interpolation:
    return "bicubic" if value == "bicubic" else "bilinear"


def _sizes(name: str, minimum: int) -> ImageSizes:
    if name.startswith(("vit_", "maxvit")):
        return ImageSizes(minimum=minimum, fixed=True)
    # Swin's records say 224, but the network pads its windows, so smaller images work too.
    return ImageSizes(minimum=32 if name.startswith("swin") else max(32, minimum))


def _convert_densenet(state: StateDict, _module: nn.Module) -> StateDict:
    """Rename tensors of the published files, which have old names: ``norm.1``, ``conv.2``."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): tensor
        for name, tensor in state.items()
    }


def _build(name: str, arguments: Mapping[str, Scalar], image_size: int | None) -> nn.Module:
    if arguments:
        raise BackboneError(f"torchvision/{name} takes no arguments: {listed(list(arguments))}")
    options: dict[str, Any] = {}
    if name in {"inception_v3", "googlenet"}:
        options = _INCEPTION
    elif name.startswith("vit_") and image_size is not None:
        options = {"image_size": image_size}
    elif name.startswith("maxvit") and image_size is not None:
        options = {"input_size": (image_size, image_size)}
    try:
        module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise BackboneError(f"torchvision/{name} at {image_size} pixels: {error}") from error
    parent, _, last = CLASSIFIERS[type(module).__name__].rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Identity())
    return module


FAMILY = Family(names=cache(_names), record=_record, build=_build)
