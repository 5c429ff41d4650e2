"""Resizing inside the graph: decoded pixels of any size in, for programs that resize otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import ConfigError
from regraft.exports.onnx_file import OPSET, input_name

if TYPE_CHECKING:
    from regraft.images.render import Preprocess
    from regraft.model import Model

IMAGE = "image"  # the input: (H, W, 3) uint8
_MAX_ASPECT = 4  # as in ``regraft.images.render``


def with_resize(proto: Any, model: Model) -> Any:
    """Return a graph that takes one decoded image (H, W, 3) uint8, and gives what ``proto`` does.

    ONNX's Resize works in other integers than torch's: squares differ by up to 2 of 255.

    Raises
    ------
    ConfigError
        The model has views, which are no plain resizing.
    """
    import onnx.compose  # noqa: PLC0415 - an extra

    if any(network.preprocess.views for network in model.networks):
        raise ConfigError(
            "views cannot be rendered inside the graph",
            hint="leave out with_resize, or train without `tta`",
        )
    for index, network in enumerate(model.networks):
        front = _front(network.preprocess, index)
        prefix = f"resize-{index + 1}/"
        front = onnx.compose.add_prefix(front, prefix, rename_inputs=False, rename_outputs=False)
        front.ir_version = proto.ir_version
        proto = onnx.compose.merge_models(
            front, proto, [(_square(index), input_name(index))], inputs=None
        )
    _join_inputs(proto)
    return proto


def _square(index: int) -> str:
    return f"square-{index + 1}"


def _image(index: int) -> str:
    return IMAGE if index == 0 else f"{IMAGE}-{index + 1}"


def _join_inputs(proto: Any) -> None:
    """Let all networks read one input."""
    names = [each.name for each in proto.graph.input]
    for node in proto.graph.node:
        node.input[:] = [IMAGE if each in names else each for each in node.input]
    kept = [each for each in proto.graph.input if each.name == IMAGE]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


class _Writer:
    """Nodes and constants of a small graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def put(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add an operation; numbers and lists among the inputs become int64 constants."""
        from onnx import helper  # noqa: PLC0415 - an extra

        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        name = f"{kind.lower()}-{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return name

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper  # noqa: PLC0415 - an extra

        array = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        name = f"constant-{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def rounded_half(self, length: str) -> str:
        """Return half of a whole number, rounded as Python rounds: to even."""
        half = self.put("Mul", self.put("Cast", length, to=1), np.array([0.5], np.float32))
        return self.put("Cast", self.put("Round", half), to=7)


def _front(look: Preprocess, index: int) -> Any:
    """Return the graph from an image (H, W, 3) to the square (1, 3, S, S) of one network."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - an extra

    write, image = _Writer(), _image(index)
    shape = write.put("Shape", image)
    sides = write.put("Slice", shape, [0], [2])  # height and width
    short = write.put("ReduceMin", sides, keepdims=1)
    # A long side of more than four short ones is cut to its middle, equally on both sides.
    excess = write.put("Sub", sides, write.put("Mul", short, [_MAX_ASPECT]))
    margin = write.put("Div", write.put("Max", excess, [0, 0]), [2])
    cut = write.put("Slice", image, margin, write.put("Sub", sides, margin), [0, 1])
    planes = write.put("Unsqueeze", write.put("Transpose", cut, perm=[2, 0, 1]), [0])
    sides = write.put("Slice", write.put("Shape", planes), [2], [4])
    short = write.put("ReduceMin", sides, keepdims=1)
    size = write.put("Div", write.put("Mul", sides, [look.resize_size]), short)
    target = write.put("Concat", [1, 3], size, axis=0)
    cubic = look.interpolation == "bicubic"
    resized = write.put(
        "Resize",
        planes,
        "",
        "",
        target,
        mode="cubic" if cubic else "linear",
        antialias=1,
        coordinate_transformation_mode="half_pixel",
        exclude_outside=1,
        **({"cubic_coeff_a": -0.5} if cubic else {}),
    )
    side = look.image_size
    top_left = write.rounded_half(write.put("Sub", size, [side, side]))
    axes = write.put("Add", [2, 3], [0, 0])
    write.nodes.append(
        helper.make_node(
            "Slice",
            [resized, top_left, write.put("Add", top_left, [side, side]), axes],
            [_square(index)],
        )
    )
    graph = helper.make_graph(
        write.nodes,
        f"resize-{index + 1}",
        [helper.make_tensor_value_info(image, TensorProto.UINT8, ["H", "W", 3])],
        [helper.make_tensor_value_info(_square(index), TensorProto.UINT8, [1, 3, side, side])],
        write.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
