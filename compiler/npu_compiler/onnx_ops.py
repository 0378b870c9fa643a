"""One function per ONNX operator: from a node to nodes of the float graph.

A function takes the importer, the ONNX node and the constants by name; it raises `Refused` with the reason when it
cannot do exactly what the node says. Registered in `OPERATORS` by `@operator`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from npu_compiler.graph import (
    Act,
    Activation,
    Add,
    Affine,
    Channels,
    Concat,
    Conv,
    Crop,
    Node,
    Pool,
    Shape,
    TensorQuant,
)

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
        self._values: dict[str, Value] = {input_name: Value(input_name)}
        self.quantized: dict[str, tuple[str, float, bool]] = {}  # output of QuantizeLinear: value, scale, signed
        self.weights: dict[str, tuple[NDArray[np.float32], NDArray[np.float32] | None]] = {}  # dequantized constants

    def value(self, name: str) -> Value:
        """Return what an ONNX value stands for."""
        if name not in self._values:
            raise Refused(f"input {name!r} is a constant or not computed from the image")
        return self._values[name]

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


def _pair(values: Any, name: str) -> tuple[int, int]:
    if len(values) != 2:
        raise Refused(f"{name} {list(values)}: only two-dimensional windows are supported")
    return int(values[0]), int(values[1])


def window(
    attrs: Mapping[str, Any], kernel: tuple[int, int], shape: Shape
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Return stride, dilation, pads (top, left, bottom, right) and output size of a window, ceil_mode included.

    Output sizes are those of ONNX Conv and MaxPool (opset 11). With ceil_mode the padding grows at the end.
    """
    stride = _pair(attrs.get("strides", (1, 1)), "strides")
    dilation = _pair(attrs.get("dilations", (1, 1)), "dilations")
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


@operator("Conv")
def _conv(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    found = weights_of(imp, node, 1, constants, "the weight")
    assert found is not None
    weight, scale = found
    if weight.ndim != 4:
        raise Refused(f"weight of shape {list(weight.shape)}: only two-dimensional convolutions are supported")
    bias = weights_of(imp, node, 2, constants, "the bias")
    groups, shape = int(attrs.get("group", 1)), imp.shapes[src]
    if weight.shape[1] * groups != shape[0]:
        raise Refused(f"weight wants {weight.shape[1] * groups} channels, its input has {shape[0]}")
    stride, dilation, pads, size = window(attrs, (weight.shape[2], weight.shape[3]), shape)
    made = Conv(
        *imp.identity(node),
        src,
        weight,
        np.zeros(len(weight), np.float32) if bias is None else bias[0].reshape(-1),
        stride,
        pads,
        dilation,
        groups,
        weight_scale=None if scale is None else np.broadcast_to(scale, (len(weight),)).astype(np.float32),
    )
    imp.emit(made, (len(weight), *size))


@operator("Gemm")
def _gemm(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    if attrs.get("transA", 0):
        raise Refused("transA is not supported")
    found = weights_of(imp, node, 1, constants, "the right side")
    assert found is not None
    weight, scale = found
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    if alpha != 1.0:
        weight, scale = weight * np.float32(alpha), None if scale is None else scale * np.float32(abs(alpha))
    bias = weights_of(imp, node, 2, constants, "the bias")
    shift = None if bias is None else bias[0] * np.float32(beta)
    _matrix(imp, node, weight if attrs.get("transB", 0) else weight.T, shift, scale)


@operator("MatMul")
def _matmul(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    found = weights_of(imp, node, 1, constants, "the right side")
    assert found is not None
    if found[0].ndim != 2:
        raise Refused(f"right side of shape {list(found[0].shape)}: must be a matrix")
    _matrix(imp, node, found[0].T, None, found[1])


def _matrix(
    imp: Importer,
    node: onnx.NodeProto,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    scale: NDArray[np.float32] | None,
) -> None:
    """A product of a vector with a matrix (out, in): a convolution with the whole image as kernel."""
    value = imp.value(node.input[0])
    channels, height, width = imp.shapes[value.tensor]
    if (height, width) != (1, 1) and not value.flat:
        raise Refused("its input is an image: a matrix product needs a vector; put Flatten before it")
    if weight.shape[1] != channels * height * width:
        raise Refused(f"matrix wants {weight.shape[1]} values, its input has {channels * height * width}")
    kernel = np.ascontiguousarray(weight.reshape(len(weight), channels, height, width))
    shift = np.zeros(len(weight), np.float32)
    if bias is not None:
        shift = np.broadcast_to(bias.reshape(-1), (len(weight),)).astype(np.float32)
    wide = None if scale is None else np.broadcast_to(scale.reshape(-1), (len(weight),)).astype(np.float32)
    imp.emit(
        Conv(*imp.identity(node), value.tensor, kernel, shift, weight_scale=wide), (len(weight), 1, 1), flat=value.flat
    )


@operator("BatchNormalization")
def _batchnorm(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs = attributes(node)
    if attrs.get("training_mode", 0):
        raise Refused("training_mode is not supported; export the model for inference")
    gamma, beta, mean, var = (constant(node, i, constants, "statistics") for i in range(1, 5))
    assert gamma is not None
    assert beta is not None
    assert mean is not None
    assert var is not None
    scale = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + float(attrs.get("epsilon", 1e-5)))
    shift = beta - mean * scale
    _affine(imp, node, node.input[0], scale, shift)


def _affine(imp: Importer, node: onnx.NodeProto, name: str, scale: NDArray[Any], shift: NDArray[Any]) -> None:
    src = imp.image(name)
    shape = imp.shapes[src]
    factor, term = (np.broadcast_to(a, (shape[0],)).astype(np.float32) for a in (scale, shift))
    imp.emit(Affine(*imp.identity(node), src, factor, term), shape, flat=imp.value(name).flat)


def _activation(imp: Importer, node: onnx.NodeProto, act: Activation) -> None:
    value = imp.value(node.input[0])
    imp.emit(Act(*imp.identity(node), value.tensor, act), imp.shapes[value.tensor], flat=value.flat)


@operator("Relu")
def _relu(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    _activation(imp, node, Activation("clip", low=0.0))


@operator("Clip")
def _clip(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    low, high = (constant(node, i, constants, "a limit") for i in (1, 2))
    limits = (-np.inf if low is None else float(low.reshape(())), np.inf if high is None else float(high.reshape(())))
    if not limits[0] <= 0 <= limits[1]:
        raise Refused(f"limits {limits[0]}..{limits[1]} exclude 0, the value of padding")
    _activation(imp, node, Activation("clip", *limits))


@operator("LeakyRelu")
def _leaky(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    _leak(imp, node, float(attributes(node).get("alpha", 0.01)))


@operator("PRelu")
def _prelu(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    slope = constant(node, 1, constants, "the slope")
    assert slope is not None
    if np.unique(slope).size != 1:
        raise Refused("only one slope for all channels is supported")
    _leak(imp, node, float(slope.reshape(-1)[0]))


def _leak(imp: Importer, node: onnx.NodeProto, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise Refused(f"slope {alpha} is outside 0..1")
    _activation(imp, node, Activation("leaky", alpha=alpha))


@operator("Add", "Sub", "Mul", "Div")
def _arithmetic(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    a, b = node.input
    if imp.known(a) and imp.known(b):
        if node.op_type != "Add":
            raise Refused("only Add takes two computed tensors")
        left, right = imp.value(a), imp.value(b)
        shape = imp.shapes[left.tensor]
        if shape != imp.shapes[right.tensor] or left.flat != right.flat:
            raise Refused(f"shapes {shape} and {imp.shapes[right.tensor]} differ: broadcasting is not supported")
        imp.emit(Add(*imp.identity(node), left.tensor, right.tensor), shape, flat=left.flat)
        return
    name, other = (a, b) if imp.known(a) else (b, a)
    given = imp.weights[other][0] if other in imp.weights else constants.get(other)
    if given is None:
        raise Refused("one input must be a constant")
    factor, one = _per_channel(imp, name, given.astype(np.float64)), np.ones(1)
    flipped = name == b
    match node.op_type:
        case "Add":
            scale, shift = one, factor
        case "Sub":
            scale, shift = (-one, factor) if flipped else (one, -factor)
        case "Mul":
            scale, shift = factor, 0 * one
        case _ if flipped or not factor.all():
            raise Refused("Div needs a constant divisor without zeros")
        case _:
            scale, shift = 1 / factor, 0 * one
    _affine(imp, node, name, scale, shift)


def _per_channel(imp: Importer, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return a constant as one value or one per channel."""
    value = imp.value(name)
    channels = imp.shapes[imp.image(name)][0]
    axis = array.ndim - (1 if value.flat else 3)
    if array.size == 1:
        return array.reshape(1)
    if array.size == channels and axis >= 0 and array.shape[axis] == channels:
        return array.reshape(-1)
    raise Refused(f"a constant of shape {list(array.shape)} is neither one value nor one per channel")


@operator("Concat")
def _concat(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    axis = int(attributes(node).get("axis", 1))
    srcs = [imp.image(i) for i in node.input]
    flat = imp.value(node.input[0]).flat
    if axis not in (1, -1 if flat else -3):
        raise Refused(f"axis {axis}: only channels can be concatenated")
    shapes = [imp.shapes[s] for s in srcs]
    if any(s[1:] != shapes[0][1:] for s in shapes):
        raise Refused("the images differ in size")
    if len(srcs) == 1:
        imp.same(node, node.input[0])
        return
    imp.emit(Concat(*imp.identity(node), tuple(srcs)), (sum(s[0] for s in shapes), *shapes[0][1:]), flat=flat)


@operator("MaxPool", "AveragePool")
def _pool(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    if len(node.output) > 1:
        raise Refused("the second output (indices) is not supported")
    if attrs.get("storage_order", 0):
        raise Refused("storage_order is not supported")
    kernel, shape = _pair(attrs["kernel_shape"], "kernel_shape"), imp.shapes[src]
    stride, dilation, pads, size = window(attrs, kernel, shape)
    kind = "max" if node.op_type == "MaxPool" else "avg"
    if kind == "avg" and any(pads):
        explicit = [int(p) for p in attrs.get("pads", (0,) * 4)]
        if not attrs.get("count_include_pad", 0) or list(pads) != explicit:
            raise Refused(
                "an average over a window that reaches into the padding divides by a varying count; export it with "
                "count_include_pad=1, or without padding and ceil_mode"
            )
    imp.emit(
        Pool(*imp.identity(node), src, "max" if kind == "max" else "avg", kernel, stride, pads, dilation),
        (shape[0], *size),
    )


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src = imp.image(node.input[0])
    channels, height, width = imp.shapes[src]
    kind = "avg" if node.op_type == "GlobalAveragePool" else "max"
    imp.emit(Pool(*imp.identity(node), src, "avg" if kind == "avg" else "max", (height, width)), (channels, 1, 1))


@operator("ReduceMean", "ReduceMax")
def _reduce(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    axes = attrs.get("axes")
    if axes is None:
        given = constant(node, 1, constants, "axes")
        axes = None if given is None else given.reshape(-1).tolist()
    if axes is None or sorted(a % 4 for a in axes) != [2, 3]:
        raise Refused(f"axes {axes}: only the mean or maximum over height and width is supported")
    channels, height, width = imp.shapes[src]
    kind = "avg" if node.op_type == "ReduceMean" else "max"
    made = Pool(*imp.identity(node), src, "avg" if kind == "avg" else "max", (height, width))
    imp.emit(made, (channels, 1, 1), flat=not attrs.get("keepdims", 1))


@operator("Flatten")
def _flatten(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    rank = 1 + len(imp.full_shape(node.input[0]))
    if int(attributes(node).get("axis", 1)) % rank != 1:
        raise Refused("only axis=1 (everything but the batch) is supported")
    imp.same(node, node.input[0], flat=True)


@operator("Reshape")
def _reshape(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    target = constant(node, 1, constants, "the shape")
    assert target is not None
    shape = imp.full_shape(imp.value(node.input[0]).tensor)
    allow_zero = attributes(node).get("allowzero", 0)
    wanted = [
        (1, *imp.full_shape(node.input[0]))[i] if d == 0 and not allow_zero else int(d)
        for i, d in enumerate(target.reshape(-1).tolist())
    ]
    count = int(np.prod(shape))
    batch, rest = wanted[0], wanted[1:]
    if batch in (1, -1) and len(rest) == 1 and rest[0] in (count, -1):
        imp.same(node, node.input[0], flat=True)
    elif batch in (1, -1) and (
        tuple(rest) == shape
        or (rest.count(-1) == 1 and all(r in (-1, s) for r, s in zip(rest, shape, strict=False)) and len(rest) == 3)
    ):
        imp.same(node, node.input[0], flat=False)
    else:
        raise Refused(f"to {target.tolist()}: only flattening to (N, -1) is supported")


@operator("Squeeze", "Unsqueeze")
def _squeeze(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    axes = attributes(node).get("axes")
    if axes is None:
        given = constant(node, 1, constants, "axes")
        axes = None if given is None else given.reshape(-1).tolist()
    value = imp.value(node.input[0])
    if imp.shapes[value.tensor][1:] != (1, 1) or axes is None or sorted(a % 4 for a in axes) != [2, 3]:
        raise Refused("only the height and width of a one-pixel image can be dropped or added")
    imp.same(node, node.input[0], flat=node.op_type == "Squeeze")


@operator("Transpose")
def _transpose(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    perm = list(attributes(node).get("perm", ()))
    if perm != list(range(len(perm))) or not perm:
        raise Refused(f"perm {perm}: only the order (N, C, H, W) is supported")
    imp.same(node, node.input[0])


@operator("Identity", "Dropout", "Cast")
def _identity(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if node.op_type == "Cast" and attributes(node)["to"] != onnx.TensorProto.FLOAT:
        raise Refused("only a cast to float32 is supported")
    if node.op_type == "Dropout" and len(node.output) > 1 and node.output[1]:
        raise Refused("the mask output is not supported")
    imp.same(node, node.input[0])


@operator("Pad")
def _pad(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    mode = attrs.get("mode", b"constant").decode()
    value = constant(node, 2, constants, "the value")
    if mode != "constant" or (value is not None and value.size and float(value.reshape(-1)[0]) != 0.0):
        raise Refused("only padding with the constant 0 is supported")
    given = constant(node, 1, constants, "pads")
    assert given is not None
    axes_given = constant(node, 3, constants, "axes")
    axes = list(range(4)) if axes_given is None else [int(a) % 4 for a in axes_given.reshape(-1)]
    pads, n = given.reshape(-1).tolist(), len(axes)
    begin = {a: int(pads[i]) for i, a in enumerate(axes)}
    end = {a: int(pads[n + i]) for i, a in enumerate(axes)}
    if begin.get(0) or end.get(0):
        raise Refused("the batch axis cannot be padded")
    channels = imp.shapes[src][0]
    before, after = begin.get(1, 0), end.get(1, 0)
    source = [-1] * max(before, 0) + list(range(channels))[max(-before, 0) : channels - max(-after, 0)]
    source += [-1] * max(after, 0)
    space = (begin.get(2, 0), begin.get(3, 0), end.get(2, 0), end.get(3, 0))
    _crop_and_choose(imp, node, src, (1, 1), space, tuple(source))


def _crop_and_choose(
    imp: Importer,
    node: onnx.NodeProto,
    src: str,
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    source: tuple[int, ...],
) -> None:
    """Emit what is needed of a spatial crop and a choice of channels."""
    name, out, onnx_names = imp.identity(node)
    channels, height, width = imp.shapes[src]
    size = tuple(
        (n + b + e - 1) // s + 1 for n, b, e, s in zip((height, width), pads[:2], pads[2:], stride, strict=True)
    )
    choose, crop = source != tuple(range(channels)), any(pads) or stride != (1, 1)
    if not choose and not crop:
        imp.same(node, node.input[0])
        return
    if crop:
        middle = f"{out}.space" if choose else out
        imp.emit(Crop(f"{name}.space" if choose else name, middle, onnx_names, src, stride, pads), (channels, *size))
        src = middle
    if choose:
        imp.emit(Channels(name, out, onnx_names, src, source), (len(source), *imp.shapes[src][1:]))


@operator("Slice")
def _slice(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    src = imp.image(node.input[0])
    starts, ends = (constant(node, i, constants, "starts and ends") for i in (1, 2))
    assert starts is not None
    assert ends is not None
    axes, steps = constant(node, 3, constants, "axes"), constant(node, 4, constants, "steps")
    names = list(range(starts.size)) if axes is None else [int(a) % 4 for a in axes.reshape(-1)]
    jumps = [1] * starts.size if steps is None else [int(s) for s in steps.reshape(-1)]
    shape = (1, *imp.shapes[src])
    spans = [range(n) for n in shape]
    for axis, start, end, step in zip(names, starts.reshape(-1), ends.reshape(-1), jumps, strict=True):
        if step < 1:
            raise Refused("negative steps are not supported")
        if axis == 0:
            if int(start) != 0 or int(end) < (1 << 30) or step != 1:
                raise Refused("the batch axis cannot be sliced")
            continue
        spans[axis] = range(shape[axis])[int(start) : int(end) : step]
        if not len(spans[axis]):
            raise Refused("the slice is empty")
    rows, cols = spans[2], spans[3]
    pads = (-rows.start, -cols.start, rows[-1] + 1 - shape[2], cols[-1] + 1 - shape[3])
    _crop_and_choose(imp, node, src, (rows.step, cols.step), pads, tuple(spans[1]))


@operator("Split")
def _split(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    attrs, src = attributes(node), imp.image(node.input[0])
    if int(attrs.get("axis", 0)) not in (1, -3):
        raise Refused("only channels can be split")
    given = attrs.get("split")
    if given is None:
        array = constant(node, 1, constants, "split")
        given = None if array is None else array.reshape(-1).tolist()
    channels = imp.shapes[src][0]
    count = len(node.output)
    if given is None:
        part = -(-channels // count)
        given = [min(part, channels - i * part) for i in range(count)]
    first = 0
    for out, size in zip(node.output, given, strict=True):
        piece = onnx.NodeProto()
        piece.CopyFrom(node)
        del piece.output[:]
        piece.output.append(out)
        piece.name = f"{node.name or node.output[0]}.{out}"
        _crop_and_choose(imp, piece, src, (1, 1), (0, 0, 0, 0), tuple(range(first, first + int(size))))
        first += int(size)


@operator("QuantizeLinear")
def _quantize(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    scale, signed = _scale(node, constants)
    if scale.size != 1:
        raise Refused("activations need one scale for the tensor")
    imp.quantized[node.output[0]] = (node.input[0], float(scale.reshape(-1)[0]), signed)
    imp.same(node, node.input[0])


@operator("DequantizeLinear")
def _dequantize(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    if node.input[0] in constants:
        _dequantize_constant(imp, node, constants)
        return
    if node.input[0] not in imp.quantized:
        raise Refused("its input is neither constant nor made by QuantizeLinear")
    scale, signed = _scale(node, constants)
    source, given, _ = imp.quantized[node.input[0]]
    if scale.size != 1 or float(scale.reshape(-1)[0]) != given:
        raise Refused("QuantizeLinear and DequantizeLinear have different scales")
    tensor = imp.value(source).tensor
    fixed = TensorQuant(given, signed)
    if not imp.requantize and imp.quant.setdefault(tensor, fixed) != fixed:
        raise Refused("the tensor is quantized twice, with different scales")
    imp.same(node, source)


def _scale(node: onnx.NodeProto, constants: Constants) -> tuple[NDArray[Any], bool]:
    """Return the scale of a Q or DQ node and whether its integers are signed; the zero point must be 0."""
    scale, zero = (constant(node, i, constants, "scale and zero point") for i in (1, 2))
    assert scale is not None
    if zero is None:
        return scale, False
    if zero.dtype not in (np.int8, np.uint8, np.int32):
        raise Refused(f"{zero.dtype} integers are not supported")
    if zero.any():
        raise Refused(
            f"zero point {int(zero.reshape(-1)[0])}: only symmetric quantization is kept; compile with --requantize "
            "and calibration data to quantize anew"
        )
    return scale, zero.dtype != np.uint8


def _dequantize_constant(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    array = constants[node.input[0]]
    scale, zero = (constant(node, i, constants, "scale and zero point") for i in (1, 2))
    assert scale is not None
    axis = int(attributes(node).get("axis", 1)) % max(array.ndim, 1)
    wide = [1] * array.ndim
    if scale.size > 1:
        wide[axis] = scale.size
    offset = 0 if zero is None else zero.astype(np.int64).reshape(wide if zero.size > 1 else ())
    values = (array.astype(np.int64) - offset) * scale.astype(np.float64).reshape(wide if scale.size > 1 else ())
    kept: NDArray[np.float32] | None = scale.astype(np.float32).reshape(-1)
    if zero is not None and zero.any():
        if not imp.requantize:
            raise Refused("weights with a zero point other than 0; compile with --requantize and calibration data")
        kept = None
    if array.dtype != np.int8 or (scale.size > 1 and axis not in (0, 1)) or imp.requantize:
        kept = None
    if kept is not None and scale.size > 1 and axis == 1 and array.ndim != 2:
        kept = None
    imp.weights[node.output[0]] = (values.astype(np.float32), kept)
