"""The float graph under construction, the table of operators, and what their functions share."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from npu_compiler.frontend.infer import sizes
from npu_compiler.frontend.layout import Axes, image_axes, in_memory_order, size_of, whole
from npu_compiler.graph.ir import ANEW, Node, Shape, TensorQuant, unique

Constants = dict[str, NDArray[Any]]
Order = tuple[int, ...]
Step = tuple[str, str, tuple[str, ...]]  # name, output and ONNX names of a node of the graph

CHW: Order = (0, 1, 2)
HWC: Order = (1, 2, 0)
MAX_PARTS = 1024  # of an image that is put together, or taken apart
FEW_PARTS = 64  # of an image whose values are moved where the host could do that
MAX_CHANNELS = 1 << 20  # far beyond every machine: what is larger is damage, and lists of channels must fit memory
OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}  # of the weights; of Gemm with transB 0
MAX_VALUES = 1 << 31  # of a tensor of one image


class Refused(Exception):  # noqa: N818  collected into one UnsupportedError
    """The node asks for something that is not supported; the text says what."""


@dataclass(frozen=True)
class Value:
    """What an ONNX value is: the elements of a tensor of the graph, by axes of its own.

    Attributes:
        order: its axes, the batch left out, as parts of the tensor's axes.
    """

    tensor: str
    order: Axes

    @property
    def flat(self) -> bool:
        """Whether it is a vector."""
        return len(self.order) == 1


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
        most_parts: that an image may be cut into to move its values.
        softmax_opset: of the model, where the machine computes a Softmax; 0 where that is refused.
    """

    def __init__(
        self,
        input_name: str,
        shape: Shape,
        order: Order,
        batch: int,
        names: Iterable[str],
        plain: set[str],
        requantize: bool,
        most_parts: int = MAX_PARTS,
        softmax_opset: int = 0,
    ) -> None:
        self.input = input_name
        self.batch = batch
        self.shapes: dict[str, Shape] = {input_name: shape}
        self.nodes: list[Node] = []
        self.quant: dict[str, TensorQuant] = {}
        self.plain = plain
        self.requantize = requantize
        self.most_parts = most_parts
        self.softmax_opset = softmax_opset
        self.assumed: set[str] = set()  # outputs of refused nodes that stand for tensors
        self.lost: set[str] = set()  # outputs of refused nodes that do not, and what is computed from them
        self.types: dict[str, onnx.TypeProto] = {}  # of outputs of refused nodes, where known
        self.node = onnx.NodeProto()  # that is being imported
        self.arranged: dict[tuple[str, Axes], str] = {}  # tensors by what their elements are
        self._values = {input_name: Value(input_name, tuple(whole(a, shape[a]) for a in order))}
        self._node_names, self._tensor_names = set(names), set(names)
        self._steps: set[str] = set()  # tensors that the ONNX model does not have
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
        if len(shape) not in (2, 4) or min(shape) < 1:  # of three axes: where the channels are is not known
            return
        image = (shape[1], 1, 1) if len(shape) == 2 else (shape[1], shape[2], shape[3])
        if not too_large(image):
            self.lost.remove(name)
            self.assumed.add(name)
            self.shapes[name] = image
            self._values[name] = Value(name, image_axes(self.shapes[name], len(shape) - 1))

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of an ONNX value, the batch included, or None if it is not known."""
        if name in self._values:
            return (self.batch, *self.full_shape(name))
        return sizes(self.types[name]) if name in self.types else None

    def known(self, name: str) -> bool:
        """Whether an ONNX value is computed from the image."""
        return name in self._values

    def full_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an ONNX value without the batch axis."""
        return tuple(size_of(axis) for axis in self.value(name).order)

    def rank(self, name: str) -> int:
        """Return the number of axes of an ONNX value without the batch."""
        return len(self.value(name).order)

    def in_memory_order(self, value: Value) -> bool:
        """Whether the elements of a value follow each other as those of its tensor do."""
        return in_memory_order(value.order, self.shapes[value.tensor])

    def axis(self, name: str, axis: int) -> int:
        """Return the place of an axis of an ONNX value, negative ones counted from the end; 0 is the batch."""
        rank = 1 + self.rank(name)
        if not -rank <= axis < rank:
            raise Refused(f"axis {axis} of a value with {rank} axes")
        return axis % rank

    def same(self, node: onnx.NodeProto, source: str, order: Axes | None = None) -> None:
        """Make the node's output another name of `source`, with its axes or those given."""
        value = self.value(source)
        self._values[node.output[0]] = value if order is None else Value(value.tensor, order)
        if source in self.rounded:
            self.rounded.add(node.output[0])

    def view(self, base: str, source: str, order: Axes) -> str:
        """Return the name of a new value: the tensor of `source` by other axes."""
        name = self.tensor_name(base)
        self._values[name] = Value(self.value(source).tensor, order)
        return name

    def emit(self, made: Node, shape: tuple[int, ...], *, flat: bool = False, order: Axes | None = None) -> None:
        """Append a node that makes an ONNX value.

        Args:
            made: the node.
            shape: of its output: positive sizes, and not absurd ones.
            flat: the value is a vector.
            order: its axes; those of an image, or of a vector, if left out.
        """
        size = self._append(made, shape)
        self._values[made.out] = Value(made.out, image_axes(size, 1 if flat else 3) if order is None else order)

    def put(self, made: Node, shape: tuple[int, ...]) -> str:
        """Append a node on the way to the output of the ONNX node, and return its tensor."""
        self._append(made, shape)
        return made.out

    def _append(self, made: Node, shape: tuple[int, ...]) -> Shape:
        if min(shape) < 1:
            raise Refused(f"the output would have shape {shape}")
        if too_large(shape):
            raise Refused(f"the output would have shape {shape}: too large")
        self.nodes.append(made)
        size = self.shapes[made.out] = (shape[0], shape[1], shape[2])
        return size

    def step(self, word: str) -> Step:
        """Return name, output and ONNX names for a graph node on the way to the output of the ONNX node."""
        out = self.tensor_name(f"{next(filter(None, self.node.output), self.node.name)}.{word}")
        self._steps.add(out)
        return self.node_name(f"{self.node.name}.{word}"), out, (self.node.name,)

    def share(self, tensor: str) -> None:
        """Let a tensor keep its name: others may read it."""
        self._steps.discard(tensor)

    def finish(self, tensor: str, order: Axes, out: str = "") -> None:
        """Let a tensor be the output of the ONNX node: its first one, or `out`; a last step takes its name.

        Args:
            tensor: of the graph.
            order: axes of the ONNX value.
            out: name of the output.
        """
        out = out or self.node.output[0]
        if self.nodes and self.nodes[-1].out == tensor and tensor in self._steps:
            name = self.node.name if list(filter(None, self.node.output)) == [out] else self.nodes[-1].name
            self.nodes[-1] = replace(self.nodes[-1], name=name, out=out)
            self.shapes[out] = self.shapes.pop(tensor)
            tensor = out
        self._values[out] = Value(tensor, order)

    def identity(self, node: onnx.NodeProto) -> Step:
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
LIMITS: dict[str, str] = {}  # by operator: what of it is understood
REFUSALS: dict[str, str] = {}  # by operator: why there is no function of it


def operator(*names: str, element_wise: bool = False, limits: str = "") -> Callable[[Function], Function]:
    """Register the function of one or more operators.

    Args:
        names: of the operators.
        element_wise: they take axes in every order.
        limits: one line on what of them is understood; the first line of the module's docstring if left out.
    """

    def register(function: Function) -> Function:
        @functools.wraps(function)
        def imported(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
            imp.node = node
            function(imp, node, constants)

        OPERATORS.update(dict.fromkeys(names, imported))
        ELEMENT_WISE.update(names if element_wise else ())
        LIMITS.update(dict.fromkeys(names, limits or _first_line(function)))
        return imported

    return register


def check_operator(node: onnx.NodeProto) -> None:
    """Raise Refused if no function understands a node's operator."""
    if node.domain or node.op_type not in OPERATORS:
        raise Refused("operator not supported" if node.domain else REFUSALS.get(node.op_type, "operator not supported"))


def import_node(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    """Let the function of a node's operator import it; raise Refused if none does, or it cannot."""
    check_operator(node)
    with np.errstate(all="ignore"):  # what is not finite is found where it is used
        OPERATORS[node.op_type](imp, node, constants)


def _first_line(function: Function) -> str:
    module = inspect.getmodule(function)
    return ((module.__doc__ or "" if module else "").splitlines() or [""])[0].partition(": ")[2]


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


def needed_weights(
    imp: Importer, node: onnx.NodeProto, index: int, constants: Constants, what: str
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return a constant weight as `weights_of` does; it must be there."""
    found = weights_of(imp, node, index, constants, what)
    if found is None:
        raise Refused(f"{what} must be given")
    return found


def _check_kept(imp: Importer, node: onnx.NodeProto, name: str) -> None:
    """Refuse dequantized weights whose integers a layer cannot keep."""
    if name in imp.unkept:
        raise Refused(imp.unkept[name])
    axis = OUTPUT_AXES[node.op_type] - (node.op_type == "Gemm" and bool(attributes(node).get("transB", 0)))
    if imp.axes.get(name, axis) != axis:
        raise Refused(
            f"scales on axis {imp.axes[name]} of the weights, which is not that of the outputs, {axis}; {ANEW}"
        )
