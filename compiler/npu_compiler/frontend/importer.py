"""The float graph under construction, the table of operators, and what their functions share."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from npu_compiler.frontend.infer import sizes
from npu_compiler.graph.ir import ANEW, Node, Shape, TensorQuant, unique

Constants = dict[str, NDArray[Any]]
Order = tuple[int, int, int]

CHW: Order = (0, 1, 2)
HWC: Order = (1, 2, 0)
AXIS_NAMES = "CHW"
MAX_CHANNELS = 1 << 20  # far beyond every machine: what is larger is damage, and lists of channels must fit memory
OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}  # of the weights; of Gemm with transB 0
MAX_VALUES = 1 << 31  # of a tensor of one image


class Refused(Exception):  # noqa: N818  collected into one UnsupportedError
    """The node asks for something that is not supported; the text says what."""


@dataclass(frozen=True)
class Value:
    """What an ONNX value is: a tensor of the graph, maybe with its axes in another order, maybe flattened to a vector.

    Attributes:
        order: the tensor's axis (0 channels, 1 height, 2 width) at each place of the value, the batch left out.
        flat: the axes are joined to one, in that order.
    """

    tensor: str
    flat: bool = False
    order: Order = CHW


@dataclass(frozen=True)
class Steps:
    """What the integers that a QuantizeLinear makes stand for: (integer - zero) * scale, low..high steps of it."""

    scale: float
    zero: int
    low: int
    high: int

    @property
    def range(self) -> tuple[float, int, int]:
        """The scale, and the least and largest multiple of it."""
        return self.scale, self.low, self.high


class Importer:
    """The graph under construction.

    Args:
        input_name: the image.
        shape: its (channels, height, width).
        order: order of its axes in the ONNX model.
        batch: its fixed number of images, or 1.
        names: names of nodes and values of the ONNX model, not to be given to anything else.
        plain: values that are read other than by QuantizeLinear.
        requantize: quantization of activations is dropped.
    """

    def __init__(
        self,
        input_name: str,
        shape: Shape,
        order: Order,
        batch: int,
        names: Iterable[str],
        plain: set[str],
        *,
        requantize: bool,
    ) -> None:
        self.input = input_name
        self.batch = batch
        self.shapes: dict[str, Shape] = {input_name: shape}
        self.nodes: list[Node] = []
        self.quant: dict[str, TensorQuant] = {}
        self.plain = plain
        self.requantize = requantize
        self.assumed: set[str] = set()  # outputs of refused nodes that stand for tensors
        self.lost: set[str] = set()  # outputs of refused nodes that do not, and what is computed from them
        self.types: dict[str, onnx.TypeProto] = {}  # of outputs of refused nodes, where known
        self._values: dict[str, Value] = {input_name: Value(input_name, order=order)}
        self._node_names, self._tensor_names = set(names), set(names)
        self.integers: set[str] = set()  # outputs of QuantizeLinear
        self.quantized: dict[str, tuple[str, Steps]] = {}  # output of QuantizeLinear: the value that it quantizes
        self.rounded: set[str] = set()  # outputs of DequantizeLinear, and other names of them
        self.weights: dict[str, tuple[NDArray[np.float32], NDArray[np.float32] | None]] = {}  # dequantized constants
        self.axes: dict[str, int] = {}  # of dequantized constants with several scales
        self.unkept: dict[str, str] = {}  # dequantized constants that cannot be weights, and why

    def value(self, name: str) -> Value:
        """Return what an ONNX value stands for."""
        if name not in self._values:
            raise Refused(f"input {name!r} is a constant or not computed from the image")
        return self._values[name]

    def assume(self, name: str, found: onnx.TypeProto | None) -> None:
        """Let a refused node's output stand for a tensor, so that the nodes that read it are judged as well.

        Args:
            name: the output.
            found: its type, its sizes known; None if it is not known. Only images and vectors are judged further.
        """
        self.lost.add(name)
        shape = () if found is None else sizes(found) or ()
        if found is not None:
            self.types[name] = found
        if len(shape) in (2, 4) and min(shape) > 0:
            self.lost.remove(name)
            self.assumed.add(name)
            self.shapes[name] = (shape[1], 1, 1) if len(shape) == 2 else (shape[1], shape[2], shape[3])
            self._values[name] = Value(name, flat=len(shape) == 2)

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of an ONNX value, the batch included, or None if it is not known."""
        if name in self._values:
            return (self.batch, *self.full_shape(name))
        return sizes(self.types[name]) if name in self.types else None

    def known(self, name: str) -> bool:
        """Whether an ONNX value is computed from the image."""
        return name in self._values

    def image(self, name: str) -> str:
        """Return the tensor of a value that has the form of an image; a vector is an image of one pixel."""
        value = self.value(name)
        if value.flat and self.shapes[value.tensor][1:] != (1, 1):
            raise Refused("a flattened image can only go into Gemm, MatMul or element-wise operators")
        if value.order != CHW:
            axes = ", ".join(AXIS_NAMES[a] for a in value.order)
            raise Refused(f"its input has the axes (N, {axes}), needs (N, C, H, W): transpose it before")
        return value.tensor

    def full_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an ONNX value without the batch axis."""
        value = self.value(name)
        shape = tuple(self.shapes[value.tensor][a] for a in value.order)
        return (math.prod(shape),) if value.flat else shape

    def in_memory_order(self, value: Value) -> bool:
        """Whether the elements of a value follow each other as those of its tensor do: axes of size 1 do not count."""
        wide = [a for a in value.order if self.shapes[value.tensor][a] > 1]
        return wide == sorted(wide)

    def axis(self, name: str, axis: int) -> int:
        """Return the place of an axis of an ONNX value, negative ones counted from the end; 0 is the batch."""
        rank = 1 + len(self.full_shape(name))
        if not -rank <= axis < rank:
            raise Refused(f"axis {axis} of a value with {rank} axes")
        return axis % rank

    def same(self, node: onnx.NodeProto, source: str, *, flat: bool | None = None, order: Order | None = None) -> None:
        """Make the node's output another name of `source`, in the form given or in that of `source`."""
        value = self.value(source)
        made = Value(value.tensor, value.flat if flat is None else flat, value.order if order is None else order)
        if made.flat and self.in_memory_order(made):
            made = Value(made.tensor, flat=True)
        self._values[node.output[0]] = made
        if source in self.rounded:
            self.rounded.add(node.output[0])

    def emit(self, made: Node, shape: tuple[int, ...], *, flat: bool = False, order: Order = CHW) -> None:
        """Append a node; its output must have positive sizes, and not absurd ones."""
        if min(shape) < 1:
            raise Refused(f"the output would have shape {shape}")
        if too_large(shape):
            raise Refused(f"the output would have shape {shape}: too large")
        self.nodes.append(made)
        self.shapes[made.out] = (shape[0], shape[1], shape[2])
        self._values[made.out] = Value(made.out, flat, order)

    def identity(self, node: onnx.NodeProto) -> tuple[str, str, tuple[str, ...]]:
        """Return name, output and ONNX names for a graph node made from an ONNX node."""
        return node.name, node.output[0], (node.name,)

    def node_name(self, base: str) -> str:
        """Return a name for a node that the ONNX model does not have."""
        return unique(base, self._node_names)

    def tensor_name(self, base: str) -> str:
        """Return a name for a tensor that the ONNX model does not have."""
        return unique(base, self._tensor_names)


def too_large(shape: tuple[int, ...]) -> bool:
    """Whether a tensor (channels, height, width) is larger than any that can be meant."""
    return shape[0] > MAX_CHANNELS or math.prod(shape) > MAX_VALUES


Function = Callable[[Importer, onnx.NodeProto, Constants], None]
OPERATORS: dict[str, Function] = {}
ELEMENT_WISE: set[str] = set()


def operator(*names: str, element_wise: bool = False) -> Callable[[Function], Function]:
    """Register the function of one or more operators; element-wise ones take axes in every order."""

    def register(function: Function) -> Function:
        OPERATORS.update(dict.fromkeys(names, function))
        ELEMENT_WISE.update(names if element_wise else ())
        return function

    return register


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values."""
    found = {}
    for a in node.attribute:
        try:
            found[a.name] = helper.get_attribute_value(a)
        except ValueError:  # its type is none of ONNX
            raise Refused(f"attribute {a.name!r} cannot be read") from None
    return found


def text(attrs: Mapping[str, Any], name: str, default: str) -> str:
    """Return an attribute that is a word."""
    return bytes(attrs.get(name, default.encode())).decode("utf-8", "replace")


def constant(node: onnx.NodeProto, index: int, constants: Constants, what: str) -> NDArray[Any] | None:
    """Return a constant input, or None if it is left out."""
    if index >= len(node.input) or not node.input[index]:
        return None
    if node.input[index] not in constants:
        raise Refused(f"{what} must be constant")
    array = constants[node.input[index]]
    if array.dtype.kind in "OUSc":
        raise Refused(f"{what} must hold real numbers, not {array.dtype}")
    return array


def needed(node: onnx.NodeProto, index: int, constants: Constants, what: str) -> NDArray[Any]:
    """Return a constant input that must be there and hold values."""
    array = constant(node, index, constants, what)
    if array is None or not array.size:
        raise Refused(f"{what} must hold values")
    return array


def scalar(node: onnx.NodeProto, index: int, constants: Constants, what: str) -> float | None:
    """Return a constant input of one value, or None if it is left out."""
    array = constant(node, index, constants, what)
    if array is None:
        return None
    if array.size != 1:
        raise Refused(f"{what} must be one value, has shape {list(array.shape)}")
    return float(array.reshape(-1)[0])


def integers(node: onnx.NodeProto, index: int, constants: Constants, what: str) -> list[int] | None:
    """Return a constant input as integers, or None if it is left out."""
    array = constant(node, index, constants, what)
    if array is not None and array.dtype.kind not in "iu":
        raise Refused(f"{what} must be integers, not {array.dtype}")
    return None if array is None else [int(v) for v in array.reshape(-1)]


def weights_of(
    imp: Importer, node: onnx.NodeProto, index: int, constants: Constants, what: str
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None] | None:
    """Return a constant weight as float32, and its scale if a QDQ model gives one."""
    if index < len(node.input) and (name := node.input[index]) in imp.weights:
        if index == 1 and node.op_type in OUTPUT_AXES and not imp.requantize:
            _check_kept(imp, node, name)
        return imp.weights[name]
    array = constant(node, index, constants, what)
    if array is None:
        return None
    if not array.size:
        raise Refused(f"{what} must hold values")
    made = np.asarray(array, np.float32)
    if not np.isfinite(made).all():
        raise Refused(f"{what} holds values that are not finite")
    return made, None


def _check_kept(imp: Importer, node: onnx.NodeProto, name: str) -> None:
    """Refuse dequantized weights whose integers a layer cannot keep."""
    if name in imp.unkept:
        raise Refused(imp.unkept[name])
    axis = OUTPUT_AXES[node.op_type] - (node.op_type == "Gemm" and bool(attributes(node).get("transB", 0)))
    if imp.axes.get(name, axis) != axis:
        raise Refused(
            f"scales on axis {imp.axes[name]} of the weights, which is not that of the outputs, {axis}; {ANEW}"
        )


def pair(values: Any, name: str) -> tuple[int, int]:
    """Return an attribute that has a value of 1 or more for height and width."""
    if len(values) != 2:
        raise Refused(f"{name} {list(values)}: only two-dimensional windows are supported")
    if min(values) < 1:
        raise Refused(f"{name} {list(values)}: must be 1 or more")
    return int(values[0]), int(values[1])


def explicit_pads(attrs: Mapping[str, Any]) -> list[int]:
    """Return the attribute pads of a window: top, left, bottom, right."""
    pads = [int(p) for p in attrs.get("pads", (0,) * 4)]
    if len(pads) != 4 or min(pads) < 0:
        raise Refused(f"pads {pads}: needs four values of 0 or more")
    return pads


def window(
    attrs: Mapping[str, Any], kernel: tuple[int, int], shape: Shape
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Return stride, dilation, pads (top, left, bottom, right) and output size of a window, ceil_mode included.

    Output sizes are those of ONNX Conv and MaxPool (opset 11). With ceil_mode the padding grows at the end.
    """
    stride = pair(attrs.get("strides", (1, 1)), "strides")
    dilation = pair(attrs.get("dilations", (1, 1)), "dilations")
    auto = text(attrs, "auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Refused(f"auto_pad {auto!r} is unknown")
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        size = [-(-n // s) for n, s in zip(shape[1:], stride, strict=True)]
        total = [max((o - 1) * s + e - n, 0) for o, s, e, n in zip(size, stride, span, shape[1:], strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        begin, end = (less, more) if auto == "SAME_UPPER" else (more, less)
    else:
        pads = [0] * 4 if auto == "VALID" else explicit_pads(attrs)
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
