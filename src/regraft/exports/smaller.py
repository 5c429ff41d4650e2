"""Smaller files: weights as float16 or as integers of 8 bits; the arithmetic stays float32.

The weights become ``Cast`` (and for integers ``Mul``) of what is stored: a runtime computes these
once, when it loads the file. ``DequantizeLinear`` would be computed again at each image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.exports.options import Weights

_SMALLEST = 1024  # values of a tensor; smaller ones are left alone
_LARGEST_HALF = float(np.finfo(np.float16).max)


def with_weights(proto: Any, weights: Weights) -> Any:
    """Return a copy of a model in which large weights are stored in another type.

    "float16" stores every large table of float32 in half; "int8" those of 1x1 convolutions and of
    linear layers, with a scale for each output, and other large ones as float16. What decides with
    features and probabilities stays as it is.
    """
    import onnx  # noqa: PLC0415 - an extra

    small = onnx.ModelProto()
    small.CopyFrom(proto)
    if weights == "float32":
        return small
    uses = _uses(small)
    added: list[Any] = []
    kept: list[Any] = []
    for tensor in small.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        axis = _output_axis(array, uses.get(tensor.name, [])) if weights == "int8" else None
        if not _is_weight(tensor.name, array):
            kept.append(tensor)
        elif axis is None:
            kept.append(_stored(tensor.name, array.astype(np.float16), added))
        else:
            kept += _as_integers(tensor.name, array, axis, added)
    del small.graph.initializer[:]
    small.graph.initializer.extend(kept)
    nodes = [*added, *small.graph.node]
    del small.graph.node[:]
    small.graph.node.extend(nodes)
    return small


def _is_weight(name: str, array: NDArray[Any]) -> bool:
    """Return whether a tensor is a large table of weights that float16 can hold."""
    large = array.dtype == np.float32 and array.ndim > 1 and array.size >= _SMALLEST
    return large and ".policy." not in name and bool(np.abs(array).max() <= _LARGEST_HALF)


def _uses(proto: Any) -> dict[str, list[tuple[Any, int]]]:
    """Return for each tensor the nodes that read it, and as which of their inputs."""
    uses: dict[str, list[tuple[Any, int]]] = {}
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            uses.setdefault(name, []).append((node, place))
    return uses


def _output_axis(array: NDArray[Any], uses: list[tuple[Any, int]]) -> int | None:
    """Return the axis of outputs of a weight of 1x1 convolutions or linear layers; else None."""
    axes = {_axis_of(array, node, place) for node, place in uses}
    return axes.pop() if len(axes) == 1 else None


def _axis_of(array: NDArray[Any], node: Any, place: int) -> int | None:
    if place != 1:
        return None
    if node.op_type == "Conv":
        return 0 if array.ndim == 4 and array.shape[2:] == (1, 1) else None
    if node.op_type == "Gemm":
        turned = any(each.name == "transB" and each.i for each in node.attribute)
        return 0 if turned else 1
    return 1 if node.op_type == "MatMul" and array.ndim == 2 else None


def _stored(name: str, array: NDArray[Any], added: list[Any]) -> Any:
    """Return the tensor that is stored for a weight, and add the node that casts it."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - an extra

    added.append(helper.make_node("Cast", [f"{name}.stored"], [name], to=TensorProto.FLOAT))
    return numpy_helper.from_array(array, f"{name}.stored")


def _as_integers(
    name: str, array: NDArray[np.float32], axis: int, added: list[Any]
) -> tuple[Any, Any]:
    """Return whole numbers and their scales, a scale for each output; add the nodes to multiply."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - an extra

    others = tuple(k for k in range(array.ndim) if k != axis)
    scale = np.abs(array).max(axis=others, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    integers = np.rint(array / scale).astype(np.int8)
    added.append(
        helper.make_node("Cast", [f"{name}.stored"], [f"{name}.whole"], to=TensorProto.FLOAT)
    )
    added.append(helper.make_node("Mul", [f"{name}.whole", f"{name}.scale"], [name]))
    return (
        numpy_helper.from_array(integers, f"{name}.stored"),
        numpy_helper.from_array(scale, f"{name}.scale"),
    )
