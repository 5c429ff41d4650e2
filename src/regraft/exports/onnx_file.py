"""The graph of a model as an ONNX file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regraft.core.version import __version__
from regraft.errors import ExportError, MissingExtraError
from regraft.exports.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterator

    from regraft.decision.policy import Rules
    from regraft.model import Model

OPSET = 18  # the first with antialiased resizing; every runtime of the last years has it
_LARGEST_BATCH = 4096


def require_onnx() -> Any:
    """Return the package onnx; raise MissingExtraError where something that writes files is not."""
    try:
        import onnx  # noqa: PLC0415 - an extra
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export", "an export") from None
    return onnx


def input_name(index: int) -> str:
    """Return the name of the input with the images for a network, by its index from 0."""
    return f"pixels-{index + 1}"


class _InOrder(nn.Module):
    """A graph whose results are a tuple, as exporters want it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.classifier = graph  # "graph" is a name of torch.export

    def forward(self, *pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.classifier(*pixels).values())


def make_onnx(model: Model, rules: Rules | None) -> Any:
    """Return a model with its decisions as an ``onnx.ModelProto``, in float32.

    Parameters
    ----------
    model : Model
        Networks, head and temperature.
    rules : Rules, optional
        Thresholds of the decisions, which become constants of the graph.

    Returns
    -------
    onnx.ModelProto
        Inputs ``pixels-1`` and so on, each (N, 3, S, S) uint8, or (N, V, 3, S, S) with V views;
        outputs as ``Graph.forward`` names them, ``probabilities`` first.

    Raises
    ------
    ExportError
        The network has operations that ONNX does not have.
    """
    require_onnx()
    flat = _InOrder(Graph(model, rules)).eval().requires_grad_(requires_grad=False)
    pixels = example_pixels(model)
    with torch.no_grad():  # also fills the caches that an exporter must not fill with its own
        names = list(flat.classifier(*pixels))
    batch = torch.export.Dim("N", min=1, max=_LARGEST_BATCH)
    same: Any = torch.export.Dim.DYNAMIC
    shapes = tuple({0: same if index else batch} for index in range(len(pixels)))
    try:
        with _quiet():
            program = torch.onnx.export(
                flat,
                pixels,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(shapes,),
                input_names=[input_name(index) for index in range(len(pixels))],
                output_names=names,
                verbose=False,
            )
    except Exception as error:
        what = " + ".join(network.name for network in model.networks)
        reason = str(error.__cause__ or error).strip().partition("\n")[0][:300]
        raise ExportError(
            f"{what} cannot be written as ONNX: {reason}",
            hint="regraft predict and the bundle answer as before; another network may be exported",
        ) from error
    if program is None:
        raise ExportError("torch wrote no ONNX program")
    proto = program.model_proto
    describe(proto, model)
    return proto


def example_pixels(model: Model) -> tuple[Tensor, ...]:
    """Return two images of noise for each network, (2, 3, S, S) or (2, V, 3, S, S) uint8."""
    generator = torch.Generator().manual_seed(0)
    looks = [network.preprocess for network in model.networks]
    shapes = [
        (2, *((1 + look.views,) if look.views else ()), 3, look.image_size, look.image_size)
        for look in looks
    ]
    return tuple(
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for shape in shapes
    )


def describe(proto: Any, model: Model) -> None:
    """Write into a file's metadata what a reader without regraft needs to know.

    ``names``, ``imgsz``, ``task``, ``batch`` and ``stride`` are the keys that readers of
    Ultralytics' files look for, in their form.
    """
    side = model.backbone.preprocess.image_size
    texts = {
        "description": f"image classifier by regraft {__version__}",
        "task": "classify",
        "names": str(dict(enumerate(model.classes))),
        "imgsz": str([side, side]),
        "batch": "1",
        "stride": "1",
        "regraft": json.dumps(
            {
                "version": __version__,
                "classes": list(model.classes),
                "networks": [
                    {"name": each.name, "licence": each.licence, **each.preprocess.recorded()}
                    for each in model.networks
                ],
                "input": "uint8 pixels, resized and cropped as in preprocess.py",
            },
            ensure_ascii=False,
        ),
    }
    del proto.metadata_props[:]
    for key, text in texts.items():
        proto.metadata_props.add(key=key, value=text)
    proto.producer_name, proto.producer_version = "regraft", __version__
    for node in proto.graph.node:  # where it stood in torch: ten times the text of the graph
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from writing about itself; what it cannot do, it raises."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            # torch warns of its own use of its own tree classes; nobody outside can change that.
            warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
            yield
    finally:
        logger.setLevel(before)
