"""torchvision, also beside a torch that its compiled extension was not built for.

The registry's torchvision is built for CUDA. Beside a CPU-only torch its extension cannot be
loaded, and its import dies with ``operator torchvision::nms does not exist`` (pytorch issues
122494 and 157648): it registers shape functions for operators that the extension would have
declared. Declaring their schemas is enough for models, transforms and timm; ``torchvision.io``
and the detection operators stay unavailable. Everything in regraft imports torchvision from here,
and takes timm, which imports torchvision itself, through ``load_timm``.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from types import ModuleType

# A torch.library.Library withdraws its declarations when it is collected.
_declarations: list[torch.library.Library] = []


def _import_torchvision() -> ModuleType:
    # Trying first, not guessing: where the extension does load, declaring its operators before it
    # does would break a sound installation. The failing import ends after 0.03 s, at its second
    # module, and leaves nothing registered.
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _declarations.append(library)
    return importlib.import_module("torchvision")


torchvision = _import_torchvision()


def extension_loaded() -> bool:
    """Whether torchvision's compiled operators are there; without them the shim stands in.

    Returns
    -------
    bool
        False beside a torch that the extension was not built for.
    """
    return hasattr(torch.ops.torchvision, "roi_align")


def load_timm() -> ModuleType:
    """Import timm behind the shim, when it is first needed.

    Returns
    -------
    ModuleType
        timm itself.

    Examples
    --------
    >>> load_timm().__name__
    'timm'
    """
    return importlib.import_module("timm")


def load_functional() -> ModuleType:
    """Import the functional kernels of torchvision's transforms v2, when they are first needed.

    Returns
    -------
    ModuleType
        torchvision.transforms.v2.functional.

    Examples
    --------
    >>> load_functional().__name__
    'torchvision.transforms.v2.functional'
    """
    return importlib.import_module("torchvision.transforms.v2.functional")
