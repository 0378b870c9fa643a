"""ONNX operators of arithmetic: convolutions, matrices, normalization, activations, sums and pools.

A function takes the importer, the ONNX node and the constants by name; it raises `Refused` with the reason when it
cannot do exactly what the node says. Registered in `OPERATORS` by `@operator`.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from npu_compiler.frontend.importer import (
    Constants,
    Importer,
    Refused,
    attributes,
    constant,
    operator,
    pair,
    weights_of,
    window,
)
from npu_compiler.graph.ir import Act, Activation, Add, Affine, Clip, Concat, Conv, LeakyRelu, Pool


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
    _activation(imp, node, Clip(low=0.0))


@operator("Clip")
def _clip(imp: Importer, node: onnx.NodeProto, constants: Constants) -> None:
    low, high = (constant(node, i, constants, "a limit") for i in (1, 2))
    limits = (-np.inf if low is None else float(low.reshape(())), np.inf if high is None else float(high.reshape(())))
    if not limits[0] <= 0 <= limits[1]:
        raise Refused(f"limits {limits[0]}..{limits[1]} exclude 0, the value of padding")
    _activation(imp, node, Clip(*limits))


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
    _activation(imp, node, LeakyRelu(alpha))


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
    kernel, shape = pair(attrs["kernel_shape"], "kernel_shape"), imp.shapes[src]
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
