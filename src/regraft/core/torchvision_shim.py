"""Imports torchvision, also with a torch that its compiled extension was not built for.

The torchvision of PyPI is built for CUDA. With a torch for CPUs its extension cannot be loaded, and
its import fails with ``operator torchvision::nms does not exist`` (pytorch issues 122494 and
157648): it registers shape functions for operators that the extension should have declared.
Declaring their schemas is enough for models, transforms and timm; ``torchvision.io`` and the
detection operators stay unavailable. All modules of regraft import torchvision from here, and timm,
which imports torchvision itself, by ``load_timm``.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from types import ModuleType

# The declarations of a torch.library.Library end when it is garbage-collected.
_declarations: list[torch.library.Library] = []


def _import_torchvision() -> ModuleType:
    # Import first: if the extension can be loaded, declaring its operators before that breaks it.
    # A failing import ends after 0.03 s, at its second module, and leaves nothing registered.
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
    """Return whether torchvision's compiled operators are loaded."""
    return hasattr(torch.ops.torchvision, "roi_align")


def load_timm() -> ModuleType:
    """Import timm, after torchvision, when it is first needed."""
    return importlib.import_module("timm")


def load_functional() -> ModuleType:
    """Import the functions of torchvision.transforms.v2, when they are first needed."""
    return importlib.import_module("torchvision.transforms.v2.functional")
