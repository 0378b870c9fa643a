"""The float graph under construction, the table of operators, and what their functions share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from npu_compiler.graph.ir import Node, Shape, TensorQuant

Constants = dict[str, NDArray[Any]]


class Refused(Exception):  # noqa: N818  collected into one UnsupportedError
    """The node asks for something that is not supported; the text says what."""


@dataclass(frozen=True)
class Value:
    """What an ONNX value is: a tensor of the graph, maybe flattened to a vector in (C, H, W) order."""

    tensor: str
    flat: bool = False


class Importer:
    """The graph under construction."""

    def __init__(self, name: str, input_name: str, shape: Shape, *, requantize: bool) -> None:
        self.name = name
        self.input = input_name
        self.shapes: dict[str, Shape] = {input_name: shape}
        self.nodes: list[Node] = []
        self.quant: dict[str, TensorQuant] = {}
        self.requantize = requantize
        self.assumed: set[str] = set()
        self._values: dict[str, Value] = {input_name: Value(input_name)}
        self.quantized: dict[str, tuple[str, float, bool]] = {}  # output of QuantizeLinear: value, scale, signed
        self.weights: dict[str, tuple[NDArray[np.float32], NDArray[np.float32] | None]] = {}  # dequantized constants

    def value(self, name: str) -> Value:
        """Return what an ONNX value stands for."""
        if name not in self._values:
            raise Refused(f"input {name!r} is a constant or not computed from the image")
        return self._values[name]

    def assume(self, name: str, shape: tuple[int, ...]) -> bool:
        """Let a refused node's output stand for a tensor, so that the nodes that read it are judged as well.

        Args:
            name: the output.
            shape: its shape without the batch axis, () if not known.

        Returns:
            whether the shape is that of an image or a vector.
        """
        if len(shape) not in (1, 3) or min(shape) < 1:
            return False
        self.assumed.add(name)
        self.shapes[name] = (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])
        self._values[name] = Value(name, flat=len(shape) == 1)
        return True

    def alias(self, name: str) -> str:
        """Return the tensor behind an ONNX value, or the name itself."""
        return self._values[name].tensor if name in self._values else name

    def known(self, name: str) -> bool:
        """Whether an ONNX value is computed from the image."""
        return name in self._values

    def image(self, name: str) -> str:
        """Return the tensor of a value that has the form of an image; a vector is an image of one pixel."""
        value = self.value(name)
        if value.flat and self.shapes[value.tensor][1:] != (1, 1):
            raise Refused("a flattened image can only go into Gemm, MatMul or element-wise operators")
        return value.tensor

    def full_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an ONNX value without the batch axis."""
        value = self._values[name]
        shape = self.shapes[value.tensor]
        return (int(np.prod(shape)),) if value.flat else shape

    def same(self, node: onnx.NodeProto, source: str, *, flat: bool | None = None) -> None:
        """Make the node's output another name of `source`."""
        value = self.value(source)
        self._values[node.output[0]] = value if flat is None else Value(value.tensor, flat)

    def emit(self, made: Node, shape: tuple[int, ...], *, flat: bool = False) -> None:
        """Append a node; its output must have positive sizes."""
        if min(shape) < 1:
            raise Refused(f"the output would have shape {shape}")
        self.nodes.append(made)
        self.shapes[made.out] = (shape[0], shape[1], shape[2])
        self._values[made.out] = Value(made.out, flat)

    def identity(self, node: onnx.NodeProto) -> tuple[str, str, tuple[str, ...]]:
        """Return name, output and ONNX names for a graph node made from an ONNX node."""
        name = node.name or node.output[0]
        return name, node.output[0], (name,)


Function = Callable[[Importer, onnx.NodeProto, Constants], None]
OPERATORS: dict[str, Function] = {}


def operator(*names: str) -> Callable[[Function], Function]:
    """Register the function of one or more operators."""

    def register(function: Function) -> Function:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def constant(node: onnx.NodeProto, index: int, constants: Constants, what: str) -> NDArray[Any] | None:
    """Return a constant input, or None if it is left out."""
    if index >= len(node.input) or not node.input[index]:
        return None
    if node.input[index] not in constants:
        raise Refused(f"{what} must be constant")
    return constants[node.input[index]]


def weights_of(
    imp: Importer, node: onnx.NodeProto, index: int, constants: Constants, what: str
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None] | None:
    """Return a constant weight as float32, and its scale if a QDQ model gives one."""
    if index < len(node.input) and node.input[index] in imp.weights:
        return imp.weights[node.input[index]]
    array = constant(node, index, constants, what)
    return None if array is None else (np.asarray(array, np.float32), None)


def pair(values: Any, name: str) -> tuple[int, int]:
    """Return an attribute that has a value for height and width."""
    if len(values) != 2:
        raise Refused(f"{name} {list(values)}: only two-dimensional windows are supported")
    return int(values[0]), int(values[1])


def window(
    attrs: Mapping[str, Any], kernel: tuple[int, int], shape: Shape
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Return stride, dilation, pads (top, left, bottom, right) and output size of a window, ceil_mode included.

    Output sizes are those of ONNX Conv and MaxPool (opset 11). With ceil_mode the padding grows at the end.
    """
    stride = pair(attrs.get("strides", (1, 1)), "strides")
    dilation = pair(attrs.get("dilations", (1, 1)), "dilations")
    auto = attrs.get("auto_pad", b"NOTSET").decode()
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        size = [-(-n // s) for n, s in zip(shape[1:], stride, strict=True)]
        total = [max((o - 1) * s + e - n, 0) for o, s, e, n in zip(size, stride, span, shape[1:], strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        begin, end = (less, more) if auto == "SAME_UPPER" else (more, less)
    else:
        pads = [0] * 4 if auto == "VALID" else [int(p) for p in attrs.get("pads", (0,) * 4)]
        begin, end = pads[:2], pads[2:]
        room = [n + b + e - s for n, b, e, s in zip(shape[1:], begin, end, span, strict=True)]
        if min(room) < 0:
            raise Refused(f"the window {span[0]}x{span[1]} is larger than the padded image")
        size = [r // s + 1 for r, s in zip(room, stride, strict=True)]
        if attrs.get("ceil_mode", 0):
            for axis in (0, 1):
                more_out = -(-room[axis] // stride[axis]) + 1
                # a window must not start beyond the image and its leading padding (ONNX MaxPool, opset 19)
                if more_out > size[axis] and (more_out - 1) * stride[axis] < shape[1 + axis] + begin[axis]:
                    end[axis] += (more_out - 1) * stride[axis] - room[axis]
                    size[axis] = more_out
    return stride, dilation, (begin[0], begin[1], end[0], end[1]), (size[0], size[1])
